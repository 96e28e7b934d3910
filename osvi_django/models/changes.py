"""``updated_at`` of a session: when what others may read of it last changed.

Other systems ask for what changed after a moment, so no change may go without it. It is set here,
in the manager and in the field, and not by the code that changes a session.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeVar

from django.conf import settings
from django.db import models, router, transaction
from django.utils import timezone

from osvi_django.database import DatabaseNow

UPDATED_AT: Final = "updated_at"
# Columns that say who works on a session at this moment, or that OSVI was asked and knew of nothing
# new. They are written all the time, and never shown.
SILENT: Final = frozenset({"claim", "lease_until", "synced_at", UPDATED_AT})
_Row = TypeVar("_Row", bound=models.Model)
_Row_co = TypeVar("_Row_co", bound=models.Model, covariant=True)


class ChangeMoment(DatabaseNow):
    """The moment at which the database writes a row, as ``USE_TZ`` has it stored."""

    def as_postgresql(self, compiler: Any, connection: Any, **_context: Any) -> Any:
        """Return the time of this row, as a statement may have waited for the lock on it."""
        return self.as_sql(compiler, connection, template="CLOCK_TIMESTAMP()")

    def as_sqlite(self, compiler: Any, connection: Any, **_context: Any) -> Any:
        """Return the time in the form in which Django writes it: SQLite compares texts."""
        if not settings.USE_TZ:
            return self._as_local(connection)
        moment = "STRFTIME('%%%%Y-%%%%m-%%%%d %%%%H:%%%%M:%%%%f000', 'NOW')"
        return self.as_sql(compiler, connection, template=f"REPLACE({moment}, '.000000', '')")

    def as_mysql(self, compiler: Any, connection: Any, **_context: Any) -> Any:
        """Return the time of the statement: there is no UTC clock of the row."""
        if not settings.USE_TZ:
            return self._as_local(connection)
        return self.as_sql(compiler, connection, template="UTC_TIMESTAMP(6)")

    def _as_local(self, connection: Any) -> tuple[str, list[Any]]:
        """Return this site's own time: these databases do not know its time zone."""
        return "%s", [connection.ops.adapt_datetimefield_value(timezone.now())]


class ChangeMomentField(models.DateTimeField):  # type: ignore[type-arg]  # no subscript at run time
    """When the row last changed, by the database's clock."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "editable": False, "blank": True})

    def deconstruct(self) -> Any:
        """Return a plain column: how it is filled is no business of a migration."""
        name, _path, args, options = super().deconstruct()
        return name, "django.db.models.DateTimeField", args, options

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        """Return the database's clock; the object has about the same until it is read again."""
        setattr(model_instance, self.attname, timezone.now())
        return ChangeMoment()


class SessionQuerySet(models.QuerySet[_Row_co]):
    """Sessions. An update sets ``updated_at``, unless it writes only what is never shown."""

    def update(self, **changes: Any) -> int:
        """Change rows as Django does, and set ``updated_at``."""
        if not SILENT.issuperset(changes):
            changes.setdefault(UPDATED_AT, ChangeMoment())
        return super().update(**changes)

    update.alters_data = True  # type: ignore[attr-defined]

    def touch(self) -> int:
        """Set ``updated_at``: something changed that is shown with these and stored elsewhere."""
        return self.update(**{UPDATED_AT: ChangeMoment()})

    touch.alters_data = True  # type: ignore[attr-defined]


class SessionManager(models.Manager[_Row]):
    """All sessions, as such a queryset."""

    def get_queryset(self) -> SessionQuerySet[_Row]:
        """Return a new one."""
        return SessionQuerySet(self.model, using=self._db)


class ShownQuerySet(models.QuerySet[_Row_co]):
    """Rows of which something is shown with sessions: a change of that touches the sessions.

    ``bulk_create`` does not: what is new to a session comes with a change of the session itself.
    """

    shown: ClassVar[frozenset[str]]

    def shown_in(self) -> SessionQuerySet[Any]:
        """Return the sessions that these rows are shown with."""
        raise NotImplementedError

    def update(self, **changes: Any) -> int:
        """Change rows as Django does, and touch the sessions."""
        if self.shown.isdisjoint(changes):
            return super().update(**changes)
        with transaction.atomic(using=self.written_to):
            # Before the change: afterwards the conditions may be no longer true.
            self.touch_sessions()
            return super().update(**changes)

    update.alters_data = True  # type: ignore[attr-defined]

    def touch_sessions(self) -> None:
        """Set ``updated_at`` of the sessions that these rows are shown with."""
        self.shown_in().using(self.written_to).touch()

    @property
    def written_to(self) -> str:
        """Return the database that is written to, which a router may not read from."""
        return self.select_for_update().db


class ShownWithSessions(models.Model):
    """A row of which something is shown with sessions."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **options: Any) -> None:
        """Save the row as Django does, and touch the sessions if what they show is new."""
        rows = _rows_of(self, options.get("using"))
        with transaction.atomic(using=rows.db):
            before = rows.values(*rows.shown).first()
            super().save(*args, **options)
            if before != {name: getattr(self, name) for name in rows.shown}:
                _rows_of(self, rows.db).touch_sessions()


def _rows_of(row: models.Model, alias: str | None) -> ShownQuerySet[Any]:
    rows: Any = type(row)._default_manager.filter(pk=row.pk)  # noqa: SLF001  # it is documented
    chosen: ShownQuerySet[Any] = rows.using(alias or router.db_for_write(type(row), instance=row))
    return chosen


def written_fields(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of ``Model.save`` with ``updated_at`` among the fields to write."""
    fields = options.get("update_fields")
    if not fields or SILENT.issuperset(fields):
        return options
    return {**options, "update_fields": {*fields, UPDATED_AT}}
