"""One request and its answer: the deadline, the size limit, the token."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http.client import HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase
from urllib3 import (
    BaseHTTPResponse,
    HTTPResponse,
)
from urllib3.exceptions import (
    HTTPError,
    InvalidHeader,
)

from osvi_django import clock
from osvi_django.client.connections import RETRY, NetworkRefused, NotSetUp, thread_state
from osvi_django.client.responses import Answer
from osvi_django.conf import InvalidSetting, configured, token_problem
from osvi_django.exceptions import (
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIUnreachable,
)
from osvi_django.redaction import HiddenBuffer, HiddenBytes, HiddenText, hidden

logger = logging.getLogger("osvi_django.client")

MAX_BODY: Final = 2_000_000  # bytes, decoded
MAX_RETRY_AFTER: Final = 21_600  # seconds: urllib3 trusts no more either
_CHUNK: Final = 65_536  # bytes
_GZIP_MAGIC: Final = b"\x1f\x8b"  # no text begins like this
TOKEN_PLACEHOLDER: Final = "[API token]"  # noqa: S105 - stands for it
_CHARSET = re.compile(r"""(?i);\s*charset\s*=\s*["']?([\w.:+-]{1,40})""", re.ASCII)
# A name that ends in "id" and its value, in JSON: a session's id, in any spelling.
_NAMED = re.compile(rb'id"\s*:\s*"?([^"\s,}\]]*)', re.IGNORECASE)
# The beginning of a non-empty object: in ASCII and its supersets, UTF-16, and EBCDIC.
_OBJECT = re.compile(rb'\{[\s\x00]*"|\xc0[\x05\x0d\x15\x25\x40]*\x7f')

_WIRE_ERRORS = (requests.RequestException, HTTPError, HTTPException, OSError)


class Transport:
    """Sends requests to one account's OSVI; every call of a client goes through here.

    ``read_token`` returns the API token; it is called for each request. ``connect_timeout``,
    ``read_timeout``, ``deadline`` and ``idle_timeout`` are seconds, as in ``OSVIClient``.
    ``before_call`` is called before each request.
    """

    def __init__(
        self,
        *,
        read_token: Callable[[], str],
        base_url: str,
        connect_timeout: float,
        read_timeout: float,
        deadline: float,
        idle_timeout: float,
        before_call: Callable[[], object] | None,
    ) -> None:
        self._read_token = read_token
        self.base_url = base_url
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self.deadline = deadline
        self.idle_timeout = idle_timeout
        self._before_call = before_call

    def send(
        self,
        method: str,
        path: str,
        payload: dict[str, Any] | None = None,
        send_by: float = float("inf"),
        *,
        of: str = "",
    ) -> Answer:
        """Send one request and return the raw answer.

        ``send_by``: a moment of the monotonic clock after which nothing is sent; ``of``: the id of
        the session that the request is about. Raises ``OSVIUnreachable``, ``OSVINoAnswer``,
        ``OSVINotConfigured``.
        """
        started = clock.monotonic()
        path, payload = HiddenText(path), hidden(payload)
        host = urlsplit(self.base_url).hostname or ""
        thread_state.begin(started + self.deadline, host, self.idle_timeout)
        thread_state.send_by = send_by
        auth = self._auth()
        if self._before_call is not None:
            self._before_call()
        error: OSVIError | OSVINotConfigured | None = None
        try:
            answer = self._exchange(method, self.base_url + path, payload, auth, of)
        except (*_WIRE_ERRORS, ValueError) as exc:
            if not isinstance(exc, _WIRE_ERRORS) and thread_state.sent is not False:
                raise
            error = _not_answered(exc)
            outcome = f"{error.code} ({_names(exc)})"
        except NetworkRefused as exc:
            error = exc.with_traceback(None)
            outcome = "refused"
        else:
            outcome = str(answer.status)
        # The query contains the customer.
        seconds = clock.monotonic() - started
        call = (method, path.partition("?")[0], outcome, seconds)
        logger.info("%s %s: %s in %.2f s", *call)
        if error is None:
            return replace(answer, seconds=seconds)
        # Raised outside the except block, so that requests' error, which has the token, is not
        # chained.
        raise error

    def _exchange(
        self, method: str, url: str, payload: dict[str, Any] | None, auth: _TokenAuth, of: str
    ) -> Answer:
        is_whole = False
        try:
            with self._ask(method, url, payload, auth) as response:
                answer = self._read(response, auth)
            if payload is not None and _names_no_session(answer):
                # The rest of an earlier call on the connection may be read in place of the answer.
                # Its connection is closed, so that the next call to such a server is on a new one.
                return replace(answer, incomplete=answer.incomplete or thread_state.is_reused)
            # After another session's answer, ours may follow: the next call must not read it.
            is_in_step = not (of and _may_name_another(answer, of))
            is_whole = is_in_step and not (answer.truncated or answer.incomplete)
            return answer
        finally:
            thread_state.end(is_whole=is_whole)

    def _read(self, response: requests.Response, auth: _TokenAuth) -> Answer:
        body = _read_body(response)
        return Answer(
            status=response.status_code,
            # Remove the token, then cut: the cut may go through the middle of a token.
            body=HiddenBytes(auth.scrub(body.data)[:MAX_BODY]),
            truncated=body.truncated,
            incomplete=body.incomplete,
            retry_after=retry_after_of(response.headers.get("Retry-After")),
            charset=_charset(response.headers.get("Content-Type")),
        )

    def _ask(
        self, method: str, url: str, payload: dict[str, Any] | None, auth: _TokenAuth
    ) -> requests.Response:
        session = thread_state.session(url)
        headers, body = dict(session.headers), None
        if payload is not None:
            headers["Content-Type"] = "application/json"
            body = HiddenBytes(json.dumps(payload).encode())
        request = requests.Request(method, url, headers=headers, data=body, auth=auth)
        # Prepared without the session, whose merging takes a tenth of the call's CPU time.
        prepared = request.prepare()
        # Proxies and trusted authorities, if the environment names them.
        environment = session.merge_environment_settings(prepared.url, {}, True, None, None)
        timeout = (self.connect_timeout, self.read_timeout)
        thread_state.sent = None
        return session.send(prepared, timeout=timeout, allow_redirects=False, **environment)

    def _auth(self) -> _TokenAuth:
        with configured():
            token, problem = self._checked_token()
        if problem:
            # Raised outside the except block, so that the callable's error is not chained to ours.
            raise OSVINotConfigured(problem)
        return _TokenAuth(token)

    def _checked_token(self) -> tuple[str, str]:
        """Return the token and "", or "" and why there is none."""
        try:
            token = hidden(self._read_token())
        except InvalidSetting:
            raise
        except Exception as exc:  # noqa: BLE001  # the host's own code, and it may quote the token
            return "", f"The API token could not be read: its callable raised {type(exc).__name__}."
        if problem := token_problem(token):
            return "", f"The API token {problem}."
        return token, ""


