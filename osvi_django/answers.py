"""What OSVI answers: first as it came, then checked and made a dataclass of.

No dictionary of the wire goes further than this file. Fields that the vendor adds are ignored; one
that is needed and missing, or of another type than documented, is an ``OSVIBadAnswer`` naming it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from django.utils.dateparse import parse_datetime

from osvi_django.exceptions import (
    MAX_REASON,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
)

_NOT_FOUND: Final = 404
# MariaDB takes no more than 32 levels of JSON, and Python's own stack ends somewhere as well.
_DEEPEST: Final = 20
# What every database can hold, and every time zone can show.
_YEARS: Final = range(1001, 9999)

# PostgreSQL stores no U+0000, and UTF-8 knows no half of a surrogate pair.
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")
# Terminals obey these, and some make the text around them read backwards.
_CONTROL = re.compile("[\x01-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What OSVI answered, as it came: nothing in it has been read, checked or believed.

    ``body``: decoded bytes, at most ``MAX_BODY``; ``truncated``: there was more of it;
    ``retry_after``: seconds, from the header of that name.
    """

    status: int
    body: bytes = field(repr=False)
    truncated: bool = False
    retry_after: float | None = None

    @property
    def text(self) -> str:
        """The body as text that every database can store."""
        return storable(self.body.decode("utf-8", errors="replace"))


@dataclass(frozen=True, kw_only=True)
class ClosedSession:
    """OSVI says that the session is closed; ``summary`` is None where it sent none."""

    session_id: str
    summary: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class RemoteSession:
    """A session object of Chat v1: a session as OSVI has it.

    ``agent_number`` is OSVI's number of the agent, which is not its UUID; ``payload`` is the whole
    object, in a form that every database can store. What OSVI left out is None, or empty.
    """

    session_id: str
    status: str
    customer_id: str = ""
    mode: str = "ai"
    agent_number: int | None = None
    help_requested: bool = False
    active_human: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    payload: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class StartedSession:
    """What the legacy start answers; ``started_at`` is UTC."""

    session_id: str
    agent_name: str = ""
    started_at: datetime | None = None
    welcome_message: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the agent says to a message; None where a human has taken over, or it says nothing."""

    session_id: str
    text: str | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SupportAnswer:
    """What a support command answers: ``reply`` for ``tell``, ``active_human`` for ``takeover``."""

    session_id: str
    reply: str | None = field(default=None, repr=False)
    active_human: str = ""


def read_closed(answer: Answer, session_id: str) -> ClosedSession:
    """Check OSVI's answer to a close, of either dialect, and return what it says.

    Raises ``OSVIRejected`` and its kinds, ``OSVIBadAnswer`` and ``OSVINoAnswer``.
    """
    data = _read_data(answer)
    summary = data.get("summary")
    if summary is not None and not isinstance(summary, str):
        raise OSVIBadAnswer(status=answer.status)
    # The vendor promises no key of the two, and a summary must not be lost over the other.
    if data.get("session_id", session_id if summary else None) != session_id:
        raise OSVIBadAnswer(status=answer.status)
    summary = storable(summary or "").strip()
    return ClosedSession(session_id=session_id, summary=summary or None)


def read_session(payload: Mapping[str, Any], *, status: int | None = None) -> RemoteSession:
    """Check one session object; ``status`` is the answer's. Raises ``OSVIBadAnswer``."""
    fields = _Fields(payload, status)
    return RemoteSession(
        session_id=fields.text("id"),
        status=fields.text("status"),
        customer_id=fields.optional_id("customer_id"),
        mode=fields.optional_text("mode") or "ai",
        agent_number=fields.number("chat_agent_id"),
        help_requested=fields.flag("help_requested"),
        active_human=fields.whoever("active_human"),
        created_at=fields.moment("created_at"),
        updated_at=fields.moment("updated_at"),
        payload=_storable_json(dict(payload)),
    )


def read_created(answer: Answer) -> RemoteSession:
    """Check the answer to a start. Raises as ``read_closed``."""
    return read_session(_read_data(answer), status=answer.status)


