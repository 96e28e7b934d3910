"""Differences between databases: their clocks, and when two texts are equal; own transactions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from functools import partialmethod
from json import JSONEncoder
from typing import Any, Final, TypeVar

from django.conf import settings
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error, InterfaceError, OperationalError, connections, transaction
from django.db.models import FloatField, Func, Q
from django.db.models.functions import Length, Now
from django.db.models.lookups import Exact
from django.utils import timezone

from osvi_django import clock
from osvi_django.conf import DEFAULTS, Account, InvalidSetting
from osvi_django.exceptions import InsideTransaction


class DatabaseNow(Now):
    """The database's clock in UTC, so that no lease ends early because a host's clock is wrong."""

    # NOW() is local time there, an hour off when summer time begins or ends.
    as_mysql = partialmethod(Now.as_sql, template="UTC_TIMESTAMP(6)")


class Seconds(Func):
    """The time between two moments, in seconds, as a number with a fraction."""

    output_field = FloatField()
    # A duration is a number of microseconds, and on PostgreSQL an interval.
    template = "(%(expressions)s / 1e6)"
    as_postgresql = partialmethod(
        Func.as_sql, template="EXTRACT(EPOCH FROM %(expressions)s)::double precision"
    )


def exact_match(field: str, value: str) -> Q:
    """Return the condition that a field equals a value in every character.

    The equality finds it by the index; on MariaDB it also finds what differs in case, accents or
    trailing spaces, which is not meant. ``contains`` is LIKE BINARY there, and a text that contains
    another and has the same length is equal to it.
    """
    same = Q(**{field: value, f"{field}__contains": value})
    return same & Q(Exact(Length(field), len(value)))


def lease_expired() -> Q:
    """Return the condition for rows whose lease is over, by the database's clock.

    It includes a lease without an end, which another program wrote: waiting for it would never end.
    """
    return Q(lease_until=None) | Q(lease_until__lt=DatabaseNow())


_View = TypeVar("_View", bound=Callable[..., Any])
_Result = TypeVar("_Result")

_NOT_THERE: Final = re.compile("no such (table|column)")
# psycopg, and psycopg2.
_SQLSTATE_NAMES: Final = ("sqlstate", "pgcode")
# No such table, schema or column, and no permission to read them.
_WITHOUT_TABLES: Final = frozenset(
    {"42P01", "3F000", "42703", "42501"}  # PostgreSQL
    | {"1146", "1049", "1054", "1142", "1143"}  # MariaDB
    | {"no such table", "no such column"}  # SQLite
)

# The pauses between tries: from the first to the last, doubled each time.
_FIRST_PAUSE: Final = 0.05  # seconds
_LAST_PAUSE: Final = 2.0  # seconds


def non_atomic(view: _View) -> _View:
    """Exempt a view from ``ATOMIC_REQUESTS`` on every database, not on the default one alone."""
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def refuse_inside_transaction(using: str) -> None:
    """Raise ``InsideTransaction`` if the caller has a transaction open on this database.

    A durable block is the only check that tells a caller's transaction from that of ``TestCase``.
    """
    connection = connections[using]
    if not connection.in_atomic_block:
        # If autocommit was switched off by hand there is no block, and nothing of ours is
        # committed. A connection that is not open yet has no transaction, and may not open now.
        is_open = connection.connection is not None
        inside = not (connection.get_autocommit() if is_open else _commits_by_itself(using))
    else:
        inside = _is_callers_own(using)
    if inside:
        raise InsideTransaction


def _commits_by_itself(using: str) -> bool:
    return bool(connections[using].settings_dict["AUTOCOMMIT"])


def _is_callers_own(using: str) -> bool:
    try:
        with transaction.atomic(using=using, durable=True):
            return False
    except RuntimeError:
        return True


def release_connections() -> None:
    """Close the connections of this thread that are not needed during a slow call.

    Django opens them again for the next query. Those with a transaction open remain, such as that
    of a ``TestCase``. Django itself never closes an SQLite database in memory.
    """
    for connection in connections.all(initialized_only=True):
        is_open = connection.connection is not None
        if is_open and not connection.in_atomic_block and connection.get_autocommit():
            with suppress(Error):  # the connection is gone in any case
                connection.close()


def persist(work: Callable[[], _Result], *, using: str, patience: float) -> _Result:
    """Run ``work`` in its own transaction, and retry it for up to ``patience`` seconds.

    A deadlock, a lock or a restart of the database is soon over, so each try gets a new connection
    if the old one cannot be used. ``work`` may run more than once. Raises the database's last
    error.
    """
    ends_at = clock.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            with transaction.atomic(using=using, durable=True):
                return work()
        except (OperationalError, InterfaceError):
            connection = connections[using]
            # Nothing can be retried in the transaction of a TestCase.
            if connection.in_atomic_block or clock.monotonic() + pause > ends_at:
                raise
            connection.close()
        time.sleep(pause)
        pause = min(2 * pause, _LAST_PAUSE)


def safe_error_name(error: BaseException) -> str:
    """Return an error's name for a log: a database error's text may quote a row, or a summary.

    Of the error that it comes from, it has what the database calls it, or the name of its class.
    """
    cause, name = error.__cause__, type(error).__name__
    if cause is None:
        return name
    detail = (_kind_of(cause) if isinstance(error, Error) else "") or type(cause).__name__
    return name if detail == name else f"{name}: {detail}"


def is_without_tables(error: BaseException) -> bool:
    """Return whether a database lacks a table or a column, or does not let this site read it.

    Such an error does not pass, while one of a database that is unavailable does.
    """
    cause = error.__cause__
    codes = {getattr(cause, name, None) for name in _SQLSTATE_NAMES} | {_kind_of(cause)}
    return isinstance(error, Error) and not codes.isdisjoint(_WITHOUT_TABLES)


def _kind_of(cause: BaseException | None) -> str:
    """Return what SQLite or MariaDB calls an error, "" if that is not known."""
    number = cause.args[0] if cause is not None and cause.args else None
    if isinstance(number, int):
        return str(number)
    # SQLite has one code for all that is wrong with a statement.
    found = _NOT_THERE.match(str(number))
    return found[0] if found else str(getattr(cause, "sqlite_errorname", ""))


def to_db_datetime(moment: datetime) -> datetime:
    """Return the moment as it is; without ``USE_TZ``, naive and in the site's time zone."""
    if settings.USE_TZ or timezone.is_naive(moment):
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())


