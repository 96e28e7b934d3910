"""``manage.py osvi_recover [--watch SECONDS]``: settle what was lost on the way."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, close_old_connections
from django.utils.translation import gettext as _

from osvi_django.conf import MAX_SECONDS
from osvi_django.services.recovery import RecoveryResult, Settled, recover_all


class Command(BaseCommand):
    """For cron without ``--watch``, for systemd or a container with it."""

    help = _("Settle the chat sessions of which nobody knows whether they are closed.")

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--watch",
            type=float,
            metavar="SECONDS",
            help=_("Do it again, this long after each time, until stopped."),
        )

    def handle(self, *args: Any, watch: float | None, **options: Any) -> None:
        """Sweep once and fail where a session failed, or for ever and say so each time."""
        if watch is None:
            self._sweep_once()
        elif 0 < watch <= MAX_SECONDS:
            self._watch(watch)
        else:
            raise CommandError(_("--watch takes a number of seconds above 0, a day at most."))

    def _sweep_once(self) -> None:
        failed = self._sweep()[Settled.FAILED]
        if failed:
            raise CommandError(_("%(failed)d failed: the log says how.") % {"failed": failed})

    def _watch(self, seconds: float) -> None:
        stopped = threading.Event()
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, lambda *_args: stopped.set()) for number in numbers]
        try:
            while not stopped.is_set():
                self._sweep_patiently()
                stopped.wait(seconds)
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _sweep_patiently(self) -> None:
        close_old_connections()
        try:
            self._sweep()
        except Error as error:
            # A database that is away will be back.
            self.stderr.write(_("The database is away: %(kind)s") % {"kind": type(error).__name__})

    def _sweep(self) -> Counter[Settled]:
        counts: Counter[Settled] = Counter()
        for result in recover_all():
            counts[result.settled] += 1
            self.stdout.write(_line(result))
        self.stdout.write(_total(counts))
        return counts


def _line(result: RecoveryResult) -> str:
    line = f"{result.session.session_id!r}: {result.settled.value}"
    return f"{line} ({result.detail})" if result.detail else line


def _total(counts: Counter[Settled]) -> str:
    return ", ".join(f"{counts[settled]} {settled.value}" for settled in Settled)
