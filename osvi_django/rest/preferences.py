"""What the caller prefers (RFC 7240): an answer at once, or to wait for a while."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.request import parse_http_list

from rest_framework.request import Request
from rest_framework.response import Response

RESPOND_ASYNC: Final = "respond-async"
# A request that waits holds a worker of the web server.
MAX_WAIT: Final = 30  # seconds
_DIGITS: Final = 9


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """``wait``: how many seconds the caller waits for a job before it takes its address."""

    is_async: bool = False
    wait: int = 0

    def note_applied(self, response: Response) -> Response:
        """Name in the response what was done as the caller prefers."""
        waits = f"wait={self.wait}" if self.wait else ""
        applied = filter(None, (RESPOND_ASYNC if self.is_async else "", waits))
        if header := ", ".join(applied):
            response["Preference-Applied"] = header
        return response


def preferences_of(request: Request) -> Preferences:
    """Return the preferences that are known here; the first of a name counts."""
    named: dict[str, str] = {}
    for name, value in _preferences(request):
        named.setdefault(name, value)
    wait = named.get("wait", "")
    is_number = wait.isascii() and wait.isdigit() and len(wait) <= _DIGITS
    return Preferences(
        # It has no value, and one that has is another preference.
        is_async=named.get(RESPOND_ASYNC) == "",
        wait=min(int(wait), MAX_WAIT) if is_number else 0,
    )


def _preferences(request: Request) -> Iterator[tuple[str, str]]:
    for preference in parse_http_list(request.headers.get("Prefer", "")):
        name, _equals, value = preference.partition(";")[0].partition("=")
        yield name.strip().lower(), value.strip().strip('"')
