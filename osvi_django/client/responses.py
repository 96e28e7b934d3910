"""OSVI's answers: first raw, then checked and made into dataclasses.

No dictionary from OSVI leaves this file. Fields that OSVI adds are ignored; a required one that is
missing, or of another type than documented, is an ``OSVIBadAnswer`` that names it.
"""

from __future__ import annotations

import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from django.utils.dateparse import parse_datetime

from osvi_django.client.bodies import JSONObject, decode, find_object
from osvi_django.exceptions import (
    MAX_REASON,
    OSVIBadAnswer,
    OSVIError,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnknown,
)
from osvi_django.redaction import HiddenText
from osvi_django.validation import storable

_NOT_FOUND: Final = 404
# The values of ``success`` besides a plain true or false.
_YES: Final = frozenset({"true", "1", "yes", "ok"})
_NO: Final = frozenset({"false", "0", "no"})
# The keys, in any spelling, by which an answer names a session; an ``id`` may be of another thing.
_ID_KEYS: Final = frozenset({"sessionid", "chatsessionid", "sessionuuid"})
_SESSION_KEYS: Final = ("session", "chat_session")
# If one of these has two values, it is unclear what was answered, and about which session.
_DECISIVE: Final = frozenset(
    {"success", "data", *_ID_KEYS, "session", "id", "customerid", "summary", "error", "errors"}
)
# At most ``data`` in ``data``, and a session in each.
_MAX_LEVELS: Final = 6
_OPEN: Final = ("active", "dormant")
# MariaDB takes no more than 32 levels of JSON, and Python's own stack is limited as well.
_DEEPEST: Final = 20
# The years that every database can store, and every time zone can show.
_YEARS: Final = range(1001, 9999)