def read_active(answer: Answer) -> RemoteSession | None:
    """Check what a customer has open with one agent; None: nothing. Raises as ``read_closed``."""
    if says_none(answer):
        return None
    session = read_session(_read_data(answer), status=answer.status)
    # Nothing but an open one is asked for; whoever sends a closed one says that none is open.
    return session if session.status != "closed" else None


def read_all_active(answer: Answer) -> dict[str, RemoteSession]:
    """Check all that a customer has open, by the agents' UUIDs. Raises as ``read_closed``."""
    found = {}
    for agent_uuid, payload in _read_data(answer).items():
        if not isinstance(payload, dict):
            raise _lacks(agent_uuid, answer.status)
        session = read_session(payload, status=answer.status)
        if session.status != "closed":
            found[storable(agent_uuid)] = session
    return found


def read_active_ids(answer: Answer) -> frozenset[str]:
    """The ids in an object of session objects, keyed by agent."""
    sessions = [each for each in _read_data(answer).values() if isinstance(each, dict)]
    return frozenset(each["id"] for each in sessions if isinstance(each.get("id"), str))


def read_reply(answer: Answer, session_id: str = "") -> Reply:
    """Check the agent's answer to a message, of either dialect. Raises as ``read_closed``.

    ``session_id``: of the session that was asked, where it was known.
    """
    fields = _Fields(_read_data(answer), answer.status)
    text = fields.optional_text("reply") or fields.optional_text("response")
    told = fields.optional_text("session_id") or session_id
    if not told:
        raise _lacks("session_id", answer.status)
    return Reply(session_id=told, text=text or None)


def read_support(answer: Answer, session_id: str) -> SupportAnswer:
    """Check the answer to a support command. Raises as ``read_closed``."""
    fields = _Fields(_read_data(answer), answer.status)
    return SupportAnswer(
        session_id=session_id,
        reply=fields.optional_text("reply") or None,
        active_human=fields.whoever("active_human"),
    )


def read_context(answer: Answer) -> tuple[str, ...]:
    """The context that OSVI keeps of a session now. Raises as ``read_closed``."""
    entries = _read_data(answer).get("context")
    if not isinstance(entries, list):
        raise _lacks("context", answer.status)
    return tuple(storable(each) for each in entries if isinstance(each, str))


def read_started(answer: Answer) -> StartedSession:
    """Check the answer to a legacy start. Raises as ``read_closed``."""
    return read_start(_read_data(answer), status=answer.status)


def read_start(payload: Mapping[str, Any], *, status: int | None = None) -> StartedSession:
    """Check what a legacy start told; ``status`` is the answer's. Raises ``OSVIBadAnswer``."""
    fields = _Fields(payload, status)
    return StartedSession(
        session_id=fields.text("session_id"),
        agent_name=fields.optional_text("agent_name"),
        started_at=fields.moment("started_at"),
        welcome_message=fields.optional_text("welcome_message"),
    )


def read_paused(answer: Answer) -> None:
    """Check the answer to a legacy pause. Raises as ``read_closed``."""
    _read_data(answer)


class _Fields:
    """An object of the wire, field by field, each of its type or an error."""

    def __init__(self, data: Mapping[str, Any], status: int | None) -> None:
        self._data = data
        self._status = status

    def text(self, name: str) -> str:
        """A text that is not empty, and that can be stored as it is: it may be an id."""
        value = self._data.get(name)
        if not isinstance(value, str) or not value or storable(value) != value:
            raise _lacks(name, self._status)
        return value

    def optional_id(self, name: str) -> str:
        """A text that can be stored as it is; "" where there is none."""
        return self.text(name) if self._data.get(name) not in (None, "") else ""

    def optional_text(self, name: str) -> str:
        """A text; "" where there is none."""
        return storable(self._typed(name, str) or "")

    def number(self, name: str) -> int | None:
        """A whole number that a column can hold, or None."""
        value: int | None = self._typed(name, int)
        if isinstance(value, bool) or not (value is None or 0 <= value < 2**63):
            raise _lacks(name, self._status)
        return value

    def flag(self, name: str) -> bool:
        """Yes or no; no where nothing is said."""
        return bool(self._typed(name, bool))

    def moment(self, name: str) -> datetime | None:
        """A moment; the legacy calls leave the time zone out, and mean UTC."""
        text = self.optional_text(name)
        if not text:
            return None
        try:
            moment = parse_datetime(text)
            if moment is not None:
                moment = moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        if moment is None or moment.year not in _YEARS:
            raise _lacks(name, self._status)
        return moment

    def whoever(self, name: str) -> str:
        """A person, of whom the vendor does not say how it is told: a text, whatever came."""
        value = self._data.get(name)
        if value is None:
            return ""
        return storable(value if isinstance(value, str) else json.dumps(_storable_json(value)))

    def _typed(self, name: str, kind: type) -> Any:
        value = self._data.get(name)
        if value is not None and not isinstance(value, kind):
            raise _lacks(name, self._status)
        return value