def reader_of(token: str | Callable[[], str]) -> Callable[[], str]:
    """Return a callable that returns the token."""
    token = hidden(token)
    return token if callable(token) else lambda: token


@dataclass(frozen=True, kw_only=True)
class _Body:
    """A decoded body; ``truncated`` and ``incomplete`` are those of ``Answer``."""

    data: bytes = field(repr=False)
    truncated: bool = False
    incomplete: bool = False


def _names_no_session(answer: Answer) -> bool:
    """Return whether an answer may be read as a success but names no session."""
    if not 200 <= answer.status < 300 or _NAMED.search(answer.body):
        return False
    return _OBJECT.search(answer.body) is not None


def _may_name_another(answer: Answer, session_id: str) -> bool:
    """Return whether an answer has ids in it, but not this one in its usual spelling.

    No parser is used: an answer is stored before it is parsed.
    """
    named = [each.lower() for each in _NAMED.findall(answer.body)]
    return bool(named) and session_id.lower().encode() not in named


def _read_body(response: requests.Response) -> _Body:
    """Return the decoded body, hardly more than ``MAX_BODY`` of it, or what arrived of it."""
    raw, is_broken = HiddenBuffer(), False
    try:
        # read1 returns what is there, so the limit is checked however the body arrives.
        while len(raw) <= MAX_BODY and (chunk := _read_some(response.raw)):
            raw += chunk
            del chunk
    except _WIRE_ERRORS:
        if not raw:
            raise
        is_broken = True
    if not raw and not is_broken and response.content:
        # A hook of another package has already read and decoded it.
        return _Body(data=HiddenBytes(response.content), truncated=len(response.content) > MAX_BODY)
    data, is_decoded = _decoded(raw, _encoding(response))
    return _Body(
        data=data,
        truncated=max(len(raw), len(data)) > MAX_BODY,
        incomplete=is_broken or not is_decoded,
    )


def _read_some(raw: Any) -> bytes:
    if isinstance(raw, BaseHTTPResponse):
        return raw.read1(_CHUNK, decode_content=False)
    return bytes(raw.read1(_CHUNK))


