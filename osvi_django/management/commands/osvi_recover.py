"""``manage.py osvi_recover [--watch [SECONDS]]``: settle what was lost on the way."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from osvi_django.management.watching import add_watch_argument, watch
from osvi_django.services.recovery import RecoveryResult, Settled, recover_all

# How often to look, unless it is said.
_EVERY: Final = 60  # seconds


class Command(BaseCommand):
    """For cron without ``--watch``, for systemd or a container with it."""

    help = _("Settle the chat sessions of which nobody knows whether they are closed.")

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_watch_argument(parser, _EVERY)

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep once and fail where a session failed, or for ever and say so each time."""
        if options["watch"] is None:
            self._sweep_once()
        else:
            watch(self, options["watch"], lambda _stopped: self._sweep())

    def _sweep_once(self) -> None:
        failed = self._sweep()[Settled.FAILED]
        if failed:
            raise CommandError(_("%(failed)d failed: the log says how.") % {"failed": failed})

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
