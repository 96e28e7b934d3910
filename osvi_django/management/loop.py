"""Functions for the commands that run until they are stopped."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, OutputWrapper
from django.db import Error, close_old_connections
from django.utils.translation import gettext as _

from osvi_django.conf import MAX_SECONDS
from osvi_django.database import is_without_tables, safe_error_name

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# The exit code that shells report for a program ended by Ctrl-C.
STOPPED: Final = 130


def add_watch_argument(parser: ArgumentParser, seconds: float) -> None:
    """Declare ``--watch``; without a value it means this many seconds."""
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=seconds,
        metavar="SECONDS",
        help=_("Repeat until stopped, with this many seconds between runs (default: %(seconds)g).")
        % {"seconds": seconds},
    )


def watch(
    command: BaseCommand,
    seconds: float,
    work: Callable[[threading.Event], object],
    *,
    notices: OutputWrapper | None = None,
) -> None:
    """Call ``work`` repeatedly until Ctrl-C or SIGTERM, which set the event passed to it.

    Raises ``CommandError`` if ``seconds`` cannot be used.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise CommandError(_("--watch needs a number of seconds above 0, up to a day."))
    with stop_on_signals(notices) as stopped:
        while not stopped.is_set():
            _work_patiently(command, work, stopped)
            stopped.wait(seconds)


def _work_patiently(
    command: BaseCommand, work: Callable[[threading.Event], object], stopped: threading.Event
) -> None:
    close_old_connections()
    try:
        work(stopped)
    except Error as error:
        if is_without_tables(error):
            raise
        # The database may become available again.
        command.stderr.write(
            _("The database is unavailable: %(kind)s") % {"kind": safe_error_name(error)}
        )


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise ``KeyboardInterrupt``, as Ctrl-C does, so that temporary files are removed.

    In a thread that is not the main one, no signal can be caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def stop_on_signals(notices: OutputWrapper | None = None) -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C and SIGTERM set; afterwards restore the signal handlers.

    If ``notices`` is given, the first signal writes a notice to it, and a second Ctrl-C ends the
    process at once. In a thread that is not the main one, no signal can be caught.
    """
    stopped = threading.Event()

    def stop() -> None:
        is_first = not stopped.is_set()
        stopped.set()
        if is_first and notices is not None:
            notices.write(
                _("Stopping after the requests in progress. Press Ctrl-C again to quit now."), str
            )

    def handle(number: int, _frame: Any) -> None:
        if notices is not None and number == signal.SIGINT and stopped.is_set():
            # An exception would wait as well: a running job finishes its requests in progress.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        # In a thread: the interrupted code may hold the event's lock, or be writing.
        threading.Thread(target=stop).start()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = [signal.signal(number, handle) for number in SIGNALS]
    try:
        yield stopped
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)
