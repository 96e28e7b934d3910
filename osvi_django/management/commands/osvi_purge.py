"""``manage.py osvi_purge``: remove texts older than the setting ``TEXT_RETENTION_DAYS``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from osvi_django.conf import InvalidSetting
from osvi_django.management.output import OSVICommand
from osvi_django.services.support import forget_texts


class Command(OSVICommand):
    """Remove old texts; run it from cron once a day."""

    help = _("Remove texts of support actions that are older than TEXT_RETENTION_DAYS.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Redact the texts, and print of how many actions."""
        try:
            forgotten = forget_texts()
        except InvalidSetting as error:
            raise CommandError(str(error)) from None
        self.say(_("%(number)d texts removed") % {"number": forgotten})
