"""The app's configuration."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register
from django.utils.translation import gettext_lazy as _

from osvi_django.checks import check_settings
from osvi_django.environment_checks import check_databases, check_spools, check_sqlite


class OSVIConfig(AppConfig):
    """Registers the system checks; nothing else happens at start-up."""

    name = "osvi_django"
    verbose_name = _("OSVI chats")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        for check in (check_settings, check_databases, check_spools, check_sqlite):
            register(check)
