"""The task queues of whatever Django this is: its own, or the backport's."""

from __future__ import annotations

import importlib.util

PACKAGE = "django.tasks" if importlib.util.find_spec("django.tasks") else "django_tasks"


def backend(name, **options):
    """``settings.TASKS`` with one of the backends that come with the queues."""
    path = {"immediate": "immediate.ImmediateBackend", "dummy": "dummy.DummyBackend"}[name]
    return {"default": {"BACKEND": f"{PACKAGE}.backends.{path}", **options}}
