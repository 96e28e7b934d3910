"""Close jobs and their items."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.models.attempts import CloseAttempt, Requested
from osvi_django.models.labels import needs_loaded
from osvi_django.models.sessions import ChatSession
from osvi_django.validation import (
    CLOSE_REASON_MAX_LENGTH,
    ID_MAX_LENGTH,
    NOTE_MAX_LENGTH,
)


class CloseJob(Requested):
    """A job to close many sessions, and its progress; the process that runs it may die."""

    class Status(models.TextChoices):
        """Whether a job is running, and how it ended."""

        DRAFT = "draft", _("not yet confirmed")
        QUEUED = "queued", _("waiting to start")
        RUNNING = "running", _("running")
        PAUSED = "paused", _("paused")
        COMPLETED = "completed", _("finished")
        COMPLETED_WITH_ERRORS = "completed_with_errors", _("finished, some need attention")
        CANCELLED = "cancelled", _("stopped")

    UNFINISHED: ClassVar = (Status.QUEUED, Status.RUNNING, Status.PAUSED)

    uuid = models.UUIDField(
        _("UUID"),
        default=uuid.uuid4,
        unique=True,
        editable=False,
        help_text=_(
            "Identifies this job for the process that runs it: numbers repeat in each schema."
        ),
    )
    status = models.CharField(
        _("status"), max_length=32, choices=Status.choices, default=Status.QUEUED
    )
    has_requester = models.BooleanField(
        _("for a user"),
        default=False,
        editable=False,
        help_text=_("The user's permission is checked again when the job runs."),
    )
    note = models.CharField(_("note"), max_length=NOTE_MAX_LENGTH, blank=True)
    close_reason = models.CharField(
        _("reason for closing"), max_length=CLOSE_REASON_MAX_LENGTH, blank=True
    )
    goodbye = models.TextField(
        _("goodbye"),
        blank=True,
        help_text=_("What each customer is sent before the chat is closed."),
    )
    selection = models.CharField(
        _("selection"),
        max_length=500,
        blank=True,
        help_text=_("How the sessions were chosen, in words."),
    )
    retry_of = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="retries",
        verbose_name=_("retry of"),
    )
    total = models.PositiveIntegerField(_("total"), default=0)
    succeeded = models.PositiveIntegerField(_("closed"), default=0)
    failed = models.PositiveIntegerField(_("failed"), default=0)
    unconfirmed = models.PositiveIntegerField(_("unconfirmed"), default=0)
    cancelled = models.PositiveIntegerField(_("cancelled"), default=0)
    left_out = models.PositiveIntegerField(
        _("left out"),
        default=0,
        help_text=_("Sessions that no longer matched the filter, or that are spared."),
    )
    session_filter = models.JSONField(
        _("filter"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The filter that the sessions must still match when their turn comes."),
    )
    paused_by = models.CharField(_("why it is paused"), max_length=32, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    resume_at = models.DateTimeField(_("continues"), null=True, blank=True)
    running_since = models.DateTimeField(null=True, blank=True, editable=False)
    done_at_resume = models.PositiveIntegerField(default=0, editable=False)
    heartbeat_at = models.DateTimeField(
        _("last heartbeat"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When its worker last said that it runs, by the database's clock."),
    )

    class Meta:
        verbose_name = _("close job")
        verbose_name_plural = _("close jobs")
        ordering = ("-id",)
        indexes = (
            models.Index(fields=("status", "-id"), name="osvi_job_status"),
            models.Index(fields=("requester_key", "-id"), name="osvi_job_requester"),
        )

    def __str__(self) -> str:
        return str(_("Close job %(id)s") % {"id": self.pk})

    @property
    def done(self) -> int:
        """Return how many of its sessions are finished."""
        return self.succeeded + self.failed + self.unconfirmed + self.left_out

    @property
    def is_finished(self) -> bool:
        """Return whether nothing more will be done by this job."""
        return self.finished_at is not None


class CloseJobItem(models.Model):
    """One session of a job, and its outcome."""

    class Outcome(models.TextChoices):
        """The outcome of an item; ``waiting`` and ``closing`` are unfinished, the others final."""

        WAITING = "waiting", _("waiting")
        CLOSING = "closing", _("being closed")
        CLOSED = "closed", _("closed")
        ALREADY_CLOSED = "already_closed", _("already closed")
        NOT_SENT = "not_sent", _("not sent")
        REJECTED = "rejected", _("refused by OSVI")
        UNCONFIRMED = "unconfirmed", _("unconfirmed")
        NOT_FOUND = "not_found", _("not found on this site")
        NOT_ALLOWED = "not_allowed", _("not allowed")
        NO_LONGER_MATCHES = "no_longer_matches", _("no longer matches the filter")
        HELP_REQUESTED = "help_requested", _("left out, waits for a person")
        TAKEN_OVER = "taken_over", _("left out, a colleague has it")
        CANCELLED = "cancelled", _("not closed, job stopped")

    class Goodbye(models.TextChoices):
        """What became of what the customer is sent before the close."""

        SENT = "sent", _("goodbye sent")
        NOT_SENT = "not_sent", _("goodbye not sent")
        UNKNOWN = "unknown", _("goodbye sent, or not: OSVI did not answer")

    SUCCEEDED: ClassVar = (Outcome.CLOSED, Outcome.ALREADY_CLOSED)
    LEFT_OUT: ClassVar = (Outcome.NO_LONGER_MATCHES, Outcome.HELP_REQUESTED, Outcome.TAKEN_OVER)
    FAILED: ClassVar = (
        Outcome.NOT_SENT,
        Outcome.REJECTED,
        Outcome.NOT_FOUND,
        Outcome.NOT_ALLOWED,
    )
    NOT_CLOSED: ClassVar = (*FAILED, *LEFT_OUT, Outcome.CANCELLED)
    TROUBLED: ClassVar = (*FAILED, Outcome.UNCONFIRMED)

    job = models.ForeignKey(
        CloseJob,
        on_delete=models.CASCADE,
        related_name="items",
        verbose_name=_("close job"),
        db_index=False,  # the indexes below begin with it
    )
    requested_session_id = models.CharField(
        _("session id"),
        max_length=ID_MAX_LENGTH,
        help_text=_("OSVI's id of the session. This site may not know the session."),
    )
    session = models.ForeignKey(
        ChatSession,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("chat session"),
    )
    account = models.CharField(_("account"), max_length=64, blank=True)
    outcome = models.CharField(
        _("outcome"), max_length=32, choices=Outcome.choices, default=Outcome.WAITING
    )
    error_code = models.CharField(_("error code"), max_length=32, blank=True)
    error_reason = models.CharField(_("reason"), max_length=300, blank=True)
    goodbye = models.CharField(_("goodbye"), max_length=16, choices=Goodbye.choices, blank=True)
    attempt = models.ForeignKey(
        CloseAttempt,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("close attempt"),
    )
    claim = models.UUIDField(_("claim"), null=True, blank=True, editable=False)
    lease_until = models.DateTimeField(
        _("lease until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When the worker's claim ends, by the database's clock."),
    )

    class Meta:
        verbose_name = _("session of a close job")
        verbose_name_plural = _("sessions of close jobs")
        ordering = ("id",)
        indexes = (
            models.Index(fields=("job", "outcome", "account", "id"), name="osvi_item_next"),
            models.Index(fields=("job", "id"), name="osvi_item_page"),
        )

    @needs_loaded("requested_session_id")
    def __str__(self) -> str:
        return self.requested_session_id
