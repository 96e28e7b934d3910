"""The task queues of the installed Django: its own, or those of the backport."""

from __future__ import annotations

import importlib.util

PACKAGE = "django.tasks" if importlib.util.find_spec("django.tasks") else "django_tasks"


def backend(name, **options):
    """Return ``settings.TASKS`` for one of the backends that come with the queues."""
    path = {"immediate": "immediate.ImmediateBackend", "dummy": "dummy.DummyBackend"}[name]
    return {"default": {"BACKEND": f"{PACKAGE}.backends.{path}", **options}}
