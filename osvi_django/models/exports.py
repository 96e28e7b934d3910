"""The history of exports: who took which data along."""

from __future__ import annotations

from typing import Final

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.models.attempts import Requested

SELECTION_MAX_LENGTH: Final = 500


class DataExport(Requested):
    """One export of chat sessions, without what was exported.

    It is written before the first byte leaves the site. One that stays ``started`` was cut off with
    its process.
    """

    class Format(models.TextChoices):
        """The format of the file."""

        CSV = "csv", "CSV"
        JSONL = "jsonl", "JSON Lines"
        XLSX = "xlsx", _("Excel (XLSX)")

    class Outcome(models.TextChoices):
        """Whether all of it was sent; ``started`` is unfinished."""

        STARTED = "started", _("not finished")
        COMPLETED = "completed", _("completed")
        BROKEN_OFF = "broken_off", _("broken off")

    file_format = models.CharField(_("format"), max_length=8, choices=Format.choices)
    selection = models.CharField(
        _("selection"),
        max_length=SELECTION_MAX_LENGTH,
        blank=True,
        help_text=_("How the sessions were chosen, in words."),
    )
    has_words = models.BooleanField(
        _("with summaries and notes"),
        default=False,
        help_text=_("Whether the requester may read what was said in chats."),
    )
    rows = models.PositiveIntegerField(
        _("chats"), default=0, help_text=_("How many were read for it, also if it was broken off.")
    )
    outcome = models.CharField(
        _("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.STARTED
    )
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        verbose_name = _("export")
        verbose_name_plural = _("exports")
        ordering = ("-id",)
        default_permissions = ("view",)

    def __str__(self) -> str:
        return str(_("Export %(id)s") % {"id": self.pk})
