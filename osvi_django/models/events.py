"""The outbox of webhooks, and the state of the receivers that the settings name."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.models.labels import needs_loaded
from osvi_django.validation import ID_MAX_LENGTH

HOST_MAX_LENGTH = 255
ERROR_MAX_LENGTH = 64


class WebhookDelivery(models.Model):
    """One event for one receiver, written in the transaction of the fact.

    It holds ids and codes, and no one's words: these are read when it is sent, if the receiver may
    have them.
    """

    class Event(models.TextChoices):
        """The type of an event, as receivers get it."""

        SESSION_STARTED = "session.started", _("chat started")
        HELP_REQUESTED = "session.help_requested", _("help requested")
        TAKEN_OVER = "session.taken_over", _("chat taken over")
        SESSION_CLOSED = "session.closed", _("chat closed")
        CLOSE_FAILED = "session.close_failed", _("chat not closed")
        SUMMARIZED = "session.summarized", _("summary written later")
        JOB_COMPLETED = "close_job.completed", _("close job finished")

    class State(models.TextChoices):
        """Whether it still has to be sent; ``pending`` is unfinished, the others final."""

        PENDING = "pending", _("waiting")
        DELIVERED = "delivered", _("delivered")
        FAILED = "failed", _("given up")

    FINAL: ClassVar = (State.DELIVERED, State.FAILED)

    event_id = models.UUIDField(
        _("event id"),
        default=uuid.uuid4,
        editable=False,
        help_text=_("The same at each try and for each receiver: webhook-id without its prefix."),
    )
    event = models.CharField(_("event"), max_length=32, choices=Event.choices)
    receiver = models.CharField(
        _("receiver"),
        max_length=16,
        help_text=_("The beginning of a hash of the receiver's URL, which may hold a secret."),
    )
    subject = models.CharField(
        _("about"),
        max_length=ID_MAX_LENGTH,
        help_text=_("OSVI's id of the session, or the UUID of the close job."),
    )
    data = models.JSONField(_("data"), default=dict, help_text=_("Ids and codes of the event."))
    occurred_at = models.DateTimeField(_("occurred"), default=timezone.now)
    state = models.CharField(
        _("state"), max_length=16, choices=State.choices, default=State.PENDING
    )
    tries = models.PositiveSmallIntegerField(_("tries"), default=0)
    waits_since = models.DateTimeField(
        _("waits since"),
        editable=False,
        help_text=_("When it was written or sent again by hand, by the database's clock."),
    )
    due_at = models.DateTimeField(
        _("next try"),
        editable=False,
        help_text=_("When it may be tried next, by the database's clock."),
    )
    http_status = models.PositiveSmallIntegerField(_("HTTP status"), null=True, blank=True)
    error_code = models.CharField(_("error code"), max_length=ERROR_MAX_LENGTH, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    claim = models.UUIDField(_("claim"), null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(
        _("lease until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When the claim of the process that sends it ends, by the database's clock."),
    )

    class Meta:
        verbose_name = _("webhook delivery")
        verbose_name_plural = _("webhook deliveries")
        ordering = ("-id",)
        default_permissions = ("view",)
        indexes = (
            models.Index(fields=("state", "receiver", "due_at", "id"), name="osvi_delivery_due"),
            # The order within a session.
            models.Index(fields=("subject", "receiver", "id"), name="osvi_delivery_order"),
            models.Index(fields=("finished_at", "id"), name="osvi_delivery_purge"),
        )

    @needs_loaded("event", "subject")
    def __str__(self) -> str:
        return f"{self.event} {self.subject}"


class WebhookReceiver(models.Model):
    """What is known about a receiver of the settings: whether it is off, or gets a pause."""

    key = models.CharField(
        _("receiver"),
        max_length=16,
        unique=True,
        help_text=_("The beginning of a hash of its URL, which may hold a secret."),
    )
    host = models.CharField(_("host"), max_length=HOST_MAX_LENGTH)
    disabled_at = models.DateTimeField(
        _("off since"),
        null=True,
        blank=True,
        help_text=_("When it answered 410, which means that it wants no more events."),
    )
    paused_until = models.DateTimeField(
        _("pause until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("It is not called before this moment of the database's clock."),
    )
    failures = models.PositiveIntegerField(
        _("failures in a row"),
        default=0,
        help_text=_("How many tries have failed since the last that did not."),
    )
    last_error = models.CharField(_("last error"), max_length=ERROR_MAX_LENGTH, blank=True)
    last_success_at = models.DateTimeField(_("last delivery"), null=True, blank=True)

    class Meta:
        verbose_name = _("webhook receiver")
        verbose_name_plural = _("webhook receivers")
        ordering = ("host", "key")
        default_permissions = ("view",)

    @needs_loaded("host", "key")
    def __str__(self) -> str:
        return f"{self.host} ({self.key})"
