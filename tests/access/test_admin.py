"""Walk every page of the admin with two tenants: another's rows are shown as unknown ones are."""

from __future__ import annotations

import re
from difflib import ndiff
from urllib.parse import quote

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.urls import reverse

from osvi_django.models import (
    ChatSession,
    CloseJob,
    DataExport,
    Erasure,
    SupportAction,
    WebhookDelivery,
)
from osvi_django.services import SessionFilter, erase_customer, export_sessions
from osvi_django.services.jobs import create_close_job
from osvi_django.testing.factories import (
    CloseAttemptFactory,
    ClosedSessionFactory,
    SupportActionFactory,
)
from tests.helpers import tenants as functions

pytestmark = pytest.mark.django_db(transaction=True)

UNKNOWN = 999_999
# They are about the site's own settings and staff, and say nothing of sessions.
SITE_WIDE = {"webhookreceiver", "dataexport", "erasure"}
OF_TENANTS = ("chatsession", "chatagent", "closejob", "webhookdelivery")
FORM = {
    "post": "yes",
    "note": "Because.",
    "command": "takeover",
    "text": "Hello",
    "to": "message",
    "name": "Renamed",
}
VARYING = re.compile(
    r"\b[0-9a-f]{32}\b|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
    r'|name="csrfmiddlewaretoken" value="\w+"|nonce[=-]"?[\w+/=-]+|\d+(?=/(?:change|close|retry))'
)


def our_urls():
    """Return the names and the patterns of our pages on the admin site, without the prefix."""
    found = {}
    for model, model_admin in admin.site._registry.items():
        if model._meta.app_label != "osvi_django":
            continue
        for pattern in model_admin.get_urls():
            if pattern.name:
                found[pattern.name.removeprefix("osvi_django_")] = pattern
    return found


def model_of(name):
    return name.partition("_")[0]


WITH_ID = sorted(
    name
    for name, pattern in our_urls().items()
    if model_of(name) not in SITE_WIDE and pattern.pattern.regex.groups
)
WITHOUT_ID = sorted(
    name
    for name, pattern in our_urls().items()
    if model_of(name) not in SITE_WIDE and not pattern.pattern.regex.groups
)


@pytest.fixture
def others(chats, bob):
    """Create rows of all kinds for tenant B; return their keys by model."""
    chat = chats.b
    ChatSession.objects.filter(pk=chat.pk).update(help_requested=True, attention_rank=0)
    attempt = CloseAttemptFactory(
        session=chat, note="The note of B.", outcome="bad_answer", http_status=200, answer="x"
    )
    SupportActionFactory(session=chat, text="The words of B.")
    ClosedSessionFactory(
        agent=chat.agent, customer_id=chat.customer_id, summary__text="The summary of B."
    )
    job = create_close_job([chat], requested_by=bob, note="The job of B.")
    delivery = WebhookDelivery.objects.create(
        event="session.closed",
        receiver="r",
        subject=chat.session_id,
        due_at=chat.created_at,
        waits_since=chat.created_at,
    )
    return {
        "chatsession": chat.pk,
        "chatagent": chat.agent_id,
        "closejob": job.pk,
        "webhookdelivery": delivery.pk,
        "attempt": attempt.pk,
    }


@pytest.fixture
def site(ann, client):
    client.force_login(ann)
    return client


def secrets_of_b():
    sessions = ChatSession.objects.filter(agent__name__startswith="B")
    ids = [each.session_id for each in sessions] + [each.customer_id for each in sessions]
    words = ("note", "words", "summary", "job")
    return [*ids, "B one", "agent_of_b", *(f"The {each} of B" for each in words)]


def address_of(name, ids):
    model = model_of(name)
    pattern = our_urls()[name].pattern
    keys = [ids[model]] if pattern.regex.groups else []
    if "attempt_id" in pattern.regex.groupindex:
        keys.append(ids["attempt"])
    return reverse(f"admin:osvi_django_{name}", args=keys)


def shown(response, ids):
    """Return the status and the lines that are shown, without ids and what each request varies."""
    chain = [url for url, _status in getattr(response, "redirect_chain", ())]
    text = VARYING.sub("_", response.content.decode())
    for key in sorted(map(str, ids.values()), key=len, reverse=True):
        text = re.sub(rf"(?<=[/“;]){key}(?=[/”&])", "key", text)
    return [f"{response.status_code} after {len(chain)} redirects", *text.splitlines()]


def difference(first, second):
    """Return the lines that are in one of two answers only, as a failure should show them."""
    return [line for line in ndiff(first, second) if not line.startswith("  ")]


