"""``manage.py osvi_recover [--watch [SECONDS]] [--reread]``: settle unconfirmed sessions."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from itertools import chain
from typing import Any, Final

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from osvi_django.management.loop import add_watch_argument, watch
from osvi_django.management.output import OSVICommand
from osvi_django.services.recovery import RecoveryResult, Settled, recover_all, reread_all
from osvi_django.services.recovery.unread import LeftInSpool

# The default interval.
_EVERY: Final = 60  # seconds


class Command(OSVICommand):
    """Recover sessions: from cron without ``--watch``, as a service with it."""

    help = _("Check the unconfirmed chat sessions with OSVI and store the result.")

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_watch_argument(parser, _EVERY)
        parser.add_argument(
            "--reread",
            action="store_true",
            help=_(
                "First read all stored answers of sessions without a summary again, with the "
                "rules of this version, and store the summaries found in them."
            ),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Recover once and fail if some could not be stored, or repeat until stopped."""
        reread = options["reread"]
        if options["watch"] is None:
            self._sweep_once(reread=reread)
        else:
            watch(self, options["watch"], lambda _stopped: self._sweep(reread=reread))

    def _sweep_once(self, *, reread: bool) -> None:
        if failed := self._sweep(reread=reread):
            values = {"failed": len(failed), "names": ", ".join(map(repr, failed))}
            raise CommandError(_("%(failed)d failed: %(names)s. See the log for details.") % values)

    def _sweep(self, *, reread: bool) -> list[str]:
        """Return what could not be stored in the database: ids of sessions, and paths."""
        counts: Counter[Settled] = Counter()
        left: list[LeftInSpool] = []
        failed: list[str] = []
        for result in chain(reread_all() if reread else (), recover_all(on_left=left.append)):
            counts[result.settled] += 1
            self.say(_line(result))
            if result.settled is Settled.FAILED:
                failed.append(result.session.session_id)
        for each in left:
            self.say(f"{str(each.path)!r}: {each.detail}")
        self.say(_total(counts))
        return failed + [str(each.path) for each in left]


def _line(result: RecoveryResult) -> str:
    line = f"{result.session.session_id!r}: {result.settled.value}"
    return f"{line} ({result.detail})" if result.detail else line


def _total(counts: Counter[Settled]) -> str:
    return ", ".join(f"{counts[settled]} {settled.value}" for settled in Settled)
