"""``manage.py osvi_summarize``: write the summaries that OSVI does not provide."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext as _

from osvi_django.conf import InvalidSetting
from osvi_django.services.summaries import Summarized, summarize_missing


class Command(BaseCommand):
    """For cron, and once after ``SUMMARIZER`` was set."""

    help = _("Have the setting SUMMARIZER write the summaries that closed chat sessions lack.")

    def add_arguments(self, parser: CommandParser) -> None:
        """Whether to ask for once more what the function had nothing to say of."""
        parser.add_argument(
            "--again",
            action="store_true",
            help=_("Also sessions of which SUMMARIZER had nothing to say before."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Summarize all, and fail where some failed."""
        counts: Counter[str] = Counter()
        try:
            for found in summarize_missing(again=options["again"]):
                counts[_kind(found)] += 1
                self._tell(found)
        except InvalidSetting as error:
            raise CommandError(str(error)) from None
        self.stdout.write(
            _("%(stored)d stored, %(none)d without a text, %(failed)d failed")
            % {name: counts[name] for name in ("stored", "none", "failed")}
        )
        if counts["failed"]:
            problem = _("%(failed)d failed: the next run tries these again.")
            raise CommandError(problem % {"failed": counts["failed"]})

    def _tell(self, found: Summarized) -> None:
        line = f"{found.session.session_id!r}: {_kind(found)}"
        self.stdout.write(f"{line} ({found.error})" if found.error else line)


def _kind(found: Summarized) -> str:
    if found.error:
        return "failed"
    return "none" if found.summary is None else "stored"
