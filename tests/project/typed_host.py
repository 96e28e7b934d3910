"""A host's own admin and its calls of the services, for mypy: each public name can be used."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from osvi_django import services
from osvi_django.admin.agents import ChatAgentAdmin
from osvi_django.admin.jobs import CloseJobAdmin
from osvi_django.admin.sessions import ChatSessionAdmin
from osvi_django.models import ChatSession, CloseAttempt, CloseJob, SupportAction


class HostSessionAdmin(ChatSessionAdmin):
    """Adds a column, a filter and an action, by name or as a function."""

    list_display = (*ChatSessionAdmin.list_display, "shop")
    list_filter = [*ChatSessionAdmin.list_filter, "help_requested"]
    search_fields = ("session_id", "customer_id")
    actions = [*(ChatSessionAdmin.actions or ()), "remind"]

    @admin.display(description="shop")
    def shop(self, session: ChatSession) -> str:
        """Return where the customer buys."""
        return session.customer_id

    @admin.action(description="Remind")
    def remind(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Remind the agents."""


class HostAgentAdmin(ChatAgentAdmin):
    """Shows less."""

    list_display = ["name", "uuid"]


class HostJobAdmin(CloseJobAdmin):
    """Adds a column, and actions where there were none."""

    list_display = (*CloseJobAdmin.list_display, "note")
    actions = ("export",)


def closes(session: ChatSession, attempt: CloseAttempt) -> list[services.CloseResult]:
    """Close in each way."""
    return [
        services.close_session(session, note="Said goodbye"),
        services.close_again(session, requested_by=None),
        services.close_session_by_id("s-1", agent_uuid="agent_1", account=None),
        services.mark_closed(session, note="Seen in the dashboard"),
        services.take_reviewed_summary(attempt, text="All is well."),
    ]


def recovers(session: ChatSession) -> list[services.Settled]:
    """Recover in each way."""
    found: list[services.RecoveryResult] = [services.recover_session(session)]
    found += [*services.recover_all(), *services.reread_all()]
    return [each.settled for each in found]


def runs_jobs() -> list[services.Progress]:
    """Make a job, and do all that can be done with it."""
    chosen = services.SessionFilter(status="active", customer_id="+1")
    job: CloseJob = services.create_close_job(chosen, draft=True)
    services.confirm_close_job(job)
    services.cancel_close_job(job)
    services.run_close_job(services.retry_close_job(job).pk)
    services.create_close_job_by_id("s-1")
    return [services.progress_of(each) for each in services.due_jobs()]


def mirrors(payload: dict[str, Any]) -> services.LookedUp:
    """Bring sessions into the database in each way."""
    session: ChatSession = services.mirror_session(payload)
    session = services.mirror_started(payload, agent_uuid="agent_1")
    session = services.start_session(agent_uuid="agent_1", customer_id="+1", account=None)
    known: ChatSession | None = services.find_session(session.session_id)
    sessions: list[ChatSession] = services.sync_customer("+1")
    done: services.SyncProgress = services.sync_open()
    assert known in sessions or done.total  # it is never run
    return services.look_up_customer("+1")


def operates(session: ChatSession) -> QuerySet[SupportAction]:
    """Do each thing in a session."""
    done: list[services.ActionResult] = [
        services.take_over(session),
        services.send_message(session, "Hello"),
        services.hand_back(session),
        services.tell(session, "Offer a refund"),
        services.whisper(session, "A good customer"),
        services.inject_context(session, "Bought a bicycle"),
        services.receive_message(session, "Hi"),
    ]
    known: list[str] = services.context_of(session)
    written: services.Summarized | None = services.summarize(session)
    forgotten: int = services.forget_texts()
    assert done and known and written and forgotten  # noqa: PT018  # it is never run
    return services.actions_of(session)
