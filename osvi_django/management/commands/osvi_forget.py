"""``manage.py osvi_forget``: remove texts that are older than the setting ``KEEP_TEXTS``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils.translation import gettext as _

from osvi_django.conf import InvalidSetting
from osvi_django.services.support import forget_texts


class Command(BaseCommand):
    """For cron, once a day."""

    help = _("Remove what was said through this site once it is older than KEEP_TEXTS.")

    def handle(self, *args: Any, **options: Any) -> None:
        """Forget, and say of how many actions."""
        try:
            forgotten = forget_texts()
        except InvalidSetting as error:
            raise CommandError(str(error)) from None
        self.stdout.write(_("%(number)d texts removed") % {"number": forgotten})