def test_every_admin_of_ours_is_walked():
    assert {model_of(name) for name in our_urls()} == {*OF_TENANTS, *SITE_WIDE}


@pytest.mark.parametrize("name", WITH_ID)
@pytest.mark.parametrize("method", ["get", "post"])
def test_page_of_other_tenant_is_that_of_an_unknown_row(name, method, site, chats, others):
    unknown = dict.fromkeys(others, UNKNOWN)
    history = LogEntry.objects.count()
    answers = []
    for ids in (unknown, others):
        call, data = getattr(site, method), FORM if method == "post" else {}
        response = call(address_of(name, ids), data, follow=True)
        text = response.content.decode()
        assert [each for each in secrets_of_b() if each in text] == []
        answers.append(shown(response, ids))
    assert difference(*answers) == []
    assert LogEntry.objects.count() == history
    assert ChatSession.objects.get(pk=chats.b.pk).status == "active"
    assert SupportAction.objects.count() == 1
    assert CloseJob.objects.count() == 1


@pytest.mark.parametrize("name", WITHOUT_ID)
def test_page_without_an_id_shows_nothing_of_other_tenant(name, site, chats, others):
    customer = chats.b.customer_id
    queries = (
        "",
        f"?q={quote(customer)}",
        f"?agent__id__exact={chats.b.agent_id}",
        "?agent=agent_of_b",
        "?term=B",
        "?attention=help",
    )
    for query in queries:
        response = site.get(address_of(name, others) + query, follow=True)
        text = response.content.decode()
        asked = [each for each in secrets_of_b() if each in query or quote(each) in query]
        left = [each for each in secrets_of_b() if each in text and each not in asked]
        assert left == [], query
        if name == "chatsession_counts":
            assert response.json()["counts"]["help"] == "0"


def test_own_rows_are_shown(site, ann, chats):
    for name, key in (("chatsession_change", chats.a.pk), ("chatagent_change", chats.a.agent_id)):
        assert site.get(reverse(f"admin:osvi_django_{name}", args=[key])).status_code == 200
    text = site.get(reverse("admin:osvi_django_chatsession_changelist")).content.decode()
    assert chats.a.customer_id in text


def test_journals_of_the_site_name_no_chat_and_need_their_permissions(
    ann, bob, chats, client, grant
):
    ChatSession.objects.filter(pk=chats.b.pk).update(status="closed")
    secrets = secrets_of_b()
    erase_customer(chats.b.customer_id, requested_by=bob)
    b"".join(export_sessions(SessionFilter(), file_format="csv", requested_by=bob))
    for row, codename in ((Erasure, "view_erasure"), (DataExport, "view_dataexport")):
        name = row._meta.model_name
        pages = [
            reverse(f"admin:osvi_django_{name}_changelist"),
            reverse(f"admin:osvi_django_{name}_change", args=[row.objects.get().pk]),
        ]
        client.force_login(ann)
        assert {client.get(page).status_code for page in pages} == {403}
        client.force_login(grant(ann, codename))
        for page in pages:
            response = client.get(page)
            assert response.status_code == 200
            assert [each for each in secrets if each in response.content.decode()] == []


def test_index_names_nothing_of_other_tenant(site, others):
    text = site.get(reverse("admin:index")).content.decode()
    assert [each for each in secrets_of_b() if each in text] == []


def test_autocomplete_of_agents_finds_those_inside(site, chats):
    fields = {"app_label": "osvi_django", "model_name": "chatsession", "field_name": "agent"}
    found = site.get(reverse("admin:autocomplete"), {**fields, "term": "one"}).json()["results"]
    assert [each["text"] for each in found] == [str(chats.a.agent)]


def test_look_up_of_customer_counts_what_is_inside(site, chats, others):
    address = reverse("admin:osvi_django_chatsession_lookup")
    texts = []
    for customer in (chats.b.customer_id, "+4930000000"):
        data = {"customer_id": customer, "account": "default"}
        response = site.post(address, data, follow=True)
        writings = re.compile("|".join(map(re.escape, (customer, quote(customer)))))
        texts.append([writings.sub("customer", line) for line in shown(response, others)])
    assert difference(*texts) == []


