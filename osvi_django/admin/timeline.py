"""The history of a session as one time line: what was written, done and stored, and by whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from django.db.models import Q, QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.admin.bounded import is_key
from osvi_django.admin.messages import SINCE
from osvi_django.admin.sources import label_of
from osvi_django.exceptions import OSVINoAnswer, message_for_code
from osvi_django.models import (
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SessionSummary,
    SupportAction,
)
from osvi_django.services import selectors
from osvi_django.services.recovery.reviewing import is_reviewable
from osvi_django.services.support import actions_of

LINES_SHOWN: Final = 50

ActionKind = SupportAction.Kind
ActionOutcome = SupportAction.Outcome
AttemptKind = CloseAttempt.Kind
AttemptOutcome = CloseAttempt.Outcome
Status = ChatSession.Status

# While a session has one of these, what the error of an attempt means still holds.
_HOLDS_WHILE: Final[Mapping[str, Sequence[str]]] = {
    AttemptOutcome.NO_ANSWER: (Status.UNCONFIRMED, Status.CLOSING),
    AttemptOutcome.BAD_ANSWER: (Status.UNCONFIRMED, Status.CLOSING),
    AttemptOutcome.NOT_SENT: (*ChatSession.OPEN, Status.UNCONFIRMED),
    AttemptOutcome.REJECTED: (*ChatSession.OPEN, Status.UNCONFIRMED),
}
_TEXTLESS: Final = (ActionKind.START, ActionKind.TAKE_OVER, ActionKind.HAND_BACK)
_TO_SEND: Final = (ActionKind.MESSAGE, ActionKind.TELL, ActionKind.WHISPER, ActionKind.CONTEXT)
_UNANSWERED: Final = (ActionOutcome.NO_ANSWER, ActionOutcome.BAD_ANSWER)
# What an attempt did, and what it tried to do if it failed or is unfinished.
_DID: Final[Mapping[str, tuple[Any, Any]]] = {
    AttemptKind.CLOSE: (_lazy("closed the chat"), _lazy("tried to close the chat")),
    AttemptKind.RECLOSE: (
        _lazy("closed it again to get the summary"),
        _lazy("tried to close it again to get the summary"),
    ),
    AttemptKind.MARK: (_lazy("marked the chat as closed"), _lazy("marked the chat as closed")),
    AttemptKind.MIRRORED: (
        _lazy("found that OSVI has closed the chat"),
        _lazy("found that OSVI has closed the chat"),
    ),
    AttemptKind.REVIEW: (
        _lazy("used an answer as the summary"),
        _lazy("used an answer as the summary"),
    ),
    AttemptKind.REOPENED: (
        _lazy("found the chat open at OSVI, so it is open here again"),
        _lazy("found the chat open at OSVI, so it is open here again"),
    ),
}
_STORED: Final[Mapping[str, Any]] = {
    SessionSummary.Source.OSVI: _lazy("The summary by OSVI was stored"),
    SessionSummary.Source.HOST: _lazy("The summary by this site was stored"),
    SessionSummary.Source.REVIEWED: _lazy("The summary taken from an answer was stored"),
}


class Position(NamedTuple):
    """The place of a line among all lines of a session."""

    moment: datetime
    source: int
    number: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that happened. What does not apply to it is ""."""

    key: str
    kind: str
    position: Position
    changed_at: datetime | None
    """When its outcome was stored; None if it is in progress."""
    who: str = ""
    did: str = ""
    is_own: bool = False
    """Whether the user who looks at it did it."""
    via: str = ""
    text: str = field(default="", repr=False)
    reply: str = field(default="", repr=False)
    note: str = field(default="", repr=False)
    reason: str = ""
    trouble: str = ""
    advice: str = ""
    is_outdated: bool = False
    """Whether its reason no longer holds, so that the advice says what is known since."""
    is_unanswered: bool = False
    """Whether its text was sent, and it is not known whether it has arrived."""
    removed: str = ""
    """Why its texts are no longer here."""
    form: str = ""
    """The user's own form that did it, unless nothing was done."""
    job: str = ""
    job_url: str = ""
    answer_url: str = ""
    is_incomplete: bool = False
    """Whether the answer to review is incomplete."""

    @property
    def moment(self) -> datetime:
        """Return when it happened."""
        return self.position.moment

    @property
    def version(self) -> str:
        """Return what changes when the line does."""
        return self.changed_at.isoformat() if self.changed_at else ""


