"""The mirror of OSVI's chat sessions, their summaries, and the journal of every close.

Rows only: what may be done with them, and in which order, is the services' business. The vendor's
ids stand beside keys of our own, and nothing here holds a token.
"""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.conf import DEFAULT_ACCOUNT

ID_MAX_LENGTH = 255
DOOR_MAX_LENGTH = 32
NOTE_MAX_LENGTH = 1_000
ANSWER_MAX_BYTES = 1_000_000


class ChatAgent(models.Model):
    """One of OSVI's AI agents; it belongs to an account, and its sessions go through that."""

    account = models.CharField(
        _("account"),
        max_length=64,
        default=DEFAULT_ACCOUNT,
        help_text=_("The entry of the OSVI setting whose token speaks for this agent."),
    )
    # Null and not "", of which there could be one in an account: session objects do not have it.
    uuid = models.CharField(  # noqa: DJ001
        _("agent UUID"),
        max_length=ID_MAX_LENGTH,
        null=True,
        blank=True,
        help_text=_("OSVI's own id of the agent."),
    )
    number = models.BigIntegerField(
        _("agent number"),
        null=True,
        blank=True,
        help_text=_("OSVI's number of the agent, which its session objects have."),
    )
    name = models.CharField(_("name"), max_length=255, blank=True)

    class Meta:
        verbose_name = _("chat agent")
        verbose_name_plural = _("chat agents")
        ordering = ("name", "uuid")
        constraints = (
            models.UniqueConstraint(fields=("account", "uuid"), name="osvi_agent_per_account"),
            models.UniqueConstraint(fields=("account", "number"), name="osvi_agent_number"),
        )

    def __str__(self) -> str:
        called = self.name or self.uuid or str(_("Agent %(number)s") % {"number": self.number})
        # Two accounts may each have one of this name.
        return called if self.account == DEFAULT_ACCOUNT else f"{called} ({self.account})"


