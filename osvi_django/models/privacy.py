"""What remains of data that was removed: counts of deleted sessions, and who was erased."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.models.attempts import Requested
from osvi_django.models.labels import needs_loaded
from osvi_django.models.sessions import ChatAgent, ChatSession
from osvi_django.validation import CLOSE_REASON_MAX_LENGTH, ID_MAX_LENGTH, VIA_MAX_LENGTH

HASH_LENGTH: Final = 64
# Each step is one chat, in one transaction.
ERASURE_STALLED: Final = timedelta(hours=1)


class DailyCount(models.Model):
    """How many closed sessions of one day, alike in all that is counted, have been deleted.

    Retention adds to it in the transaction that deletes them, so that the figures of that day stay
    what they were. It holds no customer, no session and no one's words.
    """

    key = models.CharField(
        _("key"),
        max_length=HASH_LENGTH,
        unique=True,
        editable=False,
        help_text=_("A hash of the other columns but the number: a null would be unique."),
    )
    day = models.DateField(
        _("day"), help_text=_("When they were closed, by the time zone of the site.")
    )
    account = models.CharField(_("account"), max_length=64)
    agent = models.ForeignKey(
        ChatAgent,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("agent"),
    )
    closed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("closed by"),
    )
    close_reason = models.CharField(
        _("reason for closing"),
        max_length=CLOSE_REASON_MAX_LENGTH,
        blank=True,
        help_text=_("One of CLOSE_REASONS, or the word that stands for all others."),
    )
    via = models.CharField(_("via"), max_length=VIA_MAX_LENGTH, blank=True)
    summary_status = models.CharField(
        _("summary"), max_length=16, choices=ChatSession.SummaryStatus.choices
    )
    number = models.PositiveBigIntegerField(_("number"), default=0)

    class Meta:
        verbose_name = _("daily count")
        verbose_name_plural = _("daily counts")
        default_permissions = ()
        indexes = (models.Index(fields=("day", "account"), name="osvi_count_day"),)

    @needs_loaded("day", "number")
    def __str__(self) -> str:
        return f"{self.day}: {self.number}"


class Erasure(Requested):
    """The journal of one erased customer, without the customer.

    The hash has a secret key, so that only this site can tell whether a customer is meant: if a
    backup brings the customer back, the erasure can be repeated.
    """

    class State(models.TextChoices):
        """Whether all is erased; what is ``unfinished`` must be repeated."""

        RUNNING = "running", _("running")
        DONE = "done", _("done")
        UNFINISHED = "unfinished", _("unfinished: erase the customer again")

    marker = models.CharField(
        _("marker"),
        max_length=ID_MAX_LENGTH,
        unique=True,
        help_text=_("A random text that replaces the customer's id."),
    )
    customer_hash = models.CharField(
        _("hash of the customer"),
        max_length=HASH_LENGTH,
        db_index=True,
        help_text=_("HMAC-SHA256 of the customer's id, with a key made from SECRET_KEY."),
    )
    account = models.CharField(
        _("account"), max_length=64, blank=True, help_text=_("Blank means all accounts.")
    )
    counts = models.JSONField(
        _("counts"), default=dict, help_text=_("How many rows and files of each place it was.")
    )
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    last_step_at = models.DateTimeField(
        _("last step"),
        default=timezone.now,
        editable=False,
        help_text=_("When it was begun, or last erased a chat."),
    )
    finished_at = models.DateTimeField(
        _("ended"),
        null=True,
        blank=True,
        help_text=_("When it ended, done or not. Blank while it runs, and if its process died."),
    )
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.RUNNING
    )

    class Meta:
        verbose_name = _("erasure")
        verbose_name_plural = _("erasures")
        ordering = ("-id",)
        default_permissions = ("view",)

    @needs_loaded("marker")
    def __str__(self) -> str:
        return self.marker

    @property
    def state_now(self) -> State:
        """Return its state; one that made no step for long is unfinished, as its process died."""
        is_dead = self.last_step_at < timezone.now() - ERASURE_STALLED
        is_unfinished = self.state == self.State.RUNNING and is_dead
        return self.State.UNFINISHED if is_unfinished else self.State(self.state)
