"""The host's app; its time slices are short, so that a drill has several."""

from __future__ import annotations

from django.apps import AppConfig

TIME_SLICE = 3.0  # seconds


class SupportConfig(AppConfig):
    """Shortens the time slices of tasks."""

    name = "tests.executors.support"

    def ready(self):
        """Set the time slice; this package cannot be imported before."""
        from osvi_django import executors  # noqa: PLC0415

        executors.TIME_SLICE = TIME_SLICE
