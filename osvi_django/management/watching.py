"""What the commands share that run until they are stopped."""

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

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
# What a shell reports of a program that Ctrl-C has ended.
STOPPED: Final = 130


def add_watch_argument(parser: ArgumentParser, seconds: float) -> None:
    """Declare ``--watch``, which alone means ``--watch`` with so many seconds."""
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=seconds,
        metavar="SECONDS",
        help=_("Do it again, this long after each time (%(seconds)g), until stopped.")
        % {"seconds": seconds},
    )


def watch(
    command: BaseCommand,
    seconds: float,
    work: Callable[[threading.Event], object],
    *,
    tell: OutputWrapper | None = None,
) -> None:
    """Work, again and again, until Ctrl-C or SIGTERM; ``work`` is told of these by the event.

    Raises ``CommandError`` where this is no number of seconds.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise CommandError(_("--watch takes a number of seconds above 0, a day at most."))
    with stop_on_signals(tell) as stopped:
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
        # A database that is away will be back.
        command.stderr.write(_("The database is away: %(kind)s") % {"kind": type(error).__name__})


@contextmanager
def stop_on_signals(tell: OutputWrapper | None = None) -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; afterwards they do what they did before.

    Where there is something to ``tell``, the first of them is answered there, and a second Ctrl-C
    ends the process at once. In a thread that is not the main one, no signal can be caught.
    """
    stopped = threading.Event()

    def stop() -> None:
        is_first = not stopped.is_set()
        stopped.set()
        if is_first and tell is not None:
            tell.write(_("Stopping: what is under way is brought home. Another Ctrl-C kills."), str)

    def handle(number: int, _frame: Any) -> None:
        if tell is not None and number == signal.SIGINT and stopped.is_set():
            # An exception would wait as well: whoever runs a job brings home what is under way.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        # In a thread: what was interrupted may hold the event's lock, or be writing just now.
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
