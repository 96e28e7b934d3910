"""``manage.py osvi_erase [--customer ID | --replay [FILE] | --journal]``: erase a customer."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from osvi_django.exceptions import OSVIError
from osvi_django.management.customer import add_customer, customer_of
from osvi_django.management.output import OSVICommand
from osvi_django.services.privacy.erasure import ErasureResult, erase_customer
from osvi_django.services.privacy.replaying import journal_lines, replay_erasures

_STANDARD_INPUT: Final = "-"


class Command(OSVICommand):
    """Erase one customer, or again those whom a restored backup has brought back."""

    help = _(
        "Erase what this site stores of a customer. OSVI keeps its own copy. Without --customer, "
        "the id is read from standard input, so that no list of processes shows it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        add_customer(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help=_("Erase nothing, and say what would be.")
        )
        parser.add_argument(
            "--replay",
            nargs="?",
            const="",
            metavar="FILE",
            help=_(
                "Erase everyone again who is in the journal, and in this file of --journal, after "
                "a backup was restored."
            ),
        )
        parser.add_argument(
            "--journal",
            action="store_true",
            help=_("Print the journal, without any customer, to keep it apart from the backups."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the options say."""
        try:
            self._run(**options)
        except OSVIError as error:
            raise CommandError(str(error)) from None

    def _run(self, **options: Any) -> None:
        if options["journal"]:
            for line in journal_lines():
                self.say(line)
        elif options["replay"] is not None:
            self._replay(options["replay"])
        else:
            self._say_of(
                erase_customer(
                    customer_of(options),
                    account=options["account"],
                    dry_run=options["dry_run"],
                    via="command",
                )
            )

    def _say_of(self, result: ErasureResult) -> None:
        counts = ", ".join(f"{number} {place}" for place, number in result.counts.items())
        said = _("would be erased: %(counts)s") if result.dry_run else _("erased: %(counts)s")
        self.say(said % {"counts": counts or "0"})
        if result.obstacle is not None:
            self.say(str(result.obstacle))
        self.say(result.notice)

    def _replay(self, path: str) -> None:
        failed = number = 0
        for each in replay_erasures(_lines_of(path), via="command"):
            number += 1
            if each.error is not None:
                failed += 1
                self.complain(str(each.error))
        self.say(_("%(number)d customers were here again") % {"number": number})
        if failed:
            raise CommandError(_("%(number)d of them are not erased") % {"number": failed})


def _lines_of(path: str) -> Iterable[str]:
    if not path:
        return ()
    if path == _STANDARD_INPUT:
        return list(sys.stdin)
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise CommandError(
            _("The file cannot be read: %(why)s") % {"why": error.strerror}
        ) from None
