"""The host's app; its turns are short, so that a drill has several."""

from __future__ import annotations

from django.apps import AppConfig

TIME_SLICE = 3.0  # seconds


class SupportConfig(AppConfig):
    """Shortens the turns of tasks."""

    name = "tests.executors.support"

    def ready(self):
        """Nothing of this package can be imported before."""
        from osvi_django import executors  # noqa: PLC0415

        executors.TIME_SLICE = TIME_SLICE