@pytest.mark.parametrize("field", ["agent", "agent_uuid"])
def test_start_with_agent_of_other_tenant_is_refused_as_with_unknown(
    site, chats, others, osvi_sandbox, field
):
    address = reverse("admin:osvi_django_chatsession_start")
    unknown = {"agent": UNKNOWN, "agent_uuid": "agent_of_x"}[field]
    known = {"agent": chats.b.agent_id, "agent_uuid": "agent_of_b"}[field]
    texts = []
    for value in (unknown, known):
        response = site.post(address, {field: value, "customer_id": "+1"}, follow=True)
        texts.append(VARYING.sub("_", response.content.decode()).replace(str(value), "value"))
    assert texts[0] == texts[1]
    assert osvi_sandbox.requests == []


def test_deliveries_are_those_of_sessions_inside(site, chats, others, ann):
    address = reverse("admin:osvi_django_webhookdelivery_changelist")
    data = {"action": "send_again", "_selected_action": [others["webhookdelivery"]]}
    assert chats.b.session_id not in site.post(address, data, follow=True).content.decode()
    WebhookDelivery.objects.update(subject=chats.a.session_id)
    assert chats.a.session_id in site.get(address).content.decode()


def test_items_of_own_job_that_are_outside_by_now_are_left_out(site, ann, chats):
    job = create_close_job([chats.a, "unknown"], requested_by=ann)
    pages = [
        reverse(f"admin:osvi_django_closejob_{name}", args=[job.pk])
        for name in ("change", "sessions", "progress")
    ]
    assert chats.a.session_id in site.get(pages[1]).content.decode()
    ann.first_name = "B"
    ann.save()
    for page in pages:
        assert chats.a.session_id not in site.get(page).content.decode()


def test_unconfirmed_items_outside_are_not_checked(site, ann, chats, osvi_sandbox):
    job = create_close_job([chats.a], requested_by=ann)
    ChatSession.objects.filter(pk=chats.a.pk).update(status="unconfirmed")
    job.items.update(outcome="unconfirmed")
    CloseJob.objects.update(unconfirmed=1, status="completed_with_errors")
    ann.first_name = "B"
    ann.save()
    site.post(reverse("admin:osvi_django_closejob_check", args=[job.pk]))
    assert osvi_sandbox.requests == []


def test_figures_count_what_is_inside(site, ann, chats, others):
    ClosedSessionFactory(agent=chats.a.agent, closed_by=ann, close_reason="Solved")
    response = site.get(reverse("admin:osvi_django_chatsession_figures"))
    found = response.context["found"]
    assert (found.closed.number, found.waiting.number, found.failures) == (1, 0, [])
    assert [row.label for row in found.agents.rows] == [str(chats.a.agent)]
    text = response.content.decode()
    assert [each for each in secrets_of_b() if each in text] == []


def test_summaries_outside_are_withheld_from_list_and_other_chats(site, ann, chats, settings):
    ClosedSessionFactory(
        agent=chats.a.agent, customer_id=chats.a.customer_id, summary__text="Secret of A."
    )
    pages = (
        reverse("admin:osvi_django_chatsession_changelist"),
        reverse("admin:osvi_django_chatsession_change", args=[chats.a.pk]),
    )
    for page in pages:
        assert "Secret of A." in site.get(page).content.decode()

    def only_of_open(user, purpose):
        sessions = functions.sessions_for(user, purpose)
        return sessions.filter(pk=chats.a.pk) if purpose == "view_summary" else sessions

    settings.OSVI_SESSIONS_FOR = only_of_open
    for page in pages:
        assert "Secret of A." not in site.get(page).content.decode()


@pytest.mark.parametrize("codename", ["operate_chatsession", "close_chatsession"])
def test_user_without_view_permission_sees_only_inside(client, user_of, tenants, chats, codename):
    client.force_login(user_of("A", codename))
    name = {"operate_chatsession": "desk", "close_chatsession": "close"}[codename]
    for chat, is_seen in ((chats.a, True), (chats.b, False)):
        page = reverse(f"admin:osvi_django_chatsession_{name}", args=[chat.pk])
        assert (chat.customer_id in client.get(page, follow=True).content.decode()) == is_seen


@pytest.mark.parametrize(
    "name",
    [
        "chatsession_changelist",
        "chatsession_chats",
        "chatsession_figures",
        "closejob_changelist",
    ],
)
def test_unusable_function_is_a_page_that_says_so(site, settings, name):
    settings.OSVI_SESSIONS_FOR = "tests.helpers.tenants.broken"
    response = site.get(reverse(f"admin:osvi_django_{name}"))
    assert response.status_code == 503
    assert "OSVI_SESSIONS_FOR raised ValueError" in response.content.decode()
    # The rest of the admin is as usual.
    assert site.get(reverse("admin:index")).status_code == 200