def in_utc(moment: datetime) -> datetime:
    """Return a stored moment with its time zone, which is UTC."""
    zone = timezone.get_default_timezone()
    aware = timezone.make_aware(moment, zone) if timezone.is_naive(moment) else moment
    return aware.astimezone(UTC)


def utc_text(moment: datetime) -> str:
    """Return a stored moment as text, such as ``2026-01-31T12:00:00.123456Z``."""
    aware = moment if moment.tzinfo is UTC else in_utc(moment)
    # Formatting the offset would take more time than all the rest.
    return f"{aware.replace(tzinfo=None).isoformat()}Z"


class MomentsInUTC(JSONEncoder):
    """An encoder of JSON for others, who do not know the time zone of this site."""

    def default(self, o: Any) -> Any:
        """Return what JSON can hold of a value: of a moment its text in UTC."""
        return utc_text(o) if isinstance(o, datetime) else super().default(o)


class OSVIJSONEncoder(MomentsInUTC, DjangoJSONEncoder):
    """Django's encoder, with moments in UTC whatever the host's settings say."""


def site_date(moment: datetime) -> date:
    """Return the day of a stored moment by the time zone of the site."""
    zone = timezone.get_default_timezone()
    local = moment if timezone.is_naive(moment) else timezone.localtime(moment, zone)
    return local.date()


def since(moment: datetime, *, using: str) -> timedelta:
    """Return the time since a moment that was written as ``DatabaseNow`` and read by Django.

    Without ``USE_TZ``, PostgreSQL returns it in the site's time zone, and the others in UTC.
    """
    if settings.USE_TZ or connections[using].vendor == "postgresql":
        return timezone.now() - moment
    return datetime.now(UTC).replace(tzinfo=None) - moment


_T = TypeVar("_T")
_Key = TypeVar("_Key", bound=Hashable)
# How long to wait for an unavailable database while there is nothing to lose yet.
PATIENCE_BEFORE: Final = 2  # seconds
# How much to write in one statement: MariaDB takes 16 MB, including quotes and escapes.
_PACKET: Final = 1_000_000  # characters


def seconds_to_retry(account: str) -> float:
    """Return for how many seconds to retry while an unstored answer of this account is here."""
    try:
        return Account(account).database_retry_timeout
    except InvalidSetting:
        # The answer is worth more than an invalid setting.
        return float(DEFAULTS["DATABASE_RETRY_TIMEOUT"])


def grouped(items: Iterable[_T], key: Callable[[_T], _Key]) -> Iterable[tuple[_Key, list[_T]]]:
    """Return the items in groups by ``key``: one statement writes all that are alike."""
    parts: dict[_Key, list[_T]] = {}
    for each in items:
        parts.setdefault(key(each), []).append(each)
    return parts.items()


def packets(texts: Iterable[tuple[_T, str]]) -> Iterator[list[tuple[_T, str]]]:
    """Yield the texts in parts that can each be written in one statement."""
    packet: list[tuple[_T, str]] = []
    size = 0
    for each in texts:
        size += len(each[1])
        if packet and size > _PACKET:
            yield packet
            packet, size = [], len(each[1])
        packet.append(each)
    if packet:
        yield packet
