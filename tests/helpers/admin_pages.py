"""A site with everything that the admin can show, the links of its pages, and all pages of ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from html import unescape
from urllib.parse import urlencode, urljoin, urlsplit

from django.contrib.admin import AdminSite
from django.contrib.admin.utils import quote
from django.urls import reverse

from osvi_django.admin.agent_choice import AGENTS_SHOWN
from osvi_django.admin.attempts import ATTEMPTS_SHOWN
from osvi_django.admin.pages import OwnPages
from osvi_django.database import DatabaseNow
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    DataExport,
    WebhookDelivery,
    WebhookReceiver,
)
from osvi_django.testing.factories import (
    ChatAgentFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
    CloseJobFactory,
    CloseJobItemFactory,
    SupportActionFactory,
)
from tests.helpers.sandbox import mirror

LONG_WORD = "W" * 200
ARABIC = "مرحبا، أريد استرداد أموالي."
HALF_ANSWER = '{"success": true, "data": {"session_id": "%s", "summary": "Half of a\\nsumm'
# These change something, or answer a script.
NOT_PAGES = ("again", "cancel", "check", "counts", "live", "progress", "retry", "search")


@dataclass(frozen=True, kw_only=True)
class FilledSite:
    """Rows of every kind; each of these has a page."""

    session: ChatSession
    closed: ChatSession
    unconfirmed: ChatSession
    attempt: CloseAttempt
    job: CloseJob
    draft: CloseJob
    delivery: WebhookDelivery
    export: DataExport
    receiver: WebhookReceiver


def fill_site(osvi, user):
    """Create rows of every kind and state, asked for by this user, and return some of them."""
    ChatAgentFactory.create_batch(AGENTS_SHOWN)
    session = mirror(osvi, help_requested=True, agent__name=f"Night desk {ARABIC}")
    agent = session.agent
    for kind, text in (("tell", LONG_WORD), ("inbound", ARABIC), ("message", "Hello, I am Sam.")):
        SupportActionFactory(session=session, kind=kind, text=text, reply=ARABIC, requested_by=user)
    CloseAttemptFactory.create_batch(ATTEMPTS_SHOWN + 1, session=session, requested_by=user)
    mirror(osvi, agent=agent, mode="support", active_human="kim@example.com")
    mirror(osvi, agent=agent, status="dormant")
    mirror(osvi, agent=agent, status="closing")
    refused = mirror(osvi, agent=agent, is_close_refused=True)
    CloseAttemptFactory(session=refused, outcome="rejected", error_reason=LONG_WORD)
    unconfirmed = mirror(osvi, agent=agent, status="unconfirmed", customer_id=LONG_WORD)
    attempt = CloseAttemptFactory(
        session=unconfirmed,
        outcome="no_answer",
        error_code="unconfirmed",
        http_status=200,
        answer=HALF_ANSWER % unconfirmed.session_id,
        answer_incomplete=True,
        requested_by=user,
        note=ARABIC,
    )
    closed = ClosedSessionFactory(agent=agent, summary__text=f"{LONG_WORD}\n{ARABIC}")
    ClosedSessionFactory(agent=agent, summary=None, summary_status="lost")
    return FilledSite(
        session=session,
        closed=closed,
        unconfirmed=unconfirmed,
        attempt=attempt,
        job=_finished_job(user, [closed, refused, unconfirmed]),
        draft=_draft(user, [session]),
        delivery=_deliveries(closed),
        export=_exports(user),
        receiver=WebhookReceiver.objects.create(key=16 * "a", host="hooks.crm.example"),
    )


def _deliveries(session):
    now, about = DatabaseNow(), {"subject": session.session_id, "receiver": 16 * "a"}
    rows = [
        WebhookDelivery.objects.create(
            event=event,
            state=state,
            tries=2,
            error_code="refused",
            http_status=400,
            data={"attempt_id": 4711},
            waits_since=now,
            due_at=now,
            **about,
        )
        for state in WebhookDelivery.State
        for event in WebhookDelivery.Event
    ]
    return rows[-1]


def _exports(user):
    facts = {"requested_by": user, "via": "admin", "selection": ARABIC, "rows": 4711}
    for outcome in DataExport.Outcome:
        row = DataExport.objects.create(file_format="csv", outcome=outcome, **facts)
    return row


def _finished_job(user, sessions):
    outcomes = ("closed", "rejected", "unconfirmed")
    job = CloseJobFactory(
        status="completed_with_errors",
        total=3,
        succeeded=1,
        failed=1,
        unconfirmed=1,
        **_asked_by(user),
    )
    for outcome, session in zip(outcomes, sessions, strict=True):
        reason = LONG_WORD if outcome == "rejected" else ""
        CloseJobItemFactory(job=job, session=session, outcome=outcome, error_reason=reason)
    CloseJobFactory(status="running", total=1, **_asked_by(user))
    CloseJobFactory(status="cancelled", total=1, cancelled=1, **_asked_by(user))
    job.finished_at = job.started_at = job.created_at
    job.save()
    return job


def _draft(user, sessions):
    job = CloseJobFactory(status="draft", total=len(sessions), **_asked_by(user))
    for session in sessions:
        CloseJobItemFactory(job=job, session=session)
    return job


def _asked_by(user):
    return {"requested_by": user, "note": ARABIC, "via": "admin"}


def pages_of(site: AdminSite, filled: FilledSite):
    """Return the URL of each page of our admins on this site, by its name."""
    found = {"index": reverse("admin:index", current_app=site.name)}
    for model, model_admin in site._registry.items():
        kind = next(each for each in model.__mro__ if not each._meta.proxy)
        rows = {
            ChatAgent: filled.session.agent,
            ChatSession: filled.session,
            CloseJob: filled.job,
            DataExport: filled.export,
            WebhookDelivery: filled.delivery,
            WebhookReceiver: filled.receiver,
        }
        if kind not in rows:
            continue
        found |= _standard_pages(site, model, rows[kind])
        if isinstance(model_admin, OwnPages):
            found |= _own_pages(site, model_admin, filled)
        if kind is ChatSession:
            found |= _pages_of_other_states(model_admin, filled)
    return found


def _pages_of_other_states(sessions, filled):
    """Return the pages of sessions that show something else than those of an open one."""
    pages = {
        f"{name}_of_{state}": sessions.url_to(name, getattr(filled, state).pk)
        for state in ("closed", "unconfirmed")
        for name in ("change", "desk")
    }
    query = urlencode({"customer_id": filled.session.customer_id})
    return {
        **pages,
        "figures_of_year": f"{sessions.url_to('figures')}?first={_year_ago()}",
        "figures_of_no_days": f"{sessions.url_to('figures')}?first=2026-03-02&last=2026-03-01",
        "close_of_unconfirmed": sessions.url_to("close", filled.unconfirmed.pk),
        "lookup_of_customer": f"{sessions.url_to('lookup')}?{query}",
        "search_of_stranger": f"{sessions.url_to('changelist')}?q=nobody",
        "lookup_of_stranger": f"{sessions.url_to('lookup')}?customer_id=nobody",
    }


def _year_ago():
    return date.today() - timedelta(days=365)  # noqa: DTZ011 - any day about then


def _standard_pages(site, model, row):
    route = f"{model._meta.app_label}_{model._meta.model_name}"
    names = {"changelist": (), "change": (quote(row.pk),), "history": (quote(row.pk),)}
    return {
        f"{route}_{name}": reverse(f"admin:{route}_{name}", args=args, current_app=site.name)
        for name, args in names.items()
    }


def _own_pages(site, model_admin, filled):
    values = {
        "attempt_id": filled.attempt.pk,
        "job_id": filled.job.pk,
        "object_id": quote(filled.session.pk),
    }
    found = {}
    for pattern in model_admin.own_urls():
        name = pattern.name.rpartition("_")[2]
        if name in NOT_PAGES:
            continue
        kwargs = {each: values[each] for each in pattern.pattern.converters}
        if name == "review":
            kwargs["object_id"] = quote(filled.unconfirmed.pk)
        if name == "confirm":
            kwargs["job_id"] = filled.draft.pk
        found[pattern.name] = reverse(f"admin:{pattern.name}", kwargs=kwargs, current_app=site.name)
    return found


def links_of(response):
    """Return the URLs that a page links to, without those of other hosts and of the logout."""
    found = re.findall(r'<a\b[^>]*?\bhref="([^"#]+)"', response.text)
    here = response.wsgi_request.get_full_path()
    # The place in its list is another one for each session.
    plain = (re.sub(r"[?&]_osvi_place=[^&]*", "", unescape(link)) for link in found)
    absolute = {urljoin(here, link) for link in plain}
    return {link for link in absolute if not urlsplit(link).netloc and "logout" not in link}