def _encoding(response: requests.Response) -> str | None:
    """Return the encoding of a body; that of a test recorder's answer is already decoded."""
    is_real = isinstance(response.raw, BaseHTTPResponse)
    declared = response.headers.get("Content-Encoding", "") if is_real else ""
    return declared if declared.strip().lower() not in {"", "identity"} else None


def _decoded(raw: bytearray, encoding: str | None) -> tuple[bytes, bool]:
    """Return a decoded body, or what can be decoded of it, and whether all of it was."""
    if not encoding and raw.startswith(_GZIP_MAGIC):
        encoding = "gzip"  # a proxy has removed the header and left the encoding
    if not encoding:
        return HiddenBytes(raw), True
    data, is_decoded = _unpacked(io.BytesIO(raw), encoding)
    if not is_decoded and raw.lstrip().startswith(b"{"):
        return HiddenBytes(raw), False
    if not is_decoded:
        # A decoding error loses the chunk it occurs in: with a few bytes at a time, that is little.
        data, _is_decoded = _unpacked(_Trickle(raw), encoding)
    return data or HiddenBytes(b"" if is_decoded else raw), is_decoded


def _unpacked(file: io.BytesIO, encoding: str) -> tuple[bytes, bool]:
    """Return hardly more than ``MAX_BODY`` of what urllib3 decodes, and whether it could."""
    headers = {"Content-Encoding": encoding}
    response = HTTPResponse(file, headers=headers, preload_content=False)
    data = HiddenBuffer()
    try:
        while len(data) <= MAX_BODY and (chunk := response.read1(_CHUNK, decode_content=True)):
            data += chunk
            del chunk
    except HTTPError:
        return HiddenBytes(data), False
    return HiddenBytes(data), True


class _Trickle(io.BytesIO):
    """A file that returns a little at a time, however much is asked for."""

    def __init__(self, data: bytearray) -> None:
        super().__init__(data)
        self._portion = 1 + len(data) // _CHUNK

    def read1(self, _size: int | None = -1, /) -> bytes:
        return super().read1(self._portion)


def _charset(content_type: str | None) -> str:
    """Return the charset that a ``Content-Type`` declares, or ""."""
    found = _CHARSET.search(content_type or "")
    return found[1].lower() if found else ""


def retry_after_of(header: str | None) -> float | None:
    """Return the seconds to wait, from a ``Retry-After`` in seconds or as a date, or None."""
    if header is None:
        return None
    try:
        seconds = RETRY.parse_retry_after(header)
    except (InvalidHeader, ValueError, OverflowError):
        return None
    return float(min(seconds, MAX_RETRY_AFTER))


def _not_answered(exc: Exception) -> OSVIError | OSVINotConfigured:
    """Return our own error for a network failure, which depends on whether anything was sent."""
    if isinstance(exc, NotSetUp):
        return OSVINotConfigured(str(exc))
    sent = thread_state.sent
    if sent is None:
        # Something that is not a connection of ours handled it: a mock, in tests.
        sent = not isinstance(exc, (requests.ConnectTimeout, ValueError))
    return OSVINoAnswer() if sent else OSVIUnreachable()


def _names(exc: BaseException) -> str:
    """Return the class names of an error and its causes. Their texts may hold secrets."""
    inner = exc.args[0] if exc.args and isinstance(exc.args[0], BaseException) else None
    inner = inner or getattr(exc, "reason", None)
    name = type(exc).__name__
    return f"{name}: {_names(inner)}" if isinstance(inner, BaseException) else name


class _TokenAuth(AuthBase):
    """Sets the token on a request at the last moment, and removes it from what is answered."""

    def __init__(self, token: str) -> None:
        self._token = HiddenText(token)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        # Frames, hooks and errors of other packages see this; the connection sends the token.
        request.headers["API-Token"] = TOKEN_PLACEHOLDER
        thread_state.token = self._token
        return request

    def scrub(self, body: bytes) -> bytes:
        """Return ``body`` without the token, in case a server quotes it: answers are stored."""
        # A very short one would be found in ordinary words.
        return _written(self._token).sub(b"[API token]", body) if len(self._token) >= 8 else body


@lru_cache(maxsize=16)  # tokens; each call has one, nearly always the same as before
def _written(token: str) -> re.Pattern[bytes]:
    """Return a pattern of a token in a body, in any spelling."""
    # JSON can write a character in three ways: as it is, after a backslash, and as a number.
    quoted = (rf"(?:\\?{re.escape(each)}|(?i:\\u{ord(each):04x}))" for each in token)
    return re.compile("".join(quoted).encode())
