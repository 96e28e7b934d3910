"""Export sessions: check the permission, read, and note in the history who took what along."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from django.db import Error, NotSupportedError, connections, router
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.text import Truncator
from django.utils.translation import gettext as _

from osvi_django.database import PATIENCE_BEFORE, persist, safe_error_name
from osvi_django.exceptions import InvalidInput
from osvi_django.models import ChatSession, DataExport
from osvi_django.models.exports import SELECTION_MAX_LENGTH
from osvi_django.services.access import Purpose, allowed_sessions, sessions_inside
from osvi_django.services.export.columns import columns_of
from osvi_django.services.export.formats import csv_parts, jsonl_parts
from osvi_django.services.export.reading import Reader
from osvi_django.services.export.workbook import (
    MAX_ROWS,
    require_rows,
    require_xlsx,
    xlsx_parts,
)
from osvi_django.services.permissions import may_read_summary, requester_fields, require_export
from osvi_django.services.search import search_sessions
from osvi_django.services.selectors import SessionFilter
from osvi_django.validation import VIA_MAX_LENGTH, checks_types, stripped

logger = logging.getLogger(__name__)

Format = DataExport.Format
Outcome = DataExport.Outcome

CONTENT_TYPES: Final = {
    Format.CSV: "text/csv; charset=utf-8",
    Format.JSONL: "application/jsonl",
    Format.XLSX: "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_WRITERS: Final = {Format.CSV: csv_parts, Format.JSONL: jsonl_parts, Format.XLSX: xlsx_parts}


class Export(Iterator[bytes]):
    """The parts of a file, to be read once; ``close`` it if you do not read all of it.

    ``record`` is its row in the history. A process that is killed leaves it ``started``.
    """

    def __init__(self, record: DataExport, reader: Reader) -> None:
        """Read the first part, so that whatever fails does so before anything is sent."""
        self.record = record
        self.file_name = file_name_of(record.file_format)
        self.content_type = content_type_of(record.file_format)
        self._reader = reader
        self._parts = _WRITERS[Format(record.file_format)](reader)
        self._is_noted = False
        self._first: list[bytes] = []
        self._first.append(next(self, b""))

    def __next__(self) -> bytes:
        if self._first:
            return self._first.pop()
        try:
            return next(self._parts)
        except StopIteration:
            self._finish(Outcome.COMPLETED)
            raise
        except BaseException:
            self._finish(Outcome.BROKEN_OFF)
            raise

    def close(self) -> None:
        """Note that it was broken off, unless all of it was read; remove temporary files."""
        self._parts.close()
        self._finish(Outcome.BROKEN_OFF)

    def _finish(self, outcome: Outcome) -> None:
        """Store how it ended; the first outcome counts, however often that has to be tried."""
        if self.record.finished_at is None:
            self.record.outcome = outcome
            self.record.finished_at = timezone.now()
            self.record.rows = self._reader.number
        if not self._is_noted:
            self._is_noted = self._note()

    def _note(self) -> bool:
        """Write the end to the history, and return whether this was possible."""
        using = router.db_for_write(DataExport)
        work = partial(
            self.record.save, using=using, update_fields=("outcome", "finished_at", "rows")
        )
        try:
            if connections[using].in_atomic_block:  # of the caller, who may read it there
                work()
            else:
                persist(work, using=using, patience=PATIENCE_BEFORE)
        except Error as error:  # the file is what counts, and the row says who began it
            name = safe_error_name(error)
            logger.error("the end of export %s was not noted: %s", self.record.pk, name)
            return False
        return True


@checks_types
def export_sessions(
    sessions: SessionFilter | QuerySet[ChatSession],
    *,
    file_format: str,
    search: str | None = None,
    requested_by: Any = None,
    via: str = "code",
    selection: str = "",
) -> Export:
    """Return a file of sessions, in the order in which this site got to know them.

    ``sessions``: a filter, or a queryset that may be filtered further; ``search``: only those that
    a search finds, at most 1,000. ``selection``: how a queryset was chosen, in words and without
    ids, for the history. Summaries and notes are in it if ``requested_by`` may read them; None may.

    What is outside the access of ``requested_by`` is not in it.

    Raises ``NotAllowed``, ``InvalidInput``, ``TooManyRows`` and ``ExportNotInstalled`` before
    anything is read.
    """
    chosen_format = require_format(file_format)
    via = stripped("via", via, VIA_MAX_LENGTH)
    require_export(requested_by)
    words = [selection] if selection else []
    if isinstance(sessions, SessionFilter):
        words += sessions.in_words()
        sessions = ChatSession.objects.filter(sessions.condition())
    _require_sessions(sessions)
    if search is not None:
        words.append(_("found by a search"))
        found = search_sessions(search, requested_by=requested_by)
        if not found.kinds:  # a file cannot say why there is nothing in it
            raise InvalidInput(found.notice, field="search")
        sessions = sessions.filter(found.condition)
    for purpose in (Purpose.VIEW, Purpose.EXPORT):
        sessions = sessions_inside(sessions, requested_by, purpose)
    if chosen_format == Format.XLSX:
        require_xlsx()
        require_rows(sessions.order_by()[:MAX_ROWS].count())
    reads = requested_by is None or may_read_summary(requested_by)
    readable = allowed_sessions(requested_by, Purpose.VIEW_SUMMARY, using=sessions.db)
    reader = Reader(sessions, columns_of(has_words=reads), readable=readable)
    record = DataExport.objects.using(router.db_for_write(DataExport)).create(
        file_format=chosen_format,
        selection=Truncator(", ".join(words) or _("all")).chars(SELECTION_MAX_LENGTH),
        has_words=reads,
        via=via,
        **requester_fields(requested_by),
    )
    return Export(record, reader)


def _require_sessions(sessions: object) -> None:
    """Raise ``InvalidInput`` unless these are sessions to which further filters can be added."""
    if isinstance(sessions, QuerySet) and issubclass(sessions.model, ChatSession):
        # Django refuses these calls after values(), and for a slice or a union.
        with suppress(TypeError, NotSupportedError):
            sessions.select_related("agent").filter(pk__gt=0)
            return
    problem = _(
        "sessions must be a SessionFilter, or a queryset of chat sessions without values(), a "
        "slice or a union. If it is a manager, use all()."
    )
    raise InvalidInput(problem, field="sessions")


def require_format(name: str) -> Format:
    """Return the format of this name. Raises ``InvalidInput``."""
    if name not in Format.values:
        problem = _("%(field)s is unknown: use one of %(known)s.")
        values = {"field": "file_format", "known": ", ".join(Format.values)}
        raise InvalidInput(problem % values, field="file_format")
    return Format(name)


def file_name_of(file_format: str) -> str:
    """Return a name for a file that is written now."""
    return f"chats-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{file_format}"


def content_type_of(file_format: str) -> str:
    """Return the media type of a format."""
    return CONTENT_TYPES[Format(file_format)]
