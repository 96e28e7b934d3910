"""The clients that close sessions: apps over REST and support staff in the admin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import requests

from chaos.plan import EntryPoint, Plan

CloseOrder = tuple[Plan, EntryPoint]

APP, STAFF, PASSWORD = "app", "staff", "faults"
MAX_REQUESTS = 3  # of one client for one session
_PAUSE = 0.4  # seconds between two requests
_TIMEOUT = 40  # seconds: longer than the site waits for its database
_RETRYABLE = frozenset(
    {
        "close_in_progress",
        "busy_at_osvi",
        "unreachable",
        "rejected",
        "unauthorized",
        "unknown_at_osvi",
    }
)


@dataclass(frozen=True, kw_only=True)
class ClientResponse:
    """The response that a client got when it closed a session."""

    session_id: str
    at: float
    via: str
    status: int
    """The HTTP status; 0 if no response came."""
    error: str
    """The code of the error, or the name of the exception that ended the connection."""
    until: float = 0.0
    changed: bool = False
    summary: str | None = None


class Client:
    """Close sessions via both entry points; each thread has its own client."""

    def __init__(self, url: str, keys: dict[str, int]) -> None:
        self.url = url
        self.keys = keys
        self.browser = _session()

    def close(self, plan: Plan, via: EntryPoint, record: Callable[[ClientResponse], None]) -> None:
        """Request the close, and repeat it after an error that may pass; record each response."""
        for _ in range(MAX_REQUESTS):
            response = self._request(plan, via)
            record(response)
            if _is_final(response):
                return
            time.sleep(_PAUSE)

    def _request(self, plan: Plan, via: EntryPoint) -> ClientResponse:
        at = time.time()
        try:
            status, code, body = self._via_rest(plan) if via == "rest" else self._via_admin(plan)
        except requests.RequestException as error:
            status, code, body = 0, type(error).__name__, {}
        return ClientResponse(
            session_id=plan.session_id,
            at=at,
            until=time.time(),
            via=via,
            status=status,
            error=code,
            changed=bool(body.get("changed")),
            summary=body.get("summary"),
        )

    def _via_rest(self, plan: Plan) -> tuple[int, str, dict[str, Any]]:
        answer = requests.post(
            f"{self.url}/api/osvi/sessions/{plan.session_id}/close/",
            json={"note": "a campaign"},
            auth=(APP, PASSWORD),
            timeout=_TIMEOUT,
            proxies={"http": ""},
        )
        body = answer.json() if "json" in answer.headers.get("Content-Type", "") else {}
        return answer.status_code, body.get("code", ""), body

    def _via_admin(self, plan: Plan) -> tuple[int, str, dict[str, Any]]:
        path = f"/admin/osvi_django/chatsession/{self.keys[plan.session_id]}/close/"
        page = self.browser.get(self.url + path, timeout=_TIMEOUT)
        if "/login/" in page.url:
            credentials = {"username": STAFF, "password": PASSWORD, "next": path}
            page = self._submit(page.url, credentials)
        if page.status_code != 200:
            return page.status_code, "", {}
        page = self._submit(self.url + path, {"post": "yes", "note": "a campaign"})
        return page.status_code, "", {}

    def _submit(self, url: str, fields: dict[str, str]) -> requests.Response:
        data = {"csrfmiddlewaretoken": self.browser.cookies.get("csrftoken", ""), **fields}
        return self.browser.post(url, data=data, timeout=_TIMEOUT)


class ClientPool:
    """Clients that work at the same time; several of them often close the same session."""

    def __init__(self, url: str, keys: dict[str, int], size: int) -> None:
        self.url = url
        self.keys = keys
        self.size = size
        self.responses: list[ClientResponse] = []
        self._lock = threading.Lock()
        self._errors: list[Exception] = []

    def close(self, orders: list[CloseOrder], before: Callable[[Plan], None]) -> None:
        """Carry out all orders; each client calls ``before`` when it starts with one."""
        waiting = iter(orders)
        threads = [
            threading.Thread(target=self._work, args=(waiting, before), daemon=True)
            for _ in range(self.size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._errors:
            raise self._errors[0]

    def _work(self, waiting: Iterator[CloseOrder], before: Callable[[Plan], None]) -> None:
        try:
            self._carry_out(waiting, before)
        except Exception as error:  # noqa: BLE001 - raised when all threads have ended
            self._errors.append(error)

    def _carry_out(self, waiting: Iterator[CloseOrder], before: Callable[[Plan], None]) -> None:
        client = Client(self.url, self.keys)
        while True:
            with self._lock:
                order = next(waiting, None)
            if order is None:
                return
            plan, via = order
            before(plan)
            client.close(plan, via, self._record)

    def _record(self, response: ClientResponse) -> None:
        with self._lock:
            self.responses.append(response)


def _is_final(response: ClientResponse) -> bool:
    """Return whether the session is closed, or another request could not help."""
    is_refused = bool(response.status and response.error) and response.error not in _RETRYABLE
    return response.status == 200 or is_refused


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    return session
