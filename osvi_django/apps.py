"""The app's configuration."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import Tags, register
from django.utils.translation import gettext_lazy as _

from osvi_django.checks import check_retention, check_settings
from osvi_django.environment_checks import (
    check_accounts,
    check_databases,
    check_spools,
    check_sqlite,
)


class OSVIConfig(AppConfig):
    """Registers the system checks, and our part of the host's OpenAPI schema."""

    name = "osvi_django"
    verbose_name = _("OSVI chats")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register what others look for."""
        for check in (check_settings, check_databases, check_spools, check_sqlite):
            register(check)
        register(check_accounts, Tags.database)
        register(check_retention, deploy=True)
        if _uses_spectacular():
            import_module("osvi_django.rest.schema.inspector")


def _uses_spectacular() -> bool:
    """Return whether the host may build a schema with drf-spectacular, which is optional."""
    has_schemas = "DEFAULT_SCHEMA_CLASS" in getattr(settings, "REST_FRAMEWORK", {})
    is_meant = apps.is_installed("drf_spectacular") or has_schemas
    return is_meant and find_spec("drf_spectacular") is not None