# In an object that was cut off: an id, and as much as there is of a summary.
_ID_WRITTEN = re.compile(r'"(?:chat_)?session_id"\s*:\s*("(?:[^"\\]|\\.)*+"|\d+)', re.DOTALL)
_SUMMARY_BEGUN = re.compile(r'"summary"\s*:\s*"((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*+)', re.DOTALL)

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Terminals obey these, and some reverse the text around them.
_CONTROL = re.compile("[\x01-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """OSVI's raw answer: nothing in it has been read, checked or trusted.

    ``body``: decoded bytes, at most ``MAX_BODY``; ``truncated``: there was more of it;
    ``incomplete``: the message did not arrive whole, its encoding is not the declared one, or it
    names no session and may be the rest of an earlier call on its connection, and ``body`` is what
    could be read; ``retry_after``: seconds, from the header of that name; ``charset``: the one that
    ``Content-Type`` declares, or ""; ``seconds``: how long OSVI took, None if that is not known.
    """

    status: int
    body: bytes = field(repr=False)
    truncated: bool = False
    incomplete: bool = False
    retry_after: float | None = None
    charset: str = ""
    seconds: float | None = None

    @cached_property
    def text(self) -> str:
        """Return the body as text that every database can store."""
        return HiddenText(storable(decode(self.body, self.charset)))


@dataclass(frozen=True, kw_only=True)
class ClosedSession:
    """OSVI says that the session is closed; ``summary`` is None if it sent none."""

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
    customer_id: str = field(default="", repr=False)
    mode: str = "ai"
    agent_number: int | None = None
    help_requested: bool = False
    active_human: str = field(default="", repr=False)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    payload: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class StartedSession:
    """The answer to a legacy start; ``started_at`` is UTC."""

    session_id: str
    agent_name: str = ""
    started_at: datetime | None = None
    welcome_message: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the agent says to a message; None if a human has taken over, or it says nothing.

    ``state``, ``mode`` and ``help_requested``: what Chat v1 also says about the session; None is
    what it does not say.
    """

    session_id: str
    text: str | None = field(default=None, repr=False)
    state: str | None = None
    mode: str | None = None
    help_requested: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SupportAnswer:
    """A support command's answer: ``reply`` for ``tell``, ``active_human`` for ``takeover``."""

    session_id: str
    reply: str | None = field(default=None, repr=False)
    active_human: str = ""


def read_closed(answer: Answer, session_id: str) -> ClosedSession:
    """Check OSVI's answer to a close, of either dialect, and return what it says.

    Errors in it that decide nothing are ignored. Which session it is about and whether that was
    closed must be certain. Raises ``OSVIRejected`` and its subclasses, ``OSVIGatewayRefused``,
    ``OSVIBadAnswer`` and ``OSVINoAnswer``.
    """
    levels, rest = _read_levels(answer)
    is_named = _require_same(levels, session_id, answer.status)
    said_yes = any(_says(level.get("success")) for level in levels)
    summary = _summary_of(levels, answer.status)
    # OSVI guarantees neither of the two keys, and a summary must not be lost because one is
    # missing.
    is_ours = is_named or (said_yes and not rest)
    is_closed = bool(summary) or (is_named and said_yes and _leaves_no_doubt(levels, rest))
    if answer.incomplete and not (is_named and summary):
        raise OSVINoAnswer(status=answer.status)
    if not (is_ours and is_closed):
        raise OSVIBadAnswer(status=answer.status)
    return ClosedSession(session_id=session_id, summary=summary or None)


def _summary_of(levels: Sequence[JSONObject], status: int) -> str:
    """Return the summary from the level that has it. Raise ``OSVIBadAnswer`` if several have."""
    summaries = [level["summary"] for level in levels if level.get("summary") is not None]
    if not all(isinstance(each, str) for each in summaries):
        raise OSVIBadAnswer(status=status)
    texts = {HiddenText(storable(each).strip()) for each in summaries} - {""}
    if len(texts) > 1:
        raise OSVIBadAnswer(status=status)
    return next(iter(texts), "")


def _leaves_no_doubt(levels: Sequence[JSONObject], rest: str) -> bool:
    """Return whether no part of an answer without a summary contradicts a close without one."""
    # The answer to another command to this session may have been left on the connection.
    commands = {str(level.get("command") or "close").lower() for level in levels}
    is_open = any(level.get("status") in _OPEN for level in levels)
    return "summary" not in rest and not is_open and commands == {"close"}


def spellings(session_id: str) -> tuple[str, ...]:
    """Return the ways in which an id may be stored here, that of a new row first.

    The case of a UUID does not matter; any other id is the same only if every character is.
    """
    if not _UUID.fullmatch(session_id):
        return (session_id,)
    lower, upper = session_id.lower(), session_id.upper()
    first = session_id if session_id in (lower, upper) else lower
    return tuple(dict.fromkeys((first, lower, upper, session_id)))


def is_same_id(named: object, session_id: str) -> bool:
    """Return whether an id in an answer is this one, whatever its case, type or spaces."""
    if isinstance(named, bool) or not isinstance(named, str | int):
        return False
    text = str(named)
    return session_id in (text, text.strip()) or _is_same_uuid(text, session_id)


def _is_same_uuid(text: str, session_id: str) -> bool:
    try:
        return uuid.UUID(text.strip()) == uuid.UUID(session_id)
    except ValueError:
        return False


def _require_same(levels: Sequence[JSONObject], session_id: str, status: int) -> bool:
    """Return whether the session is named; raise ``OSVIBadAnswer`` if it is another one."""
    named = list(_ids_in(levels))
    if not all(is_same_id(each, session_id) for each in named):
        raise OSVIBadAnswer(OSVIBadAnswer.another, status=status)
    return bool(named)


def _ids_in(levels: Sequence[JSONObject]) -> Iterator[Any]:
    """Yield the values that name a session."""
    named = [level[key] for level in levels for key in level if _plain(key) in _ID_KEYS]
    sessions = [_lone(level[key]) for level in levels for key in _SESSION_KEYS if key in level]
    named += [each for each in sessions if not isinstance(each, JSONObject)]
    ids = [each["id"] for each in sessions if isinstance(each, JSONObject) and "id" in each]
    named += [each for each in ids if isinstance(each, str)]
    # A number may be the id of a row, and an ``id`` beside ``data`` that of the answer.
    named = [each for each in named if each not in (None, "")] or [*ids, *_id_of_data(levels)]
    return (each for each in named if each not in (None, ""))


def _id_of_data(levels: Sequence[JSONObject]) -> list[Any]:
    data = levels[0]
    while isinstance(inner := _lone(data.get("data")), JSONObject):
        data = inner
    return [data["id"]] if "id" in data else []


def _plain(key: str) -> str:
    return key.replace("_", "").lower()


def names_another(answer: Answer, session_id: str) -> bool:
    """Return whether an answer names another session than this one, whatever else it says."""
    found = find_object(answer.body, answer.charset).fields
    named = _ids_in(_levels(found)) if found is not None else _ids_in_part(answer.text)
    return not all(is_same_id(each, session_id) for each in named)


def _ids_in_part(text: str) -> Iterator[Any]:
    """Yield the values that name a session in an object that was cut off."""
    for written in _ID_WRITTEN.findall(text):
        with suppress(ValueError):
            yield json.loads(written, strict=False)


def guess_summary(answer: Answer) -> str:
    """Return what may be the summary in an unreliable answer, for a person to review."""
    found = find_object(answer.body, answer.charset).fields
    summaries = [level.get("summary") for level in _levels(found or JSONObject())]
    for each in filter(None, summaries):
        text = each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
        return HiddenText(storable(text).strip())
    match = _SUMMARY_BEGUN.search(answer.text)
    return HiddenText(storable(_unescaped(match[1])).strip() if match else "")


def _unescaped(written: str) -> str:
    """Return the text of a JSON string, or the raw text if it is not a valid one."""
    try:
        return str(json.loads(f'"{written}"', strict=False))
    except ValueError:
        return written


def read_session(payload: Mapping[str, Any], *, status: int | None = None) -> RemoteSession:
    """Check one session object; ``status`` is the answer's. Raises ``OSVIBadAnswer``."""
    fields = _Fields(payload, status)
    _require_single(payload, status)
    return RemoteSession(
        session_id=fields.text("id"),
        status=fields.text("status"),
        customer_id=HiddenText(fields.optional_id("customer_id")),
        mode=str(fields.optional_text("mode") or "ai"),
        agent_number=fields.number("chat_agent_id"),
        help_requested=fields.flag("help_requested"),
        active_human=fields.person("active_human"),
        created_at=fields.moment("created_at"),
        updated_at=fields.moment("updated_at"),
        payload=_storable_json(dict(payload)),
    )


def read_created(answer: Answer, customer_id: str = "") -> RemoteSession:
    """Check the answer to a start for this customer. Raises the same as ``read_closed``."""
    return _read_session_of(customer_id, _read_data(answer), answer.status)


def read_active(answer: Answer, customer_id: str = "") -> RemoteSession | None:
    """Return what a customer has open with one agent, or None. Raises as ``read_closed``."""
    if says_none(answer):
        return None
    session = _read_session_of(customer_id, _read_data(answer), answer.status)
    # Only an open one is asked for; an answer with a closed one means that none is open.
    return session if session.status != "closed" else None


def read_all_active(answer: Answer, customer_id: str = "") -> dict[str, RemoteSession]:
    """Return all that a customer has open, by agent UUID. Raises as ``read_closed``."""
    found = {}
    for agent_uuid, payload in _read_data(answer).items():
        if not isinstance(payload, dict):
            raise _lacks(agent_uuid, answer.status)
        session = _read_session_of(customer_id, payload, answer.status)
        if session.status != "closed":
            found[storable(agent_uuid)] = session
    return found


def _read_session_of(
    customer_id: str, payload: Mapping[str, Any], status: int | None
) -> RemoteSession:
    """Check a session object that must be of this customer, if one is named."""
    session = read_session(payload, status=status)
    if customer_id and session.customer_id not in {"", customer_id}:
        raise OSVIBadAnswer(OSVIBadAnswer.another_customer, status=status)
    return session


def read_active_ids(answer: Answer, customer_id: str = "") -> frozenset[str]:
    """Return the ids in an object of session objects, keyed by agent. Raises as ``read_closed``."""
    sessions = _read_data(answer).values()
    if not all(_may_be_of(customer_id, each) for each in sessions):
        raise OSVIBadAnswer(status=answer.status)
    return frozenset(str(each["id"]) for each in sessions)


def _may_be_of(customer_id: str, payload: Any) -> bool:
    """Return whether it is an object with an id that names no other customer."""
    if not isinstance(payload, dict) or not _is_id(payload.get("id")):
        return False
    return not customer_id or payload.get("customer_id") in (None, "", customer_id)


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


def read_reply(answer: Answer, session_id: str = "", *, may_differ: bool = True) -> Reply:
    """Check the agent's answer to a message, of either dialect. Raises as ``read_closed``.

    ``session_id``: of the session that was asked, if it was known; ``may_differ``: whether another
    one may have answered.
    """
    data = _read_data(answer, "" if may_differ else session_id)
    fields = _Fields(data, answer.status)
    text = fields.optional_text("reply") or fields.optional_text("response")
    named = next(_ids_in([data]), None)
    is_ours = bool(session_id) and named is not None and is_same_id(named, session_id)
    # An incomplete one may be the rest of an earlier call, about another session.
    if answer.incomplete and (named is None or (session_id and not is_ours)):
        raise OSVINoAnswer(status=answer.status)
    if named is None or is_ours:
        named = session_id
    if not isinstance(named, str) or not named or storable(named) != named:
        raise _lacks("session_id", answer.status)
    return Reply(
        session_id=str(named),
        text=text or None,
        state=fields.optional_text("state") or None,
        mode=fields.optional_text("mode") or None,
        help_requested=fields.optional_flag("help_requested"),
    )


def read_support(answer: Answer, session_id: str) -> SupportAnswer:
    """Check the answer to a support command. Raises as ``read_closed``."""
    fields = _Fields(_read_data(answer, session_id), answer.status)
    return SupportAnswer(
        session_id=session_id,
        reply=fields.optional_text("reply") or None,
        active_human=fields.person("active_human"),
    )


def read_context(answer: Answer, session_id: str = "") -> tuple[str, ...]:
    """Return the context that OSVI keeps of a session now. Raises as ``read_closed``."""
    entries = _read_data(answer, session_id).get("context")
    if not isinstance(entries, list):
        raise _lacks("context", answer.status)
    return tuple(storable(each) for each in entries if isinstance(each, str))


def read_started(answer: Answer) -> StartedSession:
    """Check the answer to a legacy start. Raises as ``read_closed``."""
    return read_start(_read_data(answer), status=answer.status)


def read_start(payload: Mapping[str, Any], *, status: int | None = None) -> StartedSession:
    """Check the answer to a legacy start; ``status`` is the answer's. Raises ``OSVIBadAnswer``."""
    fields = _Fields(payload, status)
    _require_single(payload, status)
    return StartedSession(
        session_id=fields.text("session_id"),
        agent_name=fields.optional_text("agent_name"),
        started_at=fields.moment("started_at"),
        welcome_message=fields.optional_text("welcome_message"),
    )


def read_paused(answer: Answer, session_id: str = "") -> None:
    """Check the answer to a legacy pause. Raises as ``read_closed``."""
    _read_data(answer, session_id)


class _Fields:
    """A JSON object from OSVI; each method returns a field of its type or raises an error."""

    def __init__(self, data: Mapping[str, Any], status: int | None) -> None:
        self._data = data
        self._status = status

    def text(self, name: str) -> str:
        """Return a non-empty text that can be stored unchanged, as it may be an id."""
        value = self._data.get(name)
        if not isinstance(value, str) or not value or storable(value) != value:
            raise _lacks(name, self._status)
        return str(value)  # an id is shown in logs

    def optional_id(self, name: str) -> str:
        """Return a text that can be stored unchanged; "" if there is none."""
        return self.text(name) if self._data.get(name) not in (None, "") else ""

    def optional_text(self, name: str) -> str:
        """Return a text; "" if there is none."""
        return storable(self._typed(name, str) or "")

    def number(self, name: str) -> int | None:
        """Return a whole number that a column can hold, or None."""
        value: int | None = self._typed(name, int)
        if isinstance(value, bool) or not (value is None or 0 <= value < 2**63):
            raise _lacks(name, self._status)
        return value

    def flag(self, name: str) -> bool:
        """Return true or false; false if there is no value."""
        return bool(self.optional_flag(name))

    def optional_flag(self, name: str) -> bool | None:
        """Return true or false; None if there is no value."""
        value: bool | None = self._typed(name, bool)
        return value

    def moment(self, name: str) -> datetime | None:
        """Return a time; the legacy calls omit the time zone, and mean UTC."""
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

    def person(self, name: str) -> str:
        """Return the name of a person as text. OSVI does not document its form."""
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
    return OSVIBadAnswer(OSVIBadAnswer.missing_field_message % {"field": name}, status=status)


def _storable_json(value: Any, depth: int = 0) -> Any:
    """Return a JSON value in which every text, and every key, can be stored by databases."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, dict | list | tuple) and depth == _DEEPEST:
        return "..."
    if isinstance(value, dict):
        return {storable(str(key)): _storable_json(value[key], depth + 1) for key in value}
    if isinstance(value, list | tuple):
        return [_storable_json(each, depth + 1) for each in value]
    # A value that JSON does not have, such as a host's own object, or NaN.
    return value if value is None or _is_plain_number(value) else storable(_as_text(value))


def _is_plain_number(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _as_text(value: Any) -> str:
    # Python neither reads nor writes decimal numbers of thousands of digits.
    return f"{value:#x}" if isinstance(value, int) else str(value)


def says_none(answer: Answer) -> bool:
    """Return whether OSVI itself, and not a gateway, answered 404."""
    return answer.status == _NOT_FOUND and _says(_find(answer)[0].get("success")) is False


def error_in(answer: Answer) -> OSVIError | None:
    """Return the error that a raw answer is, or None if it claims success."""
    return _refusal(answer, _levels(_find(answer)[0]))


def _read_data(answer: Answer, session_id: str = "") -> JSONObject:
    """Return ``data`` of the envelope, or raise the matching error if there is none.

    ``session_id``: the session that the answer must be about, if it names one.
    """
    levels, rest = _read_levels(answer)
    data = levels[0].get("data")
    if not _says(levels[0].get("success")) or not isinstance(data, JSONObject) or rest:
        raise OSVIBadAnswer(status=answer.status)
    is_named = bool(session_id) and _require_same(levels, session_id, answer.status)
    if session_id and answer.incomplete and not is_named:
        raise OSVINoAnswer(status=answer.status)
    return data


def _read_levels(answer: Answer) -> tuple[list[JSONObject], str]:
    """Return the envelope, each ``data`` in it, and what follows. Raise any error in it."""
    fields, rest = _find(answer)
    levels = _levels(fields)
    if error := _refusal(answer, levels):
        raise error
    for level in levels:
        _require_single(level, answer.status)
    return levels, rest


def _require_single(payload: Mapping[str, Any], status: int | None) -> None:
    """Raise ``OSVIBadAnswer`` if a decisive key has two values."""
    if isinstance(payload, JSONObject) and _DECISIVE & {
        _plain(each) for each in payload.duplicates
    }:
        raise OSVIBadAnswer(status=status)


def _find(answer: Answer) -> tuple[JSONObject, str]:
    """Return the first object of an answer, empty if there is none, and what follows it."""
    # An answer that was cut off at the limit is not used, even if it happens to be valid JSON.
    if answer.truncated:
        return JSONObject(), ""
    found = find_object(answer.body, answer.charset)
    return (JSONObject(), "") if found.fields is None else (found.fields, found.rest)


def _levels(fields: JSONObject) -> list[JSONObject]:
    """Return an object, the ``data`` and the session in it, and those in these."""
    levels = [fields]
    for level in levels:  # the list grows during the loop
        inner = (_lone(level.get(key)) for key in ("data", *_SESSION_KEYS))
        levels += [each for each in inner if isinstance(each, JSONObject)]
        del levels[_MAX_LEVELS:]
    return levels


def _lone(value: Any) -> Any:
    """Return the only object of a list; anything else as it is."""
    is_one = isinstance(value, list) and len(value) == 1 and isinstance(value[0], JSONObject)
    return value[0] if is_one else value


def _says(value: Any) -> bool | None:
    """Return whether a value means yes or no; None if neither."""
    word = str(value).strip().lower() if isinstance(value, str | int) else ""
    return True if word in _YES else False if word in _NO else None


def _refusal(answer: Answer, levels: Sequence[JSONObject]) -> OSVIError | None:
    """Return the error that this answer is, or None if it claims success."""
    status, said_no = answer.status, _said_no(levels)
    reason = _reason(levels)
    if status == 401:
        return OSVIUnauthorized(status=status, reason=reason)
    if status == 429 or (status == 503 and (said_no or answer.retry_after is not None)):
        return OSVIThrottled(status=status, reason=reason, retry_after=answer.retry_after)
    if status >= 500 or (answer.incomplete and not levels[0]):
        # A gateway's 502 hides whether OSVI got the request, and OSVI's own 500 how far it came.
        return OSVINoAnswer(status=status, reason=reason, retry_after=answer.retry_after)
    if status >= 400:
        return _refusal_4xx(status, reason, levels[0])
    if said_no and status == 200:
        return OSVIRejected(status=status, reason=reason or f"HTTP {status}")
    return None if 200 <= status < 300 and not said_no else OSVIBadAnswer(status=status)


def _refusal_4xx(status: int, reason: str, fields: JSONObject) -> OSVIError:
    """Return OSVI's own refusal if it is in OSVI's envelope, else that of a gateway."""
    if _says(fields.get("success")) is None:
        message = OSVIGatewayRefused.answered % {"status": status}
        return OSVIGatewayRefused(message, status=status)
    refusal = OSVIUnknown if status == 404 else OSVIRejected
    return refusal(status=status, reason=reason or f"HTTP {status}")


def _said_no(levels: Sequence[JSONObject]) -> bool:
    """Return whether any level says no, or has an error while none says yes."""
    words = [_says(level.get("success")) for level in levels]
    return False in words or (True not in words and bool(_reason(levels)))


def _reason(levels: Sequence[JSONObject]) -> str:
    """Return OSVI's own short text: ``error`` of a 401, ``errors`` of the others."""
    said = [each for level in levels for each in _errors_of(level)]
    words = " ".join(word for word in said if isinstance(word, str))
    return storable(" ".join(_CONTROL.sub(" ", words).split()))[:MAX_REASON]


def _errors_of(fields: JSONObject) -> list[Any]:
    errors = fields.get("errors")
    return [fields.get("error"), *(errors if isinstance(errors, list) else [])]