@dataclass(frozen=True, kw_only=True)
class TimeLine:
    """The newest lines, oldest first; ``is_cut``: whether there are older ones."""

    lines: Sequence[Line]
    is_cut: bool
    is_readable: bool
    """Whether the user may read the texts."""

    @property
    def unanswered_text(self) -> Line | None:
        """Return the text that the user sent last, if it is not known whether it has arrived."""
        for line in reversed(self.lines):
            if line.is_own and line.kind in _TO_SEND:
                return line if line.is_unanswered and line.text else None
        return None

    @property
    def last_key(self) -> str:
        """Return the key of the newest line; "" if there is none."""
        return self.lines[-1].key if self.lines else ""


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Who looks at a time line, and what they may see; a URL is "" if they may not follow it."""

    user: Any
    is_readable: bool
    job_url: Callable[[CloseJob], str]
    answer_url: Callable[[CloseAttempt], str]


def timeline_of(session: ChatSession, viewer: Viewer, *, before: str = "") -> TimeLine:
    """Return the newest lines of a session, or those before the line with this key."""
    end = _position_of(session, before)
    found = [
        *_lines_of_actions(session, viewer, end),
        *_lines_of_attempts(session, viewer, end),
        *(line for line in _facts_of(session) if end is None or line.position < end),
    ]
    found.sort(key=lambda line: line.position)
    return TimeLine(
        lines=found[-LINES_SHOWN:],
        is_cut=len(found) > LINES_SHOWN,
        is_readable=viewer.is_readable,
    )


def lines_since(session: ChatSession, timeline: TimeLine, key: str) -> list[Line]:
    """Return the lines after the one with this key, and older ones that may have changed since."""
    start = _position_of(session, key)
    if start is None:
        return list(timeline.lines)
    return [
        line
        for line in timeline.lines
        if line.position > start or line.is_outdated or _has_changed(line, start.moment)
    ]


def _has_changed(line: Line, since: datetime) -> bool:
    return line.changed_at is None or line.changed_at >= since


def written_since(session: ChatSession, key: str, *, by_others_than: Any) -> SupportAction | None:
    """Return the newest text that a colleague sent after the line with this key, if any."""
    start = _position_of(session, key)
    if start is None:
        return None
    later = actions_of(session).exclude(outcome__in=SupportAction.NOT_DONE)
    later = later.filter(kind__in=(ActionKind.MESSAGE, ActionKind.TELL)).filter(_after(start, 0))
    colleagues = later.exclude(requested_by=None).exclude(requested_by=by_others_than.pk)
    return colleagues.select_related("requested_by").defer("answer").last()


def _lines_of_actions(session: ChatSession, viewer: Viewer, end: Position | None) -> Iterator[Line]:
    # The raw answer may be long, and says nothing more.
    actions = actions_of(session).select_related("requested_by").defer("answer")
    for action in _newest(actions, end, 0):
        action.session = session
        yield _line_of_action(action, viewer)


def _lines_of_attempts(
    session: ChatSession, viewer: Viewer, end: Position | None
) -> Iterator[Line]:
    rows = selectors.attempts(session).select_related("requested_by")
    attempts = list(_newest(rows.defer("answer", "answer_bytes"), end, 1))
    jobs = _jobs_of(session, attempts)
    for attempt in attempts:
        attempt.session = session
        yield _line_of_attempt(attempt, viewer, jobs.get(attempt.pk))


def _newest(rows: QuerySet[Any], end: Position | None, source: int) -> Iterable[Any]:
    earlier = rows if end is None else rows.filter(_before(end, source))
    return earlier.order_by("-started_at", "-id")[: LINES_SHOWN + 1]


def _before(end: Position, source: int) -> Q:
    """Return the condition for the rows of a source whose lines are before this position."""
    earlier = Q(started_at__lt=end.moment)
    if source > end.source:
        return earlier
    at_once = Q(started_at=end.moment)
    return earlier | (at_once & Q(pk__lt=end.number) if source == end.source else at_once)


def _after(start: Position, source: int) -> Q:
    """Return the condition for the rows of a source whose lines are after this position."""
    return ~_before(start, source) & ~Q(started_at=start.moment, pk=start.number)


def _position_of(session: ChatSession, key: str) -> Position | None:
    """Return the position of the line with this key, or None if there is no such line."""
    kind, _sep, number = key.partition("-")
    if kind in _SOURCES and is_key(number):
        source, rows_of = _SOURCES[kind]
        moments = rows_of(session).filter(pk=number).values_list("started_at", flat=True)
        return next((Position(moment, source, int(number)) for moment in moments), None)
    return next((line.position for line in _facts_of(session) if line.key == key), None)


def _jobs_of(session: ChatSession, attempts: Sequence[CloseAttempt]) -> dict[int, CloseJob]:
    """Return the jobs of these attempts, by the attempts' keys."""
    items = CloseJobItem.objects.using(selectors.using(session)).filter(attempt__in=attempts)
    return {item.attempt_id: item.job for item in items.select_related("job") if item.attempt_id}


def _line_of_action(action: SupportAction, viewer: Viewer) -> Line:
    is_done = action.outcome == ActionOutcome.DONE
    removed = _removed(action)
    shows = viewer.is_readable and not removed
    return Line(
        key=f"action-{action.pk}",
        kind=action.kind,
        position=Position(action.started_at, 0, action.pk),
        changed_at=action.finished_at,
        who=_who(action),
        did=_("wrote") if action.kind == ActionKind.INBOUND else action.get_kind_display(),
        is_own=action.requested_by_id is not None and action.requested_by_id == viewer.user.pk,
        text=action.text if shows else "",
        reply=action.reply if shows else "",
        trouble="" if is_done else action.get_outcome_display(),
        advice="" if is_done else _advice(action),
        is_unanswered=action.outcome in _UNANSWERED,
        removed=removed,
        form=_form_of(action, viewer),
    )


