"""Erase a customer, download the data, and keep a chat for longer, in the admin."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from osvi_django.models import ChatSession, DataExport, Erasure
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory

pytestmark = pytest.mark.django_db

CUSTOMER = "+15551112222"


@pytest.fixture
def officer(log_in, osvi_sandbox):
    """Return the client of a user who sees chats and may erase customers."""
    return log_in("view_chatsession", "erase_customer")


def url_of(name, session):
    return reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])


class TestErase:
    def test_customer_is_erased_after_a_confirmation(self, officer, messages_of):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        page = officer.get(url_of("change", session)).text
        assert f'href="{url_of("erase", session)}"' in page
        asked = officer.get(url_of("erase", session)).text
        assert CUSTOMER in asked
        assert "OSVI keeps its own copy" in asked
        assert '<th scope="row">session summaries</th><td>1</td>' in asked
        assert not Erasure.objects.exists()
        response = officer.post(url_of("erase", session), follow=True)
        ((level, said),) = messages_of(response)
        assert (level, said[:27]) == ("success", "The customer is erased here")
        session.refresh_from_db()
        assert session.erased_at is not None
        assert Erasure.objects.get().via == "admin"
        assert url_of("erase", session) not in response.text
        ((level, _said),) = messages_of(officer.get(url_of("erase", session), follow=True))
        assert level == "info"

    def test_obstacle_is_shown_in_place_of_the_button(self, officer, messages_of):
        session = ChatSessionFactory(customer_id=CUSTOMER)
        asked = officer.get(url_of("erase", session)).text
        assert "Close it first" in asked
        assert 'value="Erase customer"' not in asked
        response = officer.post(url_of("erase", session), follow=True)
        assert [level for level, _said in messages_of(response)] == ["error"]
        assert not Erasure.objects.exists()

    def test_data_can_be_downloaded(self, officer):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        response = officer.post(url_of("erase", session), {"export": "yes"})
        assert response["Content-Disposition"] == 'attachment; filename="customer.json"'
        assert response.json()["sessions"][0]["sessionsummary"][0]["text"] == session.summary.text
        assert DataExport.objects.get().via == "admin"
        assert not Erasure.objects.exists()

    @pytest.mark.parametrize("name", ["erase", "keep"])
    def test_user_without_permission_is_refused(self, log_in, name):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        client = log_in("view_chatsession")
        response = client.post(url_of(name, session))
        assert response.status_code == 403
        assert "Can export and erase all data of a customer" in response.text
        assert url_of(name, session) not in client.get(url_of("change", session)).text

    @pytest.mark.parametrize("name", ["erase", "keep"])
    def test_chat_that_is_gone_is_said(self, officer, messages_of, name):
        url = reverse(f"admin:osvi_django_chatsession_{name}", args=[99])
        ((level, _said),) = messages_of(officer.get(url, follow=True))
        assert level == "warning"


class TestKeep:
    def test_day_is_stored_and_removed(self, officer, messages_of):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        day = timezone.now().date() + timedelta(days=30)
        assert 'type="date"' in officer.get(url_of("keep", session)).text
        response = officer.post(url_of("keep", session), {"keep_until": day}, follow=True)
        assert ChatSession.objects.get().keep_until == day
        assert "Kept until" in response.text
        assert LogEntry.objects.get().change_message.startswith("The chat is kept until")
        assert "is kept until a later day" in officer.get(url_of("erase", session)).text
        response = officer.post(url_of("keep", session), {"keep_until": ""}, follow=True)
        assert [level for level, _said in messages_of(response)] == ["success"]
        assert ChatSession.objects.get().keep_until is None

    def test_what_is_no_day_is_refused(self, officer, messages_of):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        response = officer.post(url_of("keep", session), {"keep_until": "soon"}, follow=True)
        assert [level for level, _said in messages_of(response)] == ["error"]