def _lacks(name: str, status: int | None) -> OSVIBadAnswer:
    return OSVIBadAnswer(OSVIBadAnswer.lacking % {"field": name}, status=status)


def _storable_json(value: Any, depth: int = 0) -> Any:
    """A JSON value with every text in it, keys too, as databases can store it."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict | list | tuple) and depth == _DEEPEST:
        return "..."
    if isinstance(value, dict):
        return {storable(str(key)): _storable_json(value[key], depth + 1) for key in value}
    if isinstance(value, list | tuple):
        return [_storable_json(each, depth + 1) for each in value]
    # What no JSON has, a host's own object for one, or NaN.
    return value if value is None or _is_plain_number(value) else storable(_as_text(value))


def _is_plain_number(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _as_text(value: Any) -> str:
    # Python writes no number of thousands of digits, and reads none.
    return f"{value:#x}" if isinstance(value, int) else str(value)


def says_none(answer: Answer) -> bool:
    """Whether OSVI itself, and no gateway, answered 404."""
    return answer.status == _NOT_FOUND and _read_envelope(answer).get("success") is False


def storable(text: str) -> str:
    """``text`` with each character that some database cannot store replaced by U+FFFD."""
    return _NOT_STORABLE.sub("\ufffd", text)


def _read_data(answer: Answer) -> dict[str, Any]:
    """``data`` of the envelope; an error of the right kind where there is none."""
    envelope = _read_envelope(answer)
    if error := _refusal(answer, envelope):
        raise error
    data = envelope.get("data")
    if envelope.get("success") is not True or not isinstance(data, dict):
        raise OSVIBadAnswer(status=answer.status)
    return data


def _read_envelope(answer: Answer) -> dict[str, Any]:
    try:
        envelope = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    # What was cut off at the cap is no answer, even where it happens to be whole JSON.
    return envelope if isinstance(envelope, dict) and not answer.truncated else {}


def _refusal(answer: Answer, envelope: dict[str, Any]) -> OSVIError | None:
    """The error that this answer is, or None where it claims success."""
    status, said_no = answer.status, envelope.get("success") is False
    reason = _reason(envelope)
    if status == 401:
        return OSVIUnauthorized(status=status, reason=reason)
    if status == 429 or (status == 503 and (said_no or answer.retry_after is not None)):
        return OSVIThrottled(status=status, reason=reason, retry_after=answer.retry_after)
    if status >= 500:
        # A gateway's 502 hides whether OSVI got the request, and OSVI's own 500 how far it came.
        return OSVINoAnswer(status=status, reason=reason, retry_after=answer.retry_after)
    if status >= 400 or (said_no and status == 200):
        return OSVIRejected(status=status, reason=reason or f"HTTP {status}")
    return None if 200 <= status < 300 else OSVIBadAnswer(status=status)


def _reason(envelope: dict[str, Any]) -> str:
    """The vendor's own short words: ``error`` of a 401, ``errors`` of the others."""
    errors = envelope.get("errors")
    said = [envelope.get("error"), *(errors if isinstance(errors, list) else [])]
    words = " ".join(word for word in said if isinstance(word, str))
    return storable(" ".join(_CONTROL.sub(" ", words).split()))[:MAX_REASON]
