"""What befalls us from outside: news while OSVI is asked, a database or a permission that goes."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from django.contrib.auth.backends import BaseBackend
from django.db import connection

from osvi_django.testing import Fault


@dataclass(frozen=True)
class Meanwhile(Fault):
    """The answer that the request deserves, and something else before it."""

    do: Callable[[], object]

    def play(self, exchange):
        try:
            self.do()
        finally:
            connection.close()  # each thread has one of its own
        exchange.send(exchange.carry_out())


@contextmanager
def refused(is_refused, error):
    """This thread's connection raises the error for queries of which ``is_refused`` says so."""

    def answer(execute, sql, params, many, context):
        if is_refused(sql, params or ()):
            raise error
        return execute(sql, params, many, context)

    with connection.execute_wrapper(answer):
        yield


@contextmanager
def noticed(is_meant, do):
    """Something is done after queries on this thread's connection, where ``is_meant`` says so."""

    def answer(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        if is_meant(sql, params or ()):
            do()
        return result

    with connection.execute_wrapper(answer):
        yield


@contextmanager
def ignored(is_meant):
    """Statements on this thread's connection do nothing, as MariaDB's INSERT IGNORE at times."""

    def answer(execute, sql, params, many, context):
        return None if is_meant(sql, params or ()) else execute(sql, params, many, context)

    with connection.execute_wrapper(answer):
        yield


class Fickle(BaseBackend):
    """A host's own backend: a permission that is in ``once`` is gone at the second look."""

    once: ClassVar[list[str]] = []

    def has_perm(self, user_obj, perm, obj=None):
        if perm not in self.once:
            return False
        self.once.remove(perm)
        return True


def in_another_thread(work):
    """Do something with a connection of its own, and wait for it."""

    def run():
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


class StopsAfter(io.StringIO):
    """Output that ends this process's command, as systemd would, when it says a thing so often."""

    def __init__(self, said, times=1):
        super().__init__()
        self._said, self._times = said, times

    def write(self, text):
        written = super().write(text)
        if self._said in text:
            self._times -= 1
            if self._times == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return written


class AtOnce:
    """A latency of the sandbox, in seconds, that notes how many closes were under way at once.

    The first closes are answered when ``number`` of them are there, however slow the machine is.
    """

    def __init__(self, seconds, number=1):
        self.seconds = seconds
        self.number = number
        self.most = 0
        self._all_there = threading.Event()
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, _chat):
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            if self.most >= self.number:
                self._all_there.set()
        self._all_there.wait(10)
        # A little sooner than the answer: what is sent next is not under way beside it.
        threading.Timer(0.8 * self.seconds, self._leave).start()
        return self.seconds

    def _leave(self):
        with self._lock:
            self._now -= 1
