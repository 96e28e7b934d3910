"""The public functions for code that runs in an event loop.

Each runs the function that it is named after in a thread of its own, so that neither the loop nor
the one thread in which Django runs a request's other synchronous code waits for OSVI. The work
goes on if the task that awaits it is cancelled: what OSVI answers is stored in any case.
"""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Generic, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.db import connections, models

from osvi_django.conf import configured
from osvi_django.contexts import ThreadContext
from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.services.by_id import close_session_by_id, create_close_job_by_id
from osvi_django.services.closing import close_session
from osvi_django.services.events.control import send_events_again, switch_on_receiver
from osvi_django.services.jobs.lifecycle import (
    cancel_close_job,
    confirm_close_job,
    create_close_job,
    retry_close_job,
)
from osvi_django.services.jobs.progress import progress_of
from osvi_django.services.mirroring.customers import look_up_customer
from osvi_django.services.mirroring.sessions import mirror_session, mirror_started
from osvi_django.services.recovery.reviewing import take_reviewed_summary
from osvi_django.services.recovery.service import mark_closed, recover_session
from osvi_django.services.search import search_sessions
from osvi_django.services.selectors import find_session
from osvi_django.services.starting import start_session
from osvi_django.services.statistics import figures
from osvi_django.services.summaries import summarize
from osvi_django.services.support.context import context_of
from osvi_django.services.support.service import (
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Calls beyond wait: each needs a connection to the database now and then.
MAX_THREADS: Final = 32
# The rows that services reload while they work.
_ROWS: Final = (ChatSession, CloseAttempt, CloseJob)


class _ThreadState(threading.local):
    """Whether this is one of the threads of this module."""

    is_ours = False


class _Threads:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start without threads: a forked child has none of its parent's."""
        self.executor = ThreadPoolExecutor(
            MAX_THREADS, thread_name_prefix="osvi-async", initializer=_mark_as_ours
        )


def _mark_as_ours() -> None:
    _thread_state.is_ours = True


class _Call(Generic[_R]):
    """One call of a function. It works on copies of the rows that it is passed.

    Tasks of one loop may share a row, and threads may not.
    """

    def __init__(
        self, function: Callable[..., _R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._copied: list[tuple[models.Model, models.Model]] = []
        self._function = function
        self._args = [self._own(each) for each in args]
        self._kwargs = {name: self._own(each) for name, each in kwargs.items()}

    async def run(self) -> _R:
        """Return what the function returns; afterwards the rows are as it left them."""
        try:
            result = await self._carry_out()
        except Exception:
            self._write_back()
            raise
        self._write_back()
        return result

    async def _carry_out(self) -> _R:
        # A short hop to the thread that may have a transaction open.
        context = await sync_to_async(_context)()
        if context is None:
            return await sync_to_async(self._work)()
        run = sync_to_async(self._in_own_thread, thread_sensitive=False, executor=_threads.executor)
        return await run(context)

    def _work(self) -> _R:
        return self._function(*self._args, **self._kwargs)

    def _in_own_thread(self, context: ThreadContext) -> _R:
        try:
            return context.run(self._work)
        finally:
            connections.close_all()

    def _own(self, value: Any) -> Any:
        # Not isinstance(), which would load the user of a request here, in the loop.
        if not issubclass(type(value), _ROWS):
            return value
        own = copy.copy(value)
        self._copied.append((value, own))
        return own

    def _write_back(self) -> None:
        for original, own in self._copied:
            vars(original).update(vars(own))


def _context() -> ThreadContext | None:
    """Return this thread's context for another thread; None if the work must be done in this one.

    No other thread sees what has not been committed, and the function itself refuses a transaction
    of the caller. A thread of ours that waits for another could wait forever.
    """
    if _thread_state.is_ours or _is_inside_transaction():
        return None
    with configured():
        return ThreadContext()


def _is_inside_transaction() -> bool:
    found = connections.all(initialized_only=True)
    return any(
        each.in_atomic_block or (each.connection is not None and not each.get_autocommit())
        for each in found
    )


def _twin_of(function: Callable[_P, _R]) -> Callable[_P, Coroutine[Any, Any, _R]]:
    """Return the asynchronous function that does what ``function`` does."""

    async def twin(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        call = _Call(function, args, kwargs)
        del args, kwargs  # error reporters send the variables of each frame
        return await call.run()

    functools.update_wrapper(twin, function)
    twin.__name__ = twin.__qualname__ = f"a{function.__name__}"
    twin.__module__ = __name__
    twin.__doc__ = f"Do what ``{function.__name__}`` does, for code that runs in an event loop."
    return twin


_thread_state = _ThreadState()
_threads = _Threads()
os.register_at_fork(after_in_child=_threads.reset)

acancel_close_job = _twin_of(cancel_close_job)
aclose_session = _twin_of(close_session)
aclose_session_by_id = _twin_of(close_session_by_id)
aconfirm_close_job = _twin_of(confirm_close_job)
acontext_of = _twin_of(context_of)
acreate_close_job = _twin_of(create_close_job)
acreate_close_job_by_id = _twin_of(create_close_job_by_id)
afigures = _twin_of(figures)
afind_session = _twin_of(find_session)
ahand_back = _twin_of(hand_back)
ainject_context = _twin_of(inject_context)
alook_up_customer = _twin_of(look_up_customer)
amark_closed = _twin_of(mark_closed)
amirror_session = _twin_of(mirror_session)
amirror_started = _twin_of(mirror_started)
aprogress_of = _twin_of(progress_of)
areceive_message = _twin_of(receive_message)
arecover_session = _twin_of(recover_session)
aretry_close_job = _twin_of(retry_close_job)
asearch_sessions = _twin_of(search_sessions)
asend_events_again = _twin_of(send_events_again)
asend_message = _twin_of(send_message)
astart_session = _twin_of(start_session)
asummarize = _twin_of(summarize)
aswitch_on_receiver = _twin_of(switch_on_receiver)
atake_over = _twin_of(take_over)
atake_reviewed_summary = _twin_of(take_reviewed_summary)
atell = _twin_of(tell)
awhisper = _twin_of(whisper)
