"""Those who want sessions closed: apps over REST and support staff in the admin."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import requests

from chaos.plan import EntryPoint, Plan

APP, STAFF, PASSWORD = "app", "staff", "faults"
TRIES = 3
_PAUSE = 0.4  # seconds between two tries
_TIMEOUT = 40  # seconds: longer than the site waits for its database
_AGAIN = frozenset({"close_in_progress", "throttled", "unreachable", "rejected", "unauthorized"})


@dataclass(frozen=True, kw_only=True)
class Told:
    """What somebody who wanted a session closed was told, and when."""

    session_id: str
    at: float
    via: str
    status: int
    """HTTP's; 0 where no answer came."""
    words: str
    """The code of an error, or what went wrong with the connection."""
    until: float = 0.0
    changed: bool = False
    summary: str | None = None


class Client:
    """Closes sessions via both entry points; one for each thread."""

    def __init__(self, url: str, keys: dict[str, int]) -> None:
        self.url = url
        self.keys = keys
        self.browser = _session()

    def close(self, plan: Plan, via: EntryPoint, tell: Callable[[Told], None]) -> None:
        """Ask for it, a few times where that may help."""
        for _ in range(TRIES):
            told = self._try(plan, via)
            tell(told)
            if told.status == 200 or (told.words and told.words not in _AGAIN and told.status):
                return
            time.sleep(_PAUSE)

    def _try(self, plan: Plan, via: EntryPoint) -> Told:
        at = time.time()
        try:
            status, words, found = self._through_rest(plan) if via == "rest" else self._admin(plan)
        except requests.RequestException as error:
            status, words, found = 0, type(error).__name__, {}
        return Told(
            session_id=plan.session_id,
            at=at,
            until=time.time(),
            via=via,
            status=status,
            words=words,
            changed=bool(found.get("changed")),
            summary=found.get("summary"),
        )

    def _through_rest(self, plan: Plan) -> tuple[int, str, dict]:
        answer = requests.post(
            f"{self.url}/api/osvi/sessions/{plan.session_id}/close/",
            json={"note": "a campaign"},
            auth=(APP, PASSWORD),
            timeout=_TIMEOUT,
            proxies={"http": ""},
        )
        body = answer.json() if "json" in answer.headers.get("Content-Type", "") else {}
        return answer.status_code, body.get("code", ""), body

    def _admin(self, plan: Plan) -> tuple[int, str, dict]:
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


class Crowd:
    """Many clients at once, who take the sessions in turn, several often the same one."""

    def __init__(self, url: str, keys: dict[str, int], size: int) -> None:
        self.url = url
        self.keys = keys
        self.size = size
        self.told: list[Told] = []
        self._lock = threading.Lock()
        self._errors: list[Exception] = []

    def close(self, wishes: list[tuple[Plan, EntryPoint]], before: Callable[[Plan], None]) -> None:
        """Have all of these closed. ``before`` is called by whoever begins with a session."""
        waiting = iter(wishes)
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

    def _work(
        self, waiting: Iterator[tuple[Plan, EntryPoint]], before: Callable[[Plan], None]
    ) -> None:
        try:
            self._take_turns(waiting, before)
        except Exception as error:  # noqa: BLE001 - raised where everybody is waited for
            self._errors.append(error)

    def _take_turns(
        self, waiting: Iterator[tuple[Plan, EntryPoint]], before: Callable[[Plan], None]
    ) -> None:
        client = Client(self.url, self.keys)
        while True:
            with self._lock:
                wish = next(waiting, None)
            if wish is None:
                return
            plan, via = wish
            before(plan)
            client.close(plan, via, self._note)

    def _note(self, told: Told) -> None:
        with self._lock:
            self.told.append(told)


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    return session
