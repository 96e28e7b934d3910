"""The journal: close attempts and support actions."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.models.labels import needs_loaded
from osvi_django.models.sessions import ChatSession
from osvi_django.validation import (
    CHARSET_MAX_LENGTH,
    CLOSE_REASON_MAX_LENGTH,
    NOTE_MAX_LENGTH,
    VIA_MAX_LENGTH,
)


class Requested(models.Model):
    """Something that a caller asked for.

    Not every caller is a user of this site: a stateless token or another service has no row in the
    user table. ``requester_model`` and ``requester_key`` name every caller; ``requested_by`` only
    those that are users. All of them are empty for the host's own code.
    """

    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("requested by"),
    )
    requester_model = models.CharField(
        _("kind of caller"),
        max_length=255,
        blank=True,
        editable=False,
        help_text=_("The user model, or the path of the class of a caller that is not a user."),
    )
    requester_key = models.CharField(
        _("key of the caller"),
        max_length=255,
        blank=True,
        editable=False,
        help_text=_("The primary key or id of the caller, as text."),
    )
    via = models.CharField(
        _("via"),
        max_length=VIA_MAX_LENGTH,
        default="code",
        help_text=_("Where the request came from: admin, rest, command, task, recovery or code."),
    )

    class Meta:
        abstract = True

    @property
    def requester(self) -> str | None:
        """Return the name of the caller, as text; None for the host's own code."""
        if self.requested_by is not None:
            return str(self.requested_by.get_username())
        kind = self.requester_model.rpartition(".")[2]
        return f"{kind} {self.requester_key}".strip() or None


class JournalEntry(Requested):
    """Something that OSVI was asked to do, and what it answered."""

    error_code = models.CharField(_("error code"), max_length=32, blank=True)
    error_reason = models.CharField(
        _("reason"), max_length=300, blank=True, help_text=_("OSVI's own words.")
    )
    http_status = models.PositiveSmallIntegerField(_("HTTP status"), null=True, blank=True)
    answer = models.TextField(
        _("raw answer"),
        blank=True,
        help_text=_("OSVI's answer exactly as it arrived, stored before it was read."),
    )
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        abstract = True


