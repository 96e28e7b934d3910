"""Chat agents, chat sessions and their summaries."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.validation import (
    ID_MAX_LENGTH,
)


class ChatAgent(models.Model):
    """One of OSVI's AI agents; its account's token is used for its sessions."""

    account = models.CharField(
        _("account"),
        max_length=64,
        default=DEFAULT_ACCOUNT,
        help_text=_("Which OSVI account this agent belongs to."),
    )
    # Null and not "", of which an account could have only one: session objects lack the UUID.
    uuid = models.CharField(  # noqa: DJ001
        _("agent UUID"),
        max_length=ID_MAX_LENGTH,
        null=True,
        blank=True,
        help_text=_("OSVI's id of the agent. See OSVI's dashboard."),
    )
    number = models.BigIntegerField(
        _("agent number"),
        null=True,
        blank=True,
        help_text=_("OSVI's number of the agent, as in its session objects."),
    )
    name = models.CharField(_("name"), max_length=255, blank=True)
    is_unverified = models.BooleanField(
        _("unverified"),
        default=False,
        editable=False,
        help_text=_("Only a request to close a session has named this agent."),
    )

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
        # Two accounts may each have an agent of this name.
        return called if self.account == DEFAULT_ACCOUNT else f"{called} ({self.account})"


class ChatSession(models.Model):
    """A conversation of one customer with one agent, as OSVI last described it."""

    class Status(models.TextChoices):
        """The status; ``active``, ``dormant`` and ``closed`` are OSVI's terms, others are ours."""

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
        """Whether there is a summary, and if not, why."""

        PENDING = "pending", _("no summary yet")
        STORED = "stored", _("stored")
        NOT_PROVIDED = "not_provided", _("OSVI sent no summary")
        LOST = "lost", _("summary lost")

    OPEN: ClassVar = (Status.ACTIVE, Status.DORMANT)

    session_id = models.CharField(
        _("session id"),
        max_length=ID_MAX_LENGTH,
        unique=True,
        help_text=_("OSVI's id of the session."),
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
        help_text=_("The customer's phone number or id, as OSVI knows it."),
    )
    status = models.CharField(
        _("status"), max_length=16, choices=Status.choices, default=Status.ACTIVE
    )
    previous_status = models.CharField(
        _("status before the close"),
        max_length=16,
        blank=True,
        editable=False,
        help_text=_("The status that the session returns to if it is not closed."),
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
        _("summarizer ran"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When this site's summarizer last answered, with or without a text."),
    )
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)
    last_activity_at = models.DateTimeField(
        _("last activity"),
        default=timezone.now,
        help_text=_(
            "When the chat last changed or someone acted in it. Lookups that find no change and "
            "failed closes do not count."
        ),
    )
    osvi_updated_at = models.DateTimeField(
        _("changed at OSVI"),
        null=True,
        blank=True,
        help_text=_("When OSVI last changed it, as far as this site knows. Older data is ignored."),
    )
    synced_at = models.DateTimeField(
        _("looked up"),
        null=True,
        blank=True,
        help_text=_("When this site last looked it up at OSVI."),
    )
    is_unverified = models.BooleanField(
        _("unverified"),
        default=False,
        editable=False,
        help_text=_(
            "Only a request to close it has named this session. It is removed if it is not closed."
        ),
    )
    lease_until = models.DateTimeField(
        _("lease until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When the claim of the running close ends, by the database's clock."),
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
            models.Index(fields=("status", "last_activity_at"), name="osvi_session_quiet"),
        )

    def __str__(self) -> str:
        return self.session_id

    @property
    def is_open(self) -> bool:
        """Return whether OSVI has it open as far as is known, so that it can be closed."""
        return self.status in self.OPEN


class SessionSummary(models.Model):
    """The AI-written summary of a closed session: personal data, and perhaps the only copy."""

    class Source(models.TextChoices):
        """Who wrote it."""

        OSVI = "osvi", _("OSVI")
        HOST = "host", _("this site")
        REVIEWED = "reviewed", _("taken by staff from an OSVI answer")

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


class StartLock(models.Model):
    """A start, in progress, of a chat of one customer with one agent.

    Two at once would end each other's chat. The row is removed when the start has ended.
    """

    key = models.CharField(
        _("key"),
        max_length=64,
        unique=True,
        help_text=_("A hash of the account, the agent and the customer."),
    )
    claim = models.UUIDField(_("claim"), null=True, blank=True)
    lease_until = models.DateTimeField(
        _("lease until"),
        null=True,
        blank=True,
        help_text=_("When the claim of the running start ends, by the database's clock."),
    )

    class Meta:
        verbose_name = _("start lock")
        verbose_name_plural = _("start locks")
        default_permissions = ()

    def __str__(self) -> str:
        return self.key
