"""Check that the database has this app's tables, before a command works on them."""

from __future__ import annotations

import logging

from django.apps import apps
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, Error, models, router
from django.utils.translation import gettext as _

from osvi_django.database import is_without_tables, safe_error_name

logger = logging.getLogger(__name__)


def require_tables() -> None:
    """Raise ``CommandError`` if a table is missing, older than this version or not readable.

    A database that is unavailable is not reported: each command has its own way to wait for it.
    """
    for model in apps.get_app_config("osvi_django").get_models():
        alias = router.db_for_write(model)
        try:
            _read_no_row(model, alias)
        except Error as error:
            if not is_without_tables(error):
                return
            kind = safe_error_name(error)
        else:
            continue
        table = model._meta.db_table  # noqa: SLF001  # public, despite its name
        logger.error("the database %s has no usable table %s: %s", alias, table, kind)
        raise CommandError(_problem(alias))


def _read_no_row(model: type[models.Model], alias: str) -> None:
    """Name all columns of a table, and read nothing."""
    rows: models.QuerySet[models.Model] = models.QuerySet(model, using=alias)
    list(rows.filter(pk__lt=0))


def _problem(alias: str) -> str:
    problem = _(
        'The database "%(alias)s" does not have the tables that this version of osvi_django needs, '
        "or does not let this site read them. Run “manage.py migrate%(option)s”, then try again."
    )
    option = "" if alias == DEFAULT_DB_ALIAS else f" --database {alias}"
    return problem % {"alias": alias, "option": option}
