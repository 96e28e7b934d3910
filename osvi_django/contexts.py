"""The context of a thread, for the threads that work on its behalf.

It consists of the context variables of the calling thread and, for state that is elsewhere, such as
the schema of a connection, of what the setting ``OSVI_THREAD_CONTEXT`` names: a callable that is
called in the calling thread and returns a context manager, or a callable that returns one. Each of
our threads enters it before its first query.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from osvi_django.conf import thread_context

_T = TypeVar("_T")


class ThreadContext:
    """The context of the thread that creates it, for one other thread at a time.

    Raises ``InvalidSetting``, and what the host's callable raises.
    """

    def __init__(self) -> None:
        self._variables = contextvars.copy_context()
        self._hook = thread_context()
        self._found: Any = self._hook() if self._hook else None

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same effect on the database: variables alone have none."""
        is_alike = isinstance(other, ThreadContext) and self._hook is other._hook is None
        return self is other or is_alike

    def __hash__(self) -> int:
        return 0 if self._hook is None else id(self)

    def run(self, work: Callable[[], _T]) -> _T:
        """Return what ``work`` returns in this context; it may be entered any number of times."""
        return self._variables.run(self._run_inside, work)

    def _run_inside(self, work: Callable[[], _T]) -> _T:
        if self._hook is None:
            return work()
        with self._entered(self._hook):
            return work()

    @contextmanager
    def _entered(self, hook: Callable[[], object]) -> Iterator[None]:
        found = self._found
        is_manager = isinstance(found, AbstractContextManager)
        with found if is_manager else found():
            try:
                yield
            finally:
                if is_manager:
                    # A context manager may work only once. Called here, the hook returns one for
                    # the same context.
                    self._found = hook()
