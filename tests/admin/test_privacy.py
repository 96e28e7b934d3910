"""Erase a customer, download the data, and keep a chat for longer, in the admin."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.urls import reverse
from django.utils import timezone

from osvi_django.models import ChatSession, DataExport, Erasure
from osvi_django.services import erase_customer
from osvi_django.services.access import Purpose
from osvi_django.services.start_locks import erasure_lock
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.helpers.database import call_after_queries

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

    def test_chats_in_the_way_are_named(self, officer):
        tomorrow = timezone.localdate() + timedelta(days=1)
        free = ClosedSessionFactory(customer_id=CUSTOMER)
        kept = ClosedSessionFactory(customer_id=CUSTOMER, keep_until=tomorrow)
        opened = [ChatSessionFactory(customer_id=CUSTOMER) for _number in range(2)]
        html = officer.get(url_of("erase", free)).text
        assert html.count("Close it first") == html.count("is kept until a later day") == 1
        for session in (kept, *opened):
            link = f'<a href="{url_of("change", session)}"><bdi>{session.session_id}</bdi></a>'
            assert html.count(link) == 1
        assert f"<bdi>{free.session_id}</bdi></a>" not in html

    def test_chat_in_the_way_that_the_user_may_not_see_is_not_named(self, officer, settings):
        free = ClosedSessionFactory(customer_id=CUSTOMER)
        hidden = ChatSessionFactory(customer_id=CUSTOMER, agent__account="other")
        settings.OSVI_SESSIONS_FOR = access_to_look_at_the_default_account
        html = officer.get(url_of("erase", free)).text
        assert "Close it first" in html
        assert hidden.session_id not in html

    def test_second_press_is_told_that_the_customer_is_being_erased(self, officer, messages_of):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        with erasure_lock(CUSTOMER):
            response = officer.post(url_of("erase", session), follow=True)
        ((level, said),) = messages_of(response)
        assert (level, "being erased at this moment" in said) == ("error", True)
        assert "being erased at this moment" in response.text

    def test_press_after_another_erased_says_that_it_is_done(self, officer, messages_of):
        """Erase the customer between the two steps of a request, as another request does."""
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        done = []

        def is_first_look(sql, _params):
            return sql.startswith("SELECT") and "osvi_django_chatsession" in sql and not done

        def erase():
            done.append(True)
            erase_customer(CUSTOMER)

        with call_after_queries(is_first_look, erase):
            response = officer.post(url_of("erase", session), follow=True)
        ((level, said),) = messages_of(response)
        assert level == "info"
        assert said.startswith("This customer is erased already")
        assert Erasure.objects.get().counts

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


class TestJournal:
    def list_url(self):
        return reverse("admin:osvi_django_erasure_changelist")

    def test_journal_shows_who_erased_and_what_became_of_it(self, officer, log_in):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        officer.post(url_of("erase", session))
        viewer = log_in("view_erasure", name="kim")
        html = viewer.get(self.list_url()).text
        erasure = Erasure.objects.get()
        for shown in ("jo", "admin", "all", "done"):
            assert shown in html
        page = viewer.get(reverse("admin:osvi_django_erasure_change", args=[erasure.pk]))
        assert (page.status_code, "_save" in page.text) == (200, False)
        assert "session summaries: 1" in page.text
        assert erasure.marker in page.text
        assert erasure.customer_hash not in page.text
        assert CUSTOMER not in page.text

    def test_journal_says_what_is_unfinished(self, log_in):
        now = timezone.now()
        states = {"running": now, "unfinished": now - timedelta(hours=2)}
        for account, moment in states.items():
            Erasure.objects.create(marker=account, account=account, last_step_at=moment)
        Erasure.objects.create(marker="a", state="done")
        Erasure.objects.create(marker="b", state="done", counts={"chatsession": 1})
        html = log_in("view_erasure").get(self.list_url()).text
        assert '<td class="field-state_shown">running</td>' in html
        assert '<td class="field-state_shown">done</td>' in html
        assert '<td class="field-state_shown">done: nothing was found</td>' in html
        assert '<td class="field-state_shown">unfinished: erase the customer again</td>' in html

    @pytest.mark.parametrize("state", ["running", "done", "unfinished"])
    def test_journal_is_filtered_by_state_as_it_is_now(self, log_in, state):
        long_ago = timezone.now() - timedelta(hours=2)
        for stored in Erasure.State:
            Erasure.objects.create(marker=f"{stored} now", state=stored)
            Erasure.objects.create(marker=f"{stored} ago", state=stored, last_step_at=long_ago)
        listed = log_in("view_erasure").get(self.list_url(), {"state": state}).context["cl"]
        assert [each.state_now for each in listed.result_list] == [state] * listed.result_count
        assert listed.result_count == {"running": 1, "done": 2, "unfinished": 3}[state]

    def test_journal_without_rows_says_so(self, log_in):
        viewer = log_in("view_erasure")
        assert "There are no erasures yet." in viewer.get(self.list_url()).text
        html = viewer.get(self.list_url(), {"state": "done"}).text
        assert "No erasures match these filters." in html
        assert viewer.get(self.list_url(), {"state": "odd"}).status_code == 302

    def test_journal_needs_permission(self, officer):
        assert officer.get(self.list_url()).status_code == 403


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

    @pytest.mark.parametrize(
        ("typed", "why"),
        [
            ("2026-01-01", "This day is over"),
            ("9999-12-31", "This day is too far in the future"),
            ("soon", "Enter a day such as"),
        ],
    )
    def test_wrong_day_is_shown_with_the_error_until_it_is_corrected(self, officer, typed, why):
        day = timezone.localdate() + timedelta(days=30)
        session = ClosedSessionFactory(customer_id=CUSTOMER, keep_until=day)
        response = officer.post(url_of("keep", session), {"keep_until": typed}, follow=True)
        form = response.context["form"]
        assert why in form.errors["keep_until"][0]
        assert f'value="{typed}"' in str(form["keep_until"])
        assert ChatSession.objects.get().keep_until == day
        assert not LogEntry.objects.exists()
        officer.post(url_of("keep", session), {"keep_until": day}, follow=True)
        form = officer.get(url_of("keep", session)).context["form"]
        assert not form.errors
        assert f'value="{day}"' in str(form["keep_until"])

    def test_chat_that_is_outside_access_by_now_is_said(self, officer, messages_of, settings):
        session = ClosedSessionFactory(customer_id=CUSTOMER)
        settings.OSVI_SESSIONS_FOR = access_without_erasing
        response = officer.post(url_of("keep", session), {"keep_until": ""}, follow=True)
        assert [level for level, _said in messages_of(response)] == ["error"]


def access_without_erasing(_user, purpose):
    every = ChatSession.objects.all()
    return every.none() if purpose == Purpose.ERASE else every


def access_to_look_at_the_default_account(_user, purpose):
    every = ChatSession.objects.all()
    return every if purpose == Purpose.ERASE else every.filter(agent__account="default")