def _removed(action: SupportAction) -> str:
    """Return why the texts of an action are no longer here; "" if they are, or if it had none."""
    if action.redacted_at is None or action.kind in _TEXTLESS:
        return ""
    if action.session.erased_at is not None:
        return str(_("The text was removed because the customer was erased."))
    return str(_("The text was removed because it was too old."))


def _form_of(action: SupportAction, viewer: Viewer) -> str:
    """Return the key of the user's form; it is removed from an action that did nothing."""
    is_own = action.form_key is not None and action.requested_by_id == viewer.user.pk
    return action.form_key.hex if is_own and action.form_key else ""


def _line_of_attempt(attempt: CloseAttempt, viewer: Viewer, job: CloseJob | None) -> Line:
    is_done = attempt.outcome == AttemptOutcome.CLOSED or attempt.kind == AttemptKind.REOPENED
    is_outdated = not is_done and _is_outdated(attempt)
    did = _DID.get(attempt.kind)
    reasons = (attempt.close_reason, attempt.get_reason_display())
    return Line(
        key=f"attempt-{attempt.pk}",
        kind="attempt",
        position=Position(attempt.started_at, 1, attempt.pk),
        changed_at=attempt.finished_at,
        who=_who(attempt),
        did=str(did[not is_done]) if did else attempt.get_kind_display(),
        is_own=attempt.requested_by_id is not None and attempt.requested_by_id == viewer.user.pk,
        via=label_of(attempt.via),
        note=attempt.note,
        reason=" ".join(str(each) for each in reasons if each),
        trouble="" if is_done else attempt.get_outcome_display(),
        advice=_known_since(attempt) if is_outdated else _reason_of(attempt),
        is_outdated=is_outdated,
        job=str(job) if job else "",
        job_url=viewer.job_url(job) if job else "",
        answer_url=viewer.answer_url(attempt) if is_reviewable(attempt) else "",
        is_incomplete=attempt.answer_incomplete,
    )


def _is_outdated(attempt: CloseAttempt) -> bool:
    """Return whether the chat was settled, or its state changed otherwise, after the attempt."""
    status, holds_while = attempt.session.status, _HOLDS_WHILE.get(attempt.outcome)
    return holds_while is not None and status in SINCE and status not in holds_while


def _reason_of(attempt: CloseAttempt) -> str:
    return message_for_code(attempt.error_code, attempt.error_reason) or attempt.error_reason


def _known_since(attempt: CloseAttempt) -> str:
    """Return what is known of the chat now, and the reason of that time as a quotation."""
    said = _("The reason then: “%(reason)s”") % {"reason": attempt.error_reason}
    words = (str(SINCE[attempt.session.status]), said if attempt.error_reason else "")
    return " ".join(filter(None, words))


def _facts_of(session: ChatSession) -> Iterator[Line]:
    """Yield what the session itself says and no row of the journal does."""
    if not actions_of(session).filter(kind=ActionKind.START).exists():
        yield _fact("start", session.started_at, _("The chat started"))
    if session.help_requested and session.help_requested_at:
        yield _fact("help", session.help_requested_at, _("The customer asked for a person"))
    if session.status == ChatSession.Status.CLOSED and session.closed_at:
        if not selectors.attempts(session).filter(outcome=AttemptOutcome.CLOSED).exists():
            yield _fact("closed", session.closed_at, _("The chat was closed"))
        if hasattr(session, "summary"):
            summary = session.summary
            stored = _STORED.get(summary.source, _STORED[SessionSummary.Source.OSVI])
            yield _fact("summary", summary.received_at, str(stored))


def _fact(key: str, moment: datetime, did: str) -> Line:
    now = timezone.now()
    position = Position(min(moment, now), 2 if key != "start" else -1, 0)
    return Line(key=key, kind=key, position=position, changed_at=moment, did=did)


def _who(row: SupportAction | CloseAttempt) -> str:
    if isinstance(row, SupportAction) and row.kind == ActionKind.INBOUND:
        return _("The customer")
    return str(row.requested_by or row.requester or _("This site"))


def _advice(action: SupportAction) -> str:
    if action.outcome == ActionOutcome.STARTED:
        return _(
            "If this does not change, the process that sent it has stopped. Check the chat in "
            "OSVI's dashboard before you send it again."
        )
    is_unknown = action.outcome in SupportAction.UNKNOWN
    code = action.error_code or (OSVINoAnswer.code if is_unknown else "")
    return message_for_code(code, action.error_reason, is_close=False)


_SOURCES: Final[Mapping[str, tuple[int, Callable[[ChatSession], QuerySet[Any]]]]] = {
    "action": (0, actions_of),
    "attempt": (1, selectors.attempts),
}
