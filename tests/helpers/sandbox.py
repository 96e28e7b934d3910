"""Sessions that exist both here and at the sandbox, and faults of the sandbox."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from django.db import connection

from osvi_django.testing import Fault
from osvi_django.testing.factories import ChatSessionFactory

SUMMARY = "The customer asked for a refund.\nThe agent <b>gave</b> it."


def mirror(osvi, *, summary=SUMMARY, **fields):
    """Create a session with these fields, and the same session at this sandbox."""
    session = ChatSessionFactory(**fields)
    osvi.add_session(
        session_id=session.session_id,
        agent_uuid=session.agent.uuid,
        customer_id=session.customer_id,
        summary=summary,
        # At OSVI it is open, whatever its state here.
        status=session.status if session.is_open else "active",
    )
    return session


def script_next_starts(osvi, *faults):
    """Script a fault for each of the next starts, and none for the look-up before each."""
    for fault in faults:
        osvi.script(None, CallThenAnswer(lambda: None), fault)


@dataclass(frozen=True)
class CallThenAnswer(Fault):
    """Call a function while the request is in progress, then answer it as usual."""

    do: Callable[[], object]

    def play(self, exchange):
        try:
            self.do()
        finally:
            connection.close()  # each thread has one of its own
        exchange.send(exchange.carry_out())


class ConcurrencyCounter:
    """Count how many closes are in progress at once; use it as the sandbox's latency.

    The first closes are answered when ``number`` of them have arrived, however slow the machine
    is.
    """

    def __init__(self, seconds, number=1):
        self.seconds = seconds
        self.number = number
        self.most = 0
        self._all_arrived = threading.Event()
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _chat):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            if self.most >= self.number:
                self._all_arrived.set()
        self._all_arrived.wait(10)
        # A little sooner than the answer: what is sent next is not in progress at the same time.
        threading.Timer(0.8 * self.seconds, self._leave).start()
        return self.seconds

    def _leave(self):
        with self._lock:
            self._now -= 1
