"""A host's own admin and its calls of the services, for mypy: each public name can be used."""

from __future__ import annotations

from datetime import date
from threading import Event
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from osvi_django import services
from osvi_django.admin.agents import ChatAgentAdmin
from osvi_django.admin.jobs import CloseJobAdmin
from osvi_django.admin.sessions import ChatSessionAdmin
from osvi_django.models import (
    ChatSession,
    CloseAttempt,
    CloseJob,
    SupportAction,
    WebhookDelivery,
    WebhookReceiver,
)


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
    _purpose: services.Purpose = services.Purpose.VIEW
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
    found: services.SearchResult = services.search_sessions("2222")
    sessions: list[ChatSession] = services.sync_customer("+1")
    done: services.SyncProgress = services.sync_open()
    troubles: list[services.WatchTrouble] = []
    services.watch_open(stop=Event(), on_trouble=troubles.append)
    assert known in sessions or found.sessions or done.total  # it is never run
    return services.look_up_customer("+1")


def exports(sessions: QuerySet[ChatSession]) -> bytes:
    """Export what is chosen by a queryset, and by a filter."""
    export: services.Export = services.export_sessions(sessions, file_format="xlsx")
    export.close()
    closed = services.SessionFilter(status="closed")
    return b"".join(services.export_sessions(closed, file_format="csv", search="2222"))


def delivers(again: list[WebhookDelivery], receiver: WebhookReceiver) -> list[int]:
    """Do each thing with events."""
    return [
        services.deliver_events(Event()),
        services.send_events_again(again, requested_by=None, via="code"),
        services.switch_on_receiver(receiver, requested_by=None, via="code"),
    ]


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
    purged: list[services.Purged] = list(services.purge_expired(only=["texts"], dry_run=True))
    erased: services.ErasureResult = services.erase_customer("+1", dry_run=True)
    services.keep_session(session, None)
    exported: dict[str, Any] = services.export_customer("+1")
    again: list[services.ReplayedErasure] = list(services.replay_erasures())
    assert erased or exported or again  # it is never run
    assert done and known and written and purged  # noqa: PT018  # it is never run
    return services.actions_of(session)


async def closes_in_loop(session: ChatSession, attempt: CloseAttempt) -> list[services.CloseResult]:
    """Close in each way, in an event loop."""
    found: services.RecoveryResult = await services.arecover_session(session)
    written: services.Summarized | None = await services.asummarize(found.session)
    assert written
    return [
        await services.aclose_session(session, note="Said goodbye"),
        await services.aclose_session_by_id("s-1", agent_uuid="agent_1", account=None),
        await services.amark_closed(session, note="Seen in the dashboard"),
        await services.atake_reviewed_summary(attempt, text="All is well."),
    ]


async def runs_jobs_in_loop() -> services.Progress:
    """Make a job, and do all that can be done with it, in an event loop."""
    chosen = services.SessionFilter(status="active", customer_id="+1")
    _purpose: services.Purpose = services.Purpose.VIEW
    job: CloseJob = await services.acreate_close_job(chosen, draft=True)
    await services.aconfirm_close_job(job)
    await services.aretry_close_job(await services.acancel_close_job(job))
    return await services.aprogress_of(await services.acreate_close_job_by_id("s-1"))


async def mirrors_in_loop(payload: dict[str, Any]) -> services.LookedUp:
    """Bring sessions into the database in each way, in an event loop."""
    session: ChatSession = await services.amirror_session(payload)
    session = await services.amirror_started(payload, agent_uuid="agent_1")
    session = await services.astart_session(agent_uuid="agent_1", customer_id="+1")
    known: ChatSession | None = await services.afind_session(session.session_id)
    found: services.SearchResult = await services.asearch_sessions("2222")
    assert known or found.sessions
    return await services.alook_up_customer("+1")


async def operates_in_loop(
    session: ChatSession, again: list[WebhookDelivery], receiver: WebhookReceiver
) -> list[services.ActionResult]:
    """Do each thing in a session, and with events, in an event loop."""
    known: list[str] = await services.acontext_of(session)
    sent = await services.asend_events_again(again)
    assert known and sent and await services.aswitch_on_receiver(receiver)  # noqa: PT018  # never run
    return [
        await services.atake_over(session),
        await services.asend_message(session, "Hello"),
        await services.ahand_back(session),
        await services.atell(session, "Offer a refund"),
        await services.awhisper(session, "A good customer"),
        await services.ainject_context(session, "Bought a bicycle"),
        await services.areceive_message(session, "Hi"),
    ]


def counts(day: date) -> services.Times:
    """Read the figures."""
    found: services.Figures = services.figures(first=day, last=day, top=5, requested_by=None)
    days: services.DateRange = found.days.before
    agents: services.Shares = found.agents
    best: services.Share = agents.rows[0]
    step: services.Step = found.steps[0]
    assert days.days == best.number + step.number  # it is never run
    return found.close_times.now


async def counts_in_loop() -> services.Figures:
    """Read the figures in an event loop."""
    return await services.afigures(top=5)
