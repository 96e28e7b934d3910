"""Threads that look up customers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, Final

from django.db.models import QuerySet
from django.utils import timezone

from osvi_django.client import OSVIClient
from osvi_django.client.pool import CallPool, CallResult
from osvi_django.client.responses import Answer, RemoteSession
from osvi_django.client.threads import Arrived, Pools
from osvi_django.exceptions import CallError
from osvi_django.models import ChatSession
from osvi_django.services.attempts.clients import client_of
from osvi_django.services.attempts.remote_state import is_closed

# How many sessions are read at once.
_PAGE: Final = 500


@dataclass(frozen=True, kw_only=True)
class LookUp:
    """A customer to look up; ``pk`` and ``session_id`` are those of its first session."""

    pk: Any
    account: str
    session_id: str
    customer_id: str
    asked_at: datetime = field(default_factory=timezone.now)

    def ask(self, client: OSVIClient) -> Answer:
        """Return the answer of OSVI with what the customer has open."""
        return client.send_active_sessions(self.customer_id)


@dataclass(kw_only=True, eq=False)
class AnsweredLookUp:
    """A look-up whose unlisted sessions OSVI is asked about, one or more at a time.

    ``probed``: by their keys, whether these are closed; ``left``: the keys of those that are left
    as they are on purpose.
    """

    look_up: LookUp
    remotes: Mapping[str, RemoteSession]
    left: frozenset[int] = frozenset()
    to_probe: deque[ChatSession] = field(default_factory=deque)
    in_progress: int = 0
    probed: dict[int, bool] = field(default_factory=dict)
    is_failed: bool = False


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A check of whether a session that OSVI did not list is closed."""

    session: ChatSession
    answered: AnsweredLookUp

    @property
    def pk(self) -> Any:
        """Return the key of the session."""
        return self.session.pk

    @property
    def account(self) -> str:
        """Return the account whose token the call needs."""
        return self.answered.look_up.account

    def ask(self, client: OSVIClient) -> bool:
        """Return whether the session is closed."""
        return is_closed(client, self.session)


SyncCall = LookUp | Probe


class LookUpPool(CallPool[SyncCall]):
    """The look-ups of customers of one account."""

    def __init__(
        self,
        account: str,
        arrived: Arrived[CallResult[SyncCall]],
        stop: threading.Event,
        sessions: QuerySet[ChatSession],
        patience: float,
        pools: Pools | None = None,
    ) -> None:
        super().__init__(account, client_of(account, patience=patience), arrived, stop, pools)
        self.retries: deque[LookUp] = deque()
        self.answered: deque[AnsweredLookUp] = deque()
        self.error: CallError | None = None
        self._sessions = sessions
        self._last = 0
        self._read_ahead: deque[LookUp] = deque()
        self._is_exhausted = False

    @property
    def has_work(self) -> bool:
        """Return whether something is running or still to be asked."""
        if self.in_progress:
            return True
        waits = self.answered or self.retries or self._read_ahead or not self._is_exhausted
        return self.error is None and bool(waits)

    def dispatch(self) -> None:
        """Submit as many as the threads can take now."""
        capacity = self.capacity if self.error is None else 0
        while capacity > 0 and (each := self._next()) is not None:
            capacity -= 1
            call = replace(each, asked_at=timezone.now()) if isinstance(each, LookUp) else each
            self.submit(call, partial(call.ask, self.client))

    def submit_probes(self, answered: AnsweredLookUp, *sessions: ChatSession) -> None:
        """Submit the checks of this look-up before any further customer."""
        answered.to_probe.extend(sessions)
        if answered not in self.answered:
            self.answered.append(answered)

    def _next(self) -> SyncCall | None:
        if self.answered:
            return self._next_probe(self.answered[0])
        if self.retries:
            return self.retries.popleft()
        while not self._read_ahead and not self._is_exhausted:
            self._read_page()
        return self._read_ahead.popleft() if self._read_ahead else None

    def _next_probe(self, answered: AnsweredLookUp) -> Probe:
        session = answered.to_probe.popleft()
        answered.in_progress += 1
        if not answered.to_probe:
            self.answered.popleft()
        return Probe(session=session, answered=answered)

    def _read_page(self) -> None:
        page = list(self._sessions.filter(pk__gt=self._last)[:_PAGE])
        self._is_exhausted = len(page) < _PAGE
        self._last = page[-1].pk if page else self._last
        first = _first_of_each(self._sessions, {each.customer_id for each in page})
        self._read_ahead.extend(
            LookUp(
                pk=each.pk,
                account=self.account,
                session_id=each.session_id,
                customer_id=each.customer_id,
            )
            for each in page
            if first.get(each.customer_id) == each.pk
        )


def _first_of_each(sessions: QuerySet[ChatSession], customers: Collection[str]) -> dict[str, int]:
    """Return, by customer, the first of these sessions, so that each customer is asked for once.

    They are distinguished here, as MariaDB compares without regard to case.
    """
    theirs = sessions.filter(customer_id__in=customers).order_by("-pk")
    return dict(theirs.values_list("customer_id", "pk"))
