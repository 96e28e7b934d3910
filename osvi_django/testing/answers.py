"""One answer of the sandbox: a status and a payload, and their bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Any

from osvi_django.testing.sessions import SandboxSession

# A body after one of these would be read as the beginning of the next answer.
WITHOUT_BODY = frozenset({204, 304})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP answer that is not sent yet."""

    status: int = 200
    payload: Any = None
    """JSON, or bytes that go out as they are."""
    content_type: str = "application/json; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)
    closing: SandboxSession | None = None
    """The session whose close this answers; None for any other call and for a refusal."""

    @property
    def summary(self) -> str | None:
        """Return the summary in this answer; None if it has none."""
        data = self.payload.get("data") if isinstance(self.payload, dict) else None
        summary = data.get("summary") if isinstance(data, dict) else None
        return summary if isinstance(summary, str) and summary else None

    def encode(self) -> tuple[bytes, bytes]:
        """Return the head, empty line included, and the body."""
        body = b"" if self.status in WITHOUT_BODY else encode_payload(self.payload)
        fields = {
            "Content-Type": self.content_type,
            "Content-Length": str(len(body)),
            **self.headers,
        }
        lines = [f"HTTP/1.1 {self.status} {responses.get(self.status, '')}"]
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), body


def encode_payload(payload: Any) -> bytes:
    """Return bytes as they are and anything else as JSON in UTF-8."""
    if isinstance(payload, bytes):
        return payload
    try:
        return json.dumps(payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate: JSON can write it, UTF-8 cannot
        return json.dumps(payload).encode()


def success(data: Any, *, closing: SandboxSession | None = None) -> Answer:
    """Return a 200 in OSVI's envelope."""
    return Answer(payload={"success": True, "data": data}, closing=closing)


def failure(status: int, *, error: str = "", errors: tuple[str, ...] = ()) -> Answer:
    """Return a failure in OSVI's envelope: a 401 has ``error``, the others have ``errors``."""
    reason: dict[str, Any] = {"error": error} if error else {"errors": list(errors)}
    return Answer(status=status, payload={"success": False, **reason})
