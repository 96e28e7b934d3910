"""``manage.py osvi_summarize``: write the summaries that OSVI does not provide."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _

from osvi_django.conf import InvalidSetting
from osvi_django.management.output import OSVICommand
from osvi_django.services.summaries import Summarized, summarize_missing


class Command(OSVICommand):
    """Write missing summaries: from cron, and once after ``SUMMARIZER`` was set."""

    help = _("Write the missing summaries of closed chat sessions with the setting SUMMARIZER.")

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare whether to ask again for sessions for which the function returned nothing."""
        parser.add_argument(
            "--again",
            action="store_true",
            help=_("Include sessions for which SUMMARIZER returned no text before."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Summarize all, and fail if some failed."""
        counts: Counter[str] = Counter()
        try:
            for found in summarize_missing(again=options["again"]):
                counts[_kind(found)] += 1
                self._report(found)
        except InvalidSetting as error:
            raise CommandError(str(error)) from None
        self.say(
            _("%(stored)d stored, %(none)d without a text, %(failed)d failed")
            % {name: counts[name] for name in ("stored", "none", "failed")}
        )
        if counts["failed"]:
            problem = _("%(failed)d failed. The next run tries them again.")
            raise CommandError(problem % {"failed": counts["failed"]})

    def _report(self, found: Summarized) -> None:
        line = f"{found.session.session_id!r}: {_kind(found)}"
        self.say(f"{line} ({found.error})" if found.error else line)


def _kind(found: Summarized) -> str:
    if found.error:
        return "failed"
    return "none" if found.summary is None else "stored"
