"""Chat agents, chat sessions and their summaries."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.db import models, router, transaction
from django.db.models import Case, F, Value, When
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.models.changes import (
    ChangeMomentField,
    SessionManager,
    SessionQuerySet,
    ShownQuerySet,
    ShownWithSessions,
    written_fields,
)
from osvi_django.models.labels import needs_loaded
from osvi_django.models.search_keys import (
    SearchKeyField,
    compact_id,
    customer_key,
    reversed_text,
)
from osvi_django.validation import CLOSE_REASON_MAX_LENGTH, ID_MAX_LENGTH, VIA_MAX_LENGTH


class AgentQuerySet(ShownQuerySet["ChatAgent"]):
    """Agents. A new name changes no session: there may be a million."""

    shown = frozenset({"account", "uuid"})

    def shown_in(self) -> SessionQuerySet[ChatSession]:
        return ChatSession.objects.get_queryset().filter(agent__in=self)


class SummaryQuerySet(ShownQuerySet["SessionSummary"]):
    """Summaries, which are shown with their sessions."""

    shown = frozenset({"text", "source"})

    def shown_in(self) -> SessionQuerySet[ChatSession]:
        return ChatSession.objects.get_queryset().filter(summary__in=self)

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete rows as Django does, and touch their sessions."""
        with transaction.atomic(using=self.written_to):
            self.touch_sessions()
            return super().delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]