class ChatSession(models.Model):
    """A conversation of one customer with one agent, as OSVI last told of it."""

    class Status(models.TextChoices):
        """``active``, ``dormant`` and ``closed`` are OSVI's words; the others are ours."""

        ACTIVE = "active", _("active")
        DORMANT = "dormant", _("dormant")
        CLOSING = "closing", _("being closed")
        UNCONFIRMED = "unconfirmed", _("unconfirmed")
        CLOSED = "closed", _("closed")

    class Mode(models.TextChoices):
        """Who answers the customer."""

        AI = "ai", _("AI agent")
        SUPPORT = "support", _("support staff")

    class SummaryStatus(models.TextChoices):
        """Whether there is a summary, and why not."""

        PENDING = "pending", _("none before the close")
        STORED = "stored", _("stored")
        NOT_PROVIDED = "not_provided", _("OSVI provided none")
        LOST = "lost", _("lost on the way")

    OPEN: ClassVar = (Status.ACTIVE, Status.DORMANT)

    session_id = models.CharField(
        _("session id"),
        max_length=ID_MAX_LENGTH,
        unique=True,
        help_text=_("OSVI's own id of the session."),
    )
    agent = models.ForeignKey(
        ChatAgent,
        on_delete=models.PROTECT,
        related_name="sessions",
        verbose_name=_("agent"),
        db_index=False,  # one of the indexes below begins with it
    )
    customer_id = models.CharField(
        _("customer"),
        max_length=ID_MAX_LENGTH,
        blank=True,
        db_index=True,
        help_text=_("The id that you gave OSVI for the customer."),
    )
    status = models.CharField(
        _("status"), max_length=16, choices=Status.choices, default=Status.ACTIVE
    )
    status_before = models.CharField(
        _("status before the close"),
        max_length=16,
        blank=True,
        editable=False,
        help_text=_("What the session goes back to where a close did not take place."),
    )
    mode = models.CharField(_("mode"), max_length=16, choices=Mode.choices, default=Mode.AI)
    help_requested = models.BooleanField(_("help requested"), default=False)
    active_human = models.CharField(_("support person"), max_length=255, blank=True)
    metadata = models.JSONField(
        _("metadata"),
        default=dict,
        blank=True,
        help_text=_("The session object as OSVI last sent it."),
    )
    summary_status = models.CharField(
        _("summary"),
        max_length=16,
        choices=SummaryStatus.choices,
        default=SummaryStatus.PENDING,
    )
    summarizer_error = models.CharField(
        _("why this site wrote no summary"), max_length=100, blank=True, editable=False
    )
    summarized_at = models.DateTimeField(
        _("this site's summarizer asked"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When it last answered, if only that it has nothing to say."),
    )
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)
    osvi_updated_at = models.DateTimeField(
        _("changed at OSVI"),
        null=True,
        blank=True,
        help_text=_("When OSVI last changed it, as far as OSVI has told: older news is ignored."),
    )
    synced_at = models.DateTimeField(
        _("looked up"), null=True, blank=True, help_text=_("When OSVI was last asked about it.")
    )
    lease_until = models.DateTimeField(
        _("lease until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("Until when the close under way holds this session, by the database's clock."),
    )
    claim = models.UUIDField(_("claim"), null=True, blank=True, editable=False)
    created_at = models.DateTimeField(_("mirrored"), auto_now_add=True)
    updated_at = models.DateTimeField(_("updated"), auto_now=True)

    class Meta:
        verbose_name = _("chat session")
        verbose_name_plural = _("chat sessions")
        ordering = ("-started_at", "-id")
        permissions = (
            ("close_chatsession", _("Can close chat session")),
            ("operate_chatsession", _("Can operate chat session")),
        )
        # One for each way that the lists are filtered, in the order in which they are shown.
        indexes = (
            models.Index(fields=("-started_at", "-id"), name="osvi_session_newest"),
            models.Index(fields=("status", "-started_at", "-id"), name="osvi_session_status"),
            models.Index(
                fields=("summary_status", "-started_at", "-id"), name="osvi_session_summary"
            ),
            models.Index(fields=("mode", "-started_at", "-id"), name="osvi_session_mode"),
            models.Index(fields=("agent", "-started_at", "-id"), name="osvi_session_agent"),
            models.Index(fields=("customer_id", "-started_at", "-id"), name="osvi_session_cust"),
        )

    def __str__(self) -> str:
        return self.session_id

    @property
    def is_open(self) -> bool:
        """Whether OSVI has it open as far as is known, so that it can be closed."""
        return self.status in self.OPEN


class SessionSummary(models.Model):
    """The AI-written summary of a closed session: personal data, and perhaps the only copy."""

    class Source(models.TextChoices):
        """Who wrote it."""

        OSVI = "osvi", _("OSVI")
        HOST = "host", _("this site")

    session = models.OneToOneField(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="summary",
        verbose_name=_("chat session"),
    )
    text = models.TextField(_("text"))
    source = models.CharField(
        _("source"), max_length=16, choices=Source.choices, default=Source.OSVI
    )
    received_at = models.DateTimeField(_("received"), default=timezone.now)

    class Meta:
        verbose_name = _("session summary")
        verbose_name_plural = _("session summaries")

    def __str__(self) -> str:
        return str(_("Summary of %(session)s") % {"session": self.session})


class CloseAttempt(models.Model):
    """One try to close a session: who, through which door, when, and what came of it.

    Written before anything is sent, so that no close can happen without a trace. Where OSVI has
    closed a session without being asked to, ``note`` says why, and who has found it out is named.
    """

    class Outcome(models.TextChoices):
        """How far it came; ``started`` and ``answered`` are on the way, the others are its end."""

        STARTED = "started", _("under way")
        ANSWERED = "answered", _("answered, not yet settled")
        CLOSED = "closed", _("closed")
        NOT_SENT = "not_sent", _("not sent")
        REJECTED = "rejected", _("refused by OSVI")
        BAD_ANSWER = "bad_answer", _("answer not understood")
        NO_ANSWER = "no_answer", _("sent, no answer")

    class Kind(models.TextChoices):
        """What was tried."""

        CLOSE = "close", _("close")
        FETCH = "fetch", _("close once more, for the summary")
        MARK = "mark", _("mark as closed, by hand")
        MIRRORED = "mirrored", _("closed by OSVI")

    session = models.ForeignKey(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="attempts",
        verbose_name=_("chat session"),
        db_index=False,  # the constraint below begins with it
    )
    kind = models.CharField(_("kind"), max_length=16, choices=Kind.choices, default=Kind.CLOSE)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("requested by"),
    )
    door = models.CharField(
        _("door"),
        max_length=DOOR_MAX_LENGTH,
        default="code",
        help_text=_("Where the request came in: admin, rest, command, task, recovery or code."),
    )
    note = models.CharField(_("note"), max_length=NOTE_MAX_LENGTH, blank=True)
    claim = models.UUIDField(_("claim"), editable=False)
    outcome = models.CharField(
        _("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.STARTED
    )
    error_code = models.CharField(_("error code"), max_length=32, blank=True)
    error_reason = models.CharField(
        _("reason"), max_length=300, blank=True, help_text=_("OSVI's own words.")
    )
    http_status = models.PositiveSmallIntegerField(_("HTTP status"), null=True, blank=True)
    answer = models.TextField(
        _("raw answer"),
        blank=True,
        help_text=_("What OSVI answered, as it came, kept before it was read."),
    )
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    answered_at = models.DateTimeField(_("answered"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        verbose_name = _("close attempt")
        verbose_name_plural = _("close attempts")
        ordering = ("-started_at", "-id")
        # Sessions that are claimed together have one claim.
        constraints = (
            models.UniqueConstraint(fields=("session", "claim"), name="osvi_attempt_per_claim"),
        )

    def __str__(self) -> str:
        return f"{self.session}: {self.get_outcome_display()}"


class SupportAction(models.Model):
    """What somebody did in a session through this site: said, guided, took over, handed back.

    Written before anything is sent, but for a start, before which there is no session. Its texts
    are people's words, and are kept only as long as the setting ``KEEP_TEXTS`` says.
    """

    class Kind(models.TextChoices):
        """What was done; the first four are OSVI's own commands."""

        TAKE_OVER = "takeover", _("took over")
        TELL = "tell", _("told the agent")
        WHISPER = "whisper", _("whispered to the agent")
        HAND_BACK = "end", _("handed back")
        MESSAGE = "message", _("wrote to the customer")
        CONTEXT = "context", _("added context")
        INBOUND = "inbound", _("the customer wrote")
        START = "start", _("started the chat")

    class Outcome(models.TextChoices):
        """How far it came; ``started`` is on the way, or its process died."""

        STARTED = "started", _("under way")
        DONE = "done", _("done")
        NOT_SENT = "not_sent", _("not sent")
        REJECTED = "rejected", _("refused by OSVI")
        BAD_ANSWER = "bad_answer", _("answer not understood")
        NO_ANSWER = "no_answer", _("sent, no answer")

    # What may have been done, or still be under way: nobody here knows.
    UNKNOWN: ClassVar = (Outcome.STARTED, Outcome.NO_ANSWER, Outcome.BAD_ANSWER)

    session = models.ForeignKey(
        ChatSession,
        on_delete=models.CASCADE,
        related_name="actions",
        verbose_name=_("chat session"),
        db_index=False,  # the index below begins with it
    )
    kind = models.CharField(_("kind"), max_length=16, choices=Kind.choices)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("requested by"),
    )
    door = models.CharField(_("door"), max_length=DOOR_MAX_LENGTH, default="code")
    text = models.TextField(_("text"), blank=True)
    reply = models.TextField(_("the agent's reply"), blank=True)
    outcome = models.CharField(
        _("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.STARTED
    )
    error_code = models.CharField(_("error code"), max_length=32, blank=True)
    error_reason = models.CharField(
        _("reason"), max_length=300, blank=True, help_text=_("OSVI's own words.")
    )
    http_status = models.PositiveSmallIntegerField(_("HTTP status"), null=True, blank=True)
    answer = models.TextField(
        _("raw answer"),
        blank=True,
        help_text=_("What OSVI answered, as it came, kept before it was read."),
    )
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    forgotten_at = models.DateTimeField(_("texts forgotten"), null=True, blank=True)

    class Meta:
        verbose_name = _("support action")
        verbose_name_plural = _("support actions")
        ordering = ("started_at", "id")
        indexes = (
            models.Index(fields=("session", "started_at", "id"), name="osvi_action_thread"),
            models.Index(fields=("forgotten_at", "started_at"), name="osvi_action_forget"),
        )

    def __str__(self) -> str:
        return f"{self.session}: {self.get_kind_display()}"


class CloseJob(models.Model):
    """A wish to close many sessions, and how far it has come; whoever runs it may die."""

    class Status(models.TextChoices):
        """Whether it is worked on, and how it ended."""

        DRAFT = "draft", _("not yet confirmed")
        QUEUED = "queued", _("waiting to begin")
        RUNNING = "running", _("at work")
        PAUSED = "paused", _("paused")
        COMPLETED = "completed", _("completed")
        COMPLETED_WITH_ERRORS = "completed_with_errors", _("completed, with failures")
        CANCELLED = "cancelled", _("cancelled")

    UNFINISHED: ClassVar = (Status.QUEUED, Status.RUNNING, Status.PAUSED)

    status = models.CharField(
        _("status"), max_length=32, choices=Status.choices, default=Status.QUEUED
    )
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("requested by"),
    )
    for_somebody = models.BooleanField(
        _("for a user"),
        default=False,
        editable=False,
        help_text=_("Somebody's permission is asked for again when it runs."),
    )
    door = models.CharField(_("door"), max_length=DOOR_MAX_LENGTH, default="code")
    note = models.CharField(_("note"), max_length=NOTE_MAX_LENGTH, blank=True)
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
    paused_by = models.CharField(_("why it is paused"), max_length=32, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)
    resume_at = models.DateTimeField(_("goes on"), null=True, blank=True)
    running_since = models.DateTimeField(null=True, blank=True, editable=False)
    done_before = models.PositiveIntegerField(default=0, editable=False)
    seen_at = models.DateTimeField(
        _("last sign of life"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When whoever runs it last said so, by the database's clock."),
    )

    class Meta:
        verbose_name = _("close job")
        verbose_name_plural = _("close jobs")
        ordering = ("-id",)
        indexes = (models.Index(fields=("status", "-id"), name="osvi_job_status"),)

    def __str__(self) -> str:
        return str(_("Close job %(id)s") % {"id": self.pk})

    @property
    def done(self) -> int:
        """How many of its sessions have come to an end."""
        return self.succeeded + self.failed + self.unconfirmed

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be done by it."""
        return self.finished_at is not None


class CloseJobItem(models.Model):
    """One session of a job, and what became of it."""

    class Outcome(models.TextChoices):
        """``waiting`` and ``closing`` are on the way, the others are its end."""

        WAITING = "waiting", _("waiting")
        CLOSING = "closing", _("being closed")
        CLOSED = "closed", _("closed")
        ALREADY_CLOSED = "already_closed", _("closed already")
        REJECTED = "rejected", _("refused by OSVI")
        UNCONFIRMED = "unconfirmed", _("unconfirmed")
        NOT_FOUND = "not_found", _("not known here")
        NOT_ALLOWED = "not_allowed", _("not allowed")
        CANCELLED = "cancelled", _("cancelled")

    SUCCEEDED: ClassVar = (Outcome.CLOSED, Outcome.ALREADY_CLOSED)
    FAILED: ClassVar = (Outcome.REJECTED, Outcome.NOT_FOUND, Outcome.NOT_ALLOWED)

    job = models.ForeignKey(
        CloseJob,
        on_delete=models.CASCADE,
        related_name="items",
        verbose_name=_("close job"),
        db_index=False,  # the indexes below begin with it
    )
    asked_id = models.CharField(
        _("session id"),
        max_length=ID_MAX_LENGTH,
        help_text=_("OSVI's own id of the session; it may be one that is not known here."),
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
        _("outcome"), max_length=16, choices=Outcome.choices, default=Outcome.WAITING
    )
    error_code = models.CharField(_("error code"), max_length=32, blank=True)
    error_reason = models.CharField(_("reason"), max_length=300, blank=True)
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
        help_text=_("Until when whoever closes it holds it, by the database's clock."),
    )

    class Meta:
        verbose_name = _("session of a close job")
        verbose_name_plural = _("sessions of close jobs")
        ordering = ("id",)
        indexes = (
            models.Index(fields=("job", "outcome", "account", "id"), name="osvi_item_next"),
            models.Index(fields=("job", "id"), name="osvi_item_page"),
        )

    def __str__(self) -> str:
        return self.asked_id