class CloseAttempt(JournalEntry):
    """One attempt to close a session: who, via what, when, and the outcome.

    Written before anything is sent, so that no close can happen without a trace. If OSVI has closed
    a session without being asked to, ``reason`` says why, and the requester is who found it out.
    """

    class Outcome(models.TextChoices):
        """The state of an attempt; ``started`` and ``answered`` are unfinished, others final."""

        STARTED = "started", _("in progress")
        ANSWERED = "answered", _("answered, not yet stored")
        CLOSED = "closed", _("closed")
        NOT_SENT = "not_sent", _("not sent")
        REJECTED = "rejected", _("refused by OSVI")
        BAD_ANSWER = "bad_answer", _("unreadable answer")
        NO_ANSWER = "no_answer", _("no answer")
        REOPENED = "reopened", _("open again")

    class Kind(models.TextChoices):
        """What the attempt did."""

        CLOSE = "close", _("close")
        RECLOSE = "reclose", _("close again to get the summary")
        MARK = "mark", _("mark as closed")
        MIRRORED = "mirrored", _("closed by OSVI")
        REVIEW = "review", _("use an answer as the summary")
        REOPENED = "reopened", _("open at OSVI")

    class Reason(models.TextChoices):
        """Why OSVI has closed a session without being asked to."""

        SAID_SO = "said_so", _("OSVI said that it is closed.")
        LATER_CHAT = "later_chat", _("OSVI lists a later chat of this customer with this agent.")
        NOT_LISTED = (
            "not_listed",
            _(
                "OSVI no longer lists it as active, and refused to pause it, as it does for a "
                "closed chat."
            ),
        )
        REPLACED = (
            "replaced",
            _("OSVI closed it when the customer's next chat with this agent was started."),
        )

    session = models.ForeignKey(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="attempts",
        verbose_name=_("chat session"),
        db_index=False,  # the constraint below begins with it
    )
    kind = models.CharField(_("kind"), max_length=16, choices=Kind.choices, default=Kind.CLOSE)
    note = models.CharField(_("note"), max_length=NOTE_MAX_LENGTH, blank=True)
    close_reason = models.CharField(
        _("reason for closing"), max_length=CLOSE_REASON_MAX_LENGTH, blank=True
    )
    reason = models.CharField(
        _("why OSVI closed it"), max_length=16, choices=Reason.choices, blank=True
    )
    claim = models.UUIDField(_("claim"), editable=False)
    outcome = models.CharField(
        _("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.STARTED
    )
    answer_bytes = models.BinaryField(
        _("raw answer in bytes"),
        null=True,
        blank=True,
        help_text=_("OSVI's answer byte for byte, if the text cannot show it exactly."),
    )
    answer_charset = models.CharField(
        _("declared character set"),
        max_length=CHARSET_MAX_LENGTH,
        blank=True,
        editable=False,
        help_text=_("The character set that the answer declared, if it is stored in bytes."),
    )
    answer_incomplete = models.BooleanField(
        _("answer incomplete"),
        default=False,
        help_text=_(
            "The answer did not arrive completely, or was too long to be stored completely."
        ),
    )
    answered_at = models.DateTimeField(_("answered"), null=True, blank=True)
    osvi_seconds = models.FloatField(
        _("seconds at OSVI"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("How long OSVI took to answer, without the time before the request was sent."),
    )

    class Meta:
        verbose_name = _("close attempt")
        verbose_name_plural = _("close attempts")
        ordering = ("-started_at", "-id")
        # Sessions that are claimed together have one claim.
        constraints = (
            models.UniqueConstraint(fields=("session", "claim"), name="osvi_attempt_per_claim"),
        )
        indexes = (
            models.Index(fields=("session", "-started_at", "-id"), name="osvi_attempt_newest"),
            models.Index(fields=("started_at",), name="osvi_attempt_started"),
        )

    @needs_loaded("outcome")
    def __str__(self) -> str:
        values = {"id": self.pk, "outcome": self.get_outcome_display()}
        return str(_("Close attempt %(id)s: %(outcome)s") % values)


class SupportAction(JournalEntry):
    """An action in a session through this site: a message, an instruction, a takeover and so on.

    Written before anything is sent, except for a start, before which there is no session. Its texts
    are a person's words, and are kept only as long as the setting ``RETENTION`` says.
    """

    class Kind(models.TextChoices):
        """What was done; the first four are OSVI's own commands."""

        TAKE_OVER = "takeover", _("took over")
        TELL = "tell", _("instructed the agent")
        WHISPER = "whisper", _("gave the agent a hint")
        HAND_BACK = "end", _("handed back")
        MESSAGE = "message", _("wrote to the customer")
        CONTEXT = "context", _("added context")
        INBOUND = "inbound", _("the customer wrote")
        START = "start", _("started the chat")

    class Outcome(models.TextChoices):
        """The state of an action; ``started`` is in progress, or its process died."""

        STARTED = "started", _("in progress")
        DONE = "done", _("done")
        NOT_SENT = "not_sent", _("not sent")
        REJECTED = "rejected", _("refused by OSVI")
        BAD_ANSWER = "bad_answer", _("unreadable answer")
        NO_ANSWER = "no_answer", _("no answer")

    # These may have been done, or may still be in progress: that is not known here.
    UNKNOWN: ClassVar = (Outcome.STARTED, Outcome.NO_ANSWER, Outcome.BAD_ANSWER)
    NOT_DONE: ClassVar = (Outcome.NOT_SENT, Outcome.REJECTED)

    session = models.ForeignKey(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="actions",
        verbose_name=_("chat session"),
        db_index=False,  # the index below begins with it
    )
    kind = models.CharField(_("kind"), max_length=16, choices=Kind.choices)
    text = models.TextField(_("text"), blank=True)
    reply = models.TextField(_("the agent's reply"), blank=True)
    outcome = models.CharField(
        _("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.STARTED
    )
    redacted_at = models.DateTimeField(_("texts removed"), null=True, blank=True)
    form_key = models.UUIDField(
        _("form key"),
        null=True,
        blank=True,
        unique=True,
        editable=False,
        help_text=_("The key of the form that requested it. Each form acts once."),
    )

    class Meta:
        verbose_name = _("support action")
        verbose_name_plural = _("support actions")
        ordering = ("started_at", "id")
        indexes = (
            models.Index(fields=("session", "started_at", "id"), name="osvi_action_thread"),
            models.Index(fields=("redacted_at", "started_at"), name="osvi_action_forget"),
        )

    @needs_loaded("kind")
    def __str__(self) -> str:
        return str(_("Action %(id)s: %(kind)s") % {"id": self.pk, "kind": self.get_kind_display()})
