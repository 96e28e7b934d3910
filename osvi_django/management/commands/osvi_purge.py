"""``manage.py osvi_purge [--dry-run] [--only KIND ...]``: remove what is too old."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from osvi_django.conf import RETENTION_KINDS
from osvi_django.exceptions import OSVINotConfigured
from osvi_django.management.options import add_dry_run
from osvi_django.management.output import OSVICommand
from osvi_django.management.progress import EVERY
from osvi_django.services.privacy.retention import purge_expired


class Command(OSVICommand):
    """Remove old data; run it from cron once a day."""

    help = _(
        "Remove what is older than the setting RETENTION allows. It may be stopped and started "
        "again at any time, and several may run at once."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dry_run(parser)
        parser.add_argument(
            "--only",
            action="append",
            choices=RETENTION_KINDS,
            metavar="KIND",
            help=_("Remove this kind of data only; may be repeated. Kinds: %(kinds)s.")
            % {"kinds": ", ".join(RETENTION_KINDS)},
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Remove, and print how much of each kind."""
        kinds = options["only"] or RETENTION_KINDS
        counts: Counter[str] = Counter()
        next_at = time.monotonic() + EVERY
        try:
            for purged in purge_expired(only=kinds, dry_run=options["dry_run"]):
                counts[purged.kind] += purged.number
                if time.monotonic() >= next_at:
                    self.say(_("so far: %(counts)s") % {"counts": _shown(counts)})
                    next_at = time.monotonic() + EVERY
        except OSVINotConfigured as error:
            raise CommandError(str(error)) from None
        said = _("would be removed: %(counts)s") if options["dry_run"] else _("removed: %(counts)s")
        every = Counter({kind: counts[kind] for kind in RETENTION_KINDS if kind in kinds})
        self.say(said % {"counts": _shown(every)})


def _shown(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in counts.items())
