"""Webhooks in the admin: lists, filters, *Send again* and *Switch on again*."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from osvi_django.admin.webhooks import error_text, in_words
from osvi_django.database import DatabaseNow
from osvi_django.models import WebhookDelivery, WebhookReceiver
from osvi_django.services.events.receivers import usable_receivers
from osvi_django.services.events.sending import Outcome

pytestmark = pytest.mark.django_db

SECRET_URL = "https://crm.example/hooks/very-secret"


@pytest.fixture
def receiver(settings):
    """Create a receiver of the settings."""
    settings.OSVI_WEBHOOKS = [{"URL": SECRET_URL, "SECRETS": ["whsec_" + 32 * "a"]}]
    (found,) = usable_receivers()
    return WebhookReceiver.objects.create(key=found.key, host=found.host)


@pytest.fixture
def make_delivery(receiver):
    """Create a row of the outbox."""

    def _make_delivery(**fields):
        now = DatabaseNow()
        values = {"event": "session.closed", "subject": "s-1", "receiver": receiver.key}
        return WebhookDelivery.objects.create(waits_since=now, due_at=now, **{**values, **fields})

    return _make_delivery


@pytest.fixture
def viewer(log_in):
    """Log in as staff who may only see webhooks."""
    return log_in("view_webhookdelivery", "view_webhookreceiver")


@pytest.fixture
def operator(log_in):
    """Log in as staff who may also send again."""
    return log_in("view_webhookdelivery", "view_webhookreceiver", "operate_chatsession")


def url_of(name, *args, model="webhookdelivery"):
    return reverse(f"admin:osvi_django_{model}_{name}", args=args)


def test_list_shows_events_and_how_they_ended(viewer, make_delivery):
    make_delivery(state="delivered", tries=1, http_status=204)
    make_delivery(subject="s-2", state="failed", tries=8, http_status=400, error_code="refused")
    later = DatabaseNow() + timedelta(minutes=10)
    row = make_delivery(subject="s-3", tries=1, error_code="timeout")
    WebhookDelivery.objects.filter(pk=row.pk).update(due_at=later)
    make_delivery(subject="s-4", receiver="unknown")
    page = viewer.get(url_of("changelist")).text
    for shown in (
        "crm.example",
        "given up",
        "The receiver refused it. (HTTP 400)",
        "The receiver did not answer in time.",
        "Next try: in 10 min.",
        "unknown",
        "<time ",
    ):
        assert shown in page
    assert "very-secret" not in page
    assert 'name="action"' not in page


@pytest.mark.parametrize(
    ("query", "subjects"),
    [
        ("state__exact=failed", {"s-2"}),
        ("event__exact=session.started", {"s-3"}),
        ("receiver=other", {"s-2"}),
        ("q=s-1", {"s-1"}),
    ],
)
def test_list_is_filtered(viewer, make_delivery, query, subjects):
    make_delivery()
    make_delivery(subject="s-2", state="failed", receiver="other")
    make_delivery(subject="s-3", event="session.started")
    response = viewer.get(f"{url_of('changelist')}?{query}")
    assert {each.subject for each in response.context["cl"].result_list} == subjects


def test_list_takes_the_same_queries_for_any_number(
    viewer, make_delivery, django_assert_max_num_queries
):
    for number in range(20):
        make_delivery(subject=f"s-{number}")
    with django_assert_max_num_queries(9):
        viewer.get(url_of("changelist"))


def test_selected_events_are_sent_again(operator, make_delivery, messages_of):
    rows = [make_delivery(state="delivered", finished_at=timezone.now()) for _each in range(2)]
    keys = [each.pk for each in rows]
    form = {"action": "send_again", "_selected_action": keys}
    response = operator.post(url_of("changelist"), form, follow=True)
    assert messages_of(response) == [("info", "2 events are sent again.")]
    assert set(WebhookDelivery.objects.values_list("state", "finished_at")) == {("pending", None)}


def test_event_is_sent_again_on_its_page(operator, make_delivery, messages_of):
    row = make_delivery(state="failed", data={"attempt_id": 4711}, finished_at=timezone.now())
    page = operator.get(url_of("change", row.pk))
    assert f'action="{url_of("again", row.pk)}"' in page.text
    for shown in (f"msg_{row.event_id.hex}", "4711", "Send again"):
        assert shown in page.text
    assert operator.get(url_of("again", row.pk)).status_code == 302
    response = operator.post(url_of("again", row.pk), follow=True)
    assert messages_of(response) == [("info", "1 event is sent again.")]
    row.refresh_from_db()
    assert row.state == "pending"
    assert LogEntry.objects.get().change_message == "Send again"
    assert operator.post(url_of("again", 999)).status_code == 404


def test_viewer_may_not_send_again(viewer, make_delivery):
    row = make_delivery(state="failed")
    assert "Send again" not in viewer.get(url_of("change", row.pk)).text
    assert viewer.post(url_of("again", row.pk)).status_code == 403
    form = {"action": "send_again", "_selected_action": [row.pk]}
    viewer.post(url_of("changelist"), form)
    row.refresh_from_db()
    assert row.state == "failed"


def test_operator_without_permission_to_view_sees_none(log_in, make_delivery):
    client, row = log_in("operate_chatsession"), make_delivery(state="failed")
    assert client.get(url_of("changelist")).status_code == 403
    assert client.post(url_of("again", row.pk)).status_code == 403


def test_receiver_that_is_off_is_switched_on_again(operator, receiver, make_delivery, messages_of):
    make_delivery(error_code="gone")
    WebhookReceiver.objects.update(disabled_at=timezone.now(), last_error="gone")
    page = operator.get(url_of("changelist", model="webhookreceiver"))
    assert "The receiver wants no more events, and is off." in page.text
    form = {"action": "switch_on", "_selected_action": [receiver.pk]}
    response = operator.post(url_of("changelist", model="webhookreceiver"), form, follow=True)
    sentence = f"{receiver} is on. 1 event that waits for it is sent now."
    assert messages_of(response) == [("success", sentence)]
    receiver.refresh_from_db()
    assert receiver.disabled_at is None
    assert WebhookDelivery.objects.get().error_code == ""
    response = operator.post(url_of("again", receiver.pk, model="webhookreceiver"), follow=True)
    assert len(messages_of(response)) == 1


def test_receivers_show_their_states(viewer, receiver):
    later = DatabaseNow() + timedelta(hours=3)
    off = WebhookReceiver.objects.create(key="gone", host="old.example")
    shown = viewer.get(url_of("changelist", model="webhookreceiver")).text
    assert '<td class="field-state_shown">on</td>' in shown
    assert "not in the settings" in shown
    WebhookReceiver.objects.filter(pk=receiver.pk).update(paused_until=later)
    assert "pause, in 3 h" in viewer.get(url_of("changelist", model="webhookreceiver")).text
    WebhookReceiver.objects.filter(pk=receiver.pk).update(disabled_at=timezone.now())
    page = viewer.get(url_of("change", receiver.pk, model="webhookreceiver"))
    assert '<div class="readonly">off</div>' in page.text
    assert str(off) == "old.example (gone)"


def test_times_and_errors_are_in_words():
    assert [in_words(each) for each in (0, 5, 200, 8000)] == ["now", "in 5 s", "in 3 min", "in 2 h"]
    assert error_text("") == error_text("", 204) == ""
    assert error_text(Outcome(code="new").code) == "new"