class ChatAgent(ShownWithSessions):
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

    objects = AgentQuerySet.as_manager()

    class Meta:
        verbose_name = _("chat agent")
        verbose_name_plural = _("chat agents")
        ordering = ("name", "uuid")
        constraints = (
            models.UniqueConstraint(fields=("account", "uuid"), name="osvi_agent_per_account"),
            models.UniqueConstraint(fields=("account", "number"), name="osvi_agent_number"),
        )

    @needs_loaded("account", "uuid", "number", "name")
    def __str__(self) -> str:
        called = self.name or self.uuid or self._numbered()
        # Two accounts may each have an agent of this name.
        return called if self.account == DEFAULT_ACCOUNT else f"{called} ({self.account})"

    @property
    def is_unknown(self) -> bool:
        """Return whether it stands for the agents that OSVI has not named."""
        return self.uuid is None and self.number is None

    def _numbered(self) -> str:
        if self.number is None:
            return str(_("Unknown agent"))
        return str(_("Agent %(number)s") % {"number": self.number})


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
        REMOVED = "removed", _("summary removed")

    class AttentionRank(models.IntegerChoices):
        """Which sessions a list shows first."""

        HELP_REQUESTED = 0, _("help requested")
        OPEN = 1, _("open")
        CLOSED = 2, _("closed")

    OPEN: ClassVar = (Status.ACTIVE, Status.DORMANT)
    # What has been removed is not to be found or written again.
    HAD_SUMMARY: ClassVar = (SummaryStatus.STORED, SummaryStatus.REMOVED)

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
    # A search for the last digits, or for the end of an id, is one for the beginning of these.
    customer_digits = SearchKeyField("customer_id", customer_key)
    session_key = SearchKeyField("session_id", compact_id)
    session_key_reversed = SearchKeyField(
        "session_id", lambda text: reversed_text(compact_id(text))
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
    help_requested_at = models.DateTimeField(
        _("help requested since"),
        null=True,
        blank=True,
        help_text=_("When this site learned that the customer asks for a person."),
    )
    taken_over_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("taken over by"),
        help_text=_("The user who has taken over through this site."),
    )
    taken_over_at = models.DateTimeField(_("taken over"), null=True, blank=True)
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
    closed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        verbose_name=_("closed by"),
        db_index=False,  # one of the indexes below begins with it
    )
    close_reason = models.CharField(
        _("reason for closing"), max_length=CLOSE_REASON_MAX_LENGTH, blank=True
    )
    closed_via = models.CharField(
        _("closed via"),
        max_length=VIA_MAX_LENGTH,
        blank=True,
        editable=False,
        help_text=_("Where the close was requested: admin, rest and so on; blank if OSVI did it."),
    )
    close_seconds = models.FloatField(
        _("seconds to close"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("How long OSVI took to answer the close, if its answer arrived."),
    )
    help_waited_seconds = models.FloatField(
        _("seconds waited for a person"),
        null=True,
        blank=True,
        editable=False,
        help_text=_(
            "The longest time from a request for a person until a person took over or the request "
            "ended."
        ),
    )
    is_close_refused = models.BooleanField(
        _("close refused"),
        default=False,
        editable=False,
        help_text=_("OSVI refused the last attempt to close it."),
    )
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
    keep_until = models.DateField(
        _("keep until"),
        null=True,
        blank=True,
        help_text=_(
            "Until the end of this day, by the time zone of the site, nothing of it is removed for "
            "its age. The erasure of the customer is refused."
        ),
    )
    erased_at = models.DateTimeField(
        _("erased"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("When its customer was erased. Its ids are random since then."),
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
    updated_at = ChangeMomentField(
        _("updated"),
        help_text=_("When anything that is shown of it last changed, by the database's clock."),
    )
    # The database keeps these two up to date, so that its indexes can hold the order of the lists:
    # who waits for a person, then the longest quiet of what is open, then what was closed last.
    attention_rank = models.GeneratedField(
        expression=Case(
            When(status=Status.CLOSED, then=Value(2)),
            When(help_requested=True, then=Value(0)),
            default=Value(1),
        ),
        output_field=models.PositiveSmallIntegerField(choices=AttentionRank.choices),
        db_persist=True,
        verbose_name=_("attention"),
    )
    quiet_since = models.GeneratedField(
        expression=Case(When(status=Status.CLOSED, then=None), default=F("last_activity_at")),
        output_field=models.DateTimeField(null=True),
        db_persist=True,
        verbose_name=_("quiet since"),
    )

    ATTENTION_ORDER: ClassVar = ("attention_rank", "quiet_since", "-closed_at", "-id")

    objects = SessionManager["ChatSession"]()

    class Meta:
        # Also if Django itself writes, as when it deletes a user who has closed sessions.
        base_manager_name = "objects"
        verbose_name = _("chat session")
        verbose_name_plural = _("chat sessions")
        ordering = ("-started_at", "-id")
        permissions = (
            ("close_chatsession", _("Can close chat session")),
            ("operate_chatsession", _("Can operate chat session")),
            ("export_chatsession", _("Can export chat session")),
            ("erase_customer", _("Can export and erase all data of a customer")),
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
            models.Index(
                fields=("attention_rank", "quiet_since", "-closed_at", "-id"),
                name="osvi_session_attention",
            ),
            models.Index(
                fields=("agent", "attention_rank", "quiet_since", "-closed_at", "-id"),
                name="osvi_session_agent_list",
            ),
            models.Index(
                fields=("summary_status", "attention_rank", "quiet_since", "-closed_at", "-id"),
                name="osvi_session_summary_list",
            ),
            models.Index(fields=("closed_by", "-closed_at", "-id"), name="osvi_session_closed_by"),
            models.Index(fields=("close_reason", "-closed_at", "-id"), name="osvi_session_reason"),
            # With all that the figures count, so that they need not read the rows.
            models.Index(
                fields=(
                    "-closed_at",
                    "-id",
                    "summary_status",
                    "closed_via",
                    "closed_by",
                    "agent",
                    "close_reason",
                    "close_seconds",
                    "help_waited_seconds",
                ),
                name="osvi_session_closed",
            ),
            models.Index(fields=("-last_activity_at", "-id"), name="osvi_session_changed"),
            models.Index(fields=("updated_at", "id"), name="osvi_session_updated"),
            models.Index(fields=("agent", "updated_at", "id"), name="osvi_session_agent_updated"),
            models.Index(
                fields=("is_close_refused", "last_activity_at"), name="osvi_session_refused"
            ),
        )

    @needs_loaded("session_id")
    def __str__(self) -> str:
        return self.session_id

    def save(self, *args: Any, **options: Any) -> None:
        """Save the row as Django does, and with it when it changed."""
        super().save(*args, **written_fields(options))

    @property
    def is_open(self) -> bool:
        """Return whether OSVI has it open as far as is known, so that it can be closed."""
        return self.status in self.OPEN


class SessionSummary(ShownWithSessions):
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

    objects = SummaryQuerySet.as_manager()

    class Meta:
        verbose_name = _("session summary")
        verbose_name_plural = _("session summaries")

    @needs_loaded("session_id")
    def __str__(self) -> str:
        return str(_("Summary of chat %(key)s") % {"key": self.session_id})

    def delete(self, *args: Any, **options: Any) -> tuple[int, dict[str, int]]:
        """Delete the row as Django does, and touch its session."""
        alias = options.get("using") or router.db_for_write(SessionSummary, instance=self)
        with transaction.atomic(using=alias):
            sessions = ChatSession.objects.get_queryset().using(alias)
            sessions.filter(pk=self.session_id).touch()
            return super().delete(*args, **options)


class StartLock(models.Model):
    """A start, in progress, of a chat of one customer with one agent.

    Two at once would end each other's chat. The row is removed when the start has ended. An erasure
    of a customer has such a row, too, so that there is one at a time.
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

    @needs_loaded("key")
    def __str__(self) -> str:
        return self.key
