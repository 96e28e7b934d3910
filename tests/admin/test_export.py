"""Export chats from their list in the admin, and the history of exports."""

from __future__ import annotations

import pytest
from django.contrib.auth import get_user_model
from django.urls import reverse

from osvi_django.models import ChatSession, DataExport
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.exports import READERS, read_csv, read_jsonl

pytestmark = pytest.mark.django_db

LIST = reverse("admin:osvi_django_chatsession_changelist")
PAGE = reverse("admin:osvi_django_chatsession_export")
HISTORY = reverse("admin:osvi_django_dataexport_changelist")


@pytest.fixture
def exporter(log_in):
    """Log in as staff who may see, read and export chats."""
    return log_in("view_chatsession", "view_sessionsummary", "export_chatsession")


def select(client, *sessions, query="", across=False):
    form = {
        "action": "export_selected",
        "_selected_action": [each.pk for each in sessions],
        "select_across": "1" if across else "0",
    }
    response = client.post(f"{LIST}?{query}", form)
    assert response.status_code == 302
    return response["Location"]


def ids(response):
    return [row["session_id"] for row in read_jsonl(response.getvalue())]


class TestAction:
    def test_all_that_match_over_several_pages_are_exported(self, exporter):
        agent = ChatAgentFactory()
        sessions = ChatSession.objects.bulk_create(
            ChatSession(session_id=f"s{number}", agent=agent, status="dormant")
            for number in range(120)
        )
        ChatSessionFactory()
        page = select(exporter, sessions[0], query="status=dormant&p=2", across=True)
        html = exporter.get(page).text
        assert "120 chats: dormant" in html
        response = exporter.post(page, {"file_format": "jsonl"})
        assert (response.streaming, len(ids(response))) == (True, 120)
        record = DataExport.objects.get()
        assert (record.selection, record.via, record.rows) == ("dormant", "admin", 120)
        assert (record.outcome, record.requested_by.username) == ("completed", "jo")

    def test_ticked_chats_are_exported(self, exporter):
        chosen, _other = ChatSessionFactory.create_batch(2)
        page = select(exporter, chosen)
        html = exporter.get(page).text
        assert "1 chat: ticked in the list" in html
        assert f'name="_selected_action" value="{chosen.pk}"' in html
        form = {"file_format": "jsonl", "_selected_action": [chosen.pk]}
        assert ids(exporter.post(page, form)) == [chosen.session_id]
        assert DataExport.objects.get().selection == "ticked in the list"

    def test_ticked_chats_that_are_gone_lead_back_to_list(self, exporter):
        response = exporter.get(f"{PAGE}?ticked=yes", follow=True)
        assert response.redirect_chain[-1][0] == LIST
        assert "which chats you had ticked is no longer known" in response.text

    def test_ticked_chats_that_are_deleted_lead_back_to_list(self, exporter):
        session = ChatSessionFactory()
        page = select(exporter, session)
        session.delete()
        assert "None of the chat sessions that you selected" in exporter.get(page, follow=True).text

    def test_ticked_chats_after_logout_are_to_be_ticked_again(self, exporter, messages_of):
        session = ChatSessionFactory()
        page = select(exporter, session)
        user = exporter.get(page).context["user"]
        exporter.logout()
        exporter.force_login(user)
        response = exporter.get(f"{page}&posted=yes", follow=True)
        [(level, sentence)] = messages_of(response)
        assert (level, sentence.startswith("Nothing was exported")) == ("warning", True)
        assert not DataExport.objects.exists()

    def test_action_is_not_offered_without_permission(self, log_in):
        ChatSessionFactory()
        html = log_in("view_chatsession", "close_chatsession").get(LIST).text
        assert "export_selected" not in html
        assert PAGE not in html


class TestPage:
    def test_list_links_to_page_with_its_filters_and_no_script_is_needed(self, exporter):
        wanted = ClosedSessionFactory(customer_id="+15551112222")
        ClosedSessionFactory()
        html = exporter.get(f"{LIST}?status=closed&q=2222").text
        link = f"{PAGE}?_changelist_filters=status%3Dclosed%26q%3D2222"
        assert f'href="{link}"' in html
        assert "1 chat: closed, found by a search" in exporter.get(link).text
        assert ids(exporter.post(link, {"file_format": "jsonl"})) == [wanted.session_id]

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("status=closed&q=2222", "1 chat: closed, found by a search"),
            ("_changelist_filters=status%3Dclosed&q=2222", "1 chat: closed, found by a search"),
            ("q=2222&p=1&o=-2", "1 chat: found by a search"),
        ],
    )
    def test_filters_in_query_of_page_itself_are_obeyed(self, exporter, query, words):
        wanted = ClosedSessionFactory(customer_id="+15551112222")
        ClosedSessionFactory()
        page = f"{PAGE}?{query}"
        assert words in exporter.get(page, follow=True).text
        assert exporter.post(page, {"file_format": "jsonl"}).status_code == 302
        assert not DataExport.objects.exists()
        found = exporter.post(exporter.get(page)["Location"], {"file_format": "jsonl"})
        assert ids(found) == [wanted.session_id]

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("closed_by__id__exact={user}", "closed by: jo"),
            ("closed_by__id__exact=0", "closed by: unknown"),
            ("closed_by__isnull=False", "closed by: not empty"),
            ("closed_by__isnull=1", "closed by: empty"),
            ("closed_via__exact=rest", "closed via: API"),
            ("closed_via=rest&closed_via=admin", "closed via: API / admin"),
            ("close_reason__exact=Spam", "reason for closing: Spam"),
            ("close_reason__exact=", "reason for closing: empty"),
            ("status__exact=closed&closed_via=rest", "status: closed, closed via: API"),
            ("agent__in=1,2", "filtered by agent"),
            ("agent__id__exact=999", "filtered by agent"),
            ("pk=1", "filtered by pk"),
            ("taken_over=anybody", "taken over by anybody here"),
            ("closed_by=anybody", "closed by anybody here"),
            ("attempts__isnull=False", "attempts: not empty"),
            ("customer_id=%2B15551112222", "filtered by customer"),
            ("status=closed&customer_id__startswith=%2B15", "closed, filtered by customer"),
        ],
    )
    def test_lookups_of_links_are_named_and_shown_in_list(self, exporter, query, words):
        ClosedSessionFactory(closed_via="rest", close_reason="Spam")
        query = query.format(user=get_user_model().objects.get(username="jo").pk)
        found = exporter.get(LIST, QUERY_STRING=query)
        number = found.context["cl"].result_count
        page = exporter.get(f"{PAGE}?{query}")["Location"]
        assert f": {words}</strong>" in exporter.get(page).text
        exporter.post(page, {"file_format": "csv"}).getvalue()
        record = DataExport.objects.get()
        assert (record.selection, record.rows) == (words, number)
        shown = found.text.partition('id="changelist-filter"')[2]
        for each in words.split(", "):
            assert (each.partition(": ")[2] or each.rpartition(" by ")[2]) in shown

    def test_lookups_can_be_removed_in_list_and_others_stay(self, exporter):
        query = "closed_via__exact=rest&status=closed"
        found = exporter.get(f"{LIST}?{query}&p=1")
        cl = found.context["cl"]
        [spec] = [each for each in cl.filter_specs if str(each.title) == "link"]
        # Django asks for these where a host shows counts beside the filters.
        assert spec.expected_parameters() == ["closed_via__exact"]
        assert [(each["query_string"], each["selected"]) for each in spec.choices(cl)] == [
            ("?status=closed", False),
            (f"?{query}", True),
        ]

    def test_empty_list_of_link_does_not_say_that_there_are_no_chats(self, exporter):
        ClosedSessionFactory(closed_via="admin")
        html = exporter.get(f"{LIST}?closed_via__exact=rest").text
        assert "No chat sessions match these filters." in html
        assert "Clear all filters" in html

    @pytest.mark.parametrize("query", ["status=odd", "nonsense=1"])
    def test_invalid_filters_in_query_of_page_itself_lead_to_list(self, exporter, query):
        response = exporter.get(f"{PAGE}?{query}", follow=True)
        assert response.redirect_chain[-1][0].startswith(LIST)

    @pytest.mark.parametrize("file_format", READERS)
    def test_page_sends_file_of_each_format(self, exporter, file_format):
        ClosedSessionFactory()
        assert f'href="{PAGE}"' in exporter.get(LIST).text
        response = exporter.post(PAGE, {"file_format": file_format})
        assert len(READERS[file_format](response.getvalue())) == 1
        assert response["Content-Disposition"].endswith(f'.{file_format}"')

    def test_page_without_permission_is_refused(self, log_in):
        response = log_in("view_chatsession").get(PAGE)
        assert (response.status_code, "Can export chat session" in response.text) == (403, True)

    def test_page_with_invalid_filters_leads_back_to_list(self, exporter):
        response = exporter.get(f"{PAGE}?_changelist_filters=status%3Dnonsense")
        assert response.status_code == 302
        assert response["Location"].startswith(LIST)

    def test_page_with_unknown_format_shows_error(self, exporter):
        response = exporter.post(PAGE, {"file_format": "pdf"})
        assert (response.status_code, "Select a valid choice" in response.text) == (200, True)
        assert not DataExport.objects.exists()

    def test_page_counts_to_limit_only(self, exporter, monkeypatch):
        ChatSessionFactory.create_batch(3)
        monkeypatch.setattr("osvi_django.admin.pagination.CappedPaginator.cap", 2)
        assert "More than 2 chats: the whole list" in exporter.get(PAGE).text

    def test_page_says_that_words_are_not_in_file(self, log_in):
        ClosedSessionFactory()
        client = log_in("view_chatsession", "export_chatsession")
        assert "no summaries and notes" in client.get(PAGE).text
        (row,) = read_csv(client.post(PAGE, {"file_format": "csv"}).getvalue())
        assert {"summary", "note"}.isdisjoint(row)

    def test_excel_without_extra_is_explained(self, exporter, without_xlsx):
        session = ChatSessionFactory()
        page = select(exporter, session)
        html = exporter.get(page).text
        assert "osvi-django[xlsx]" in html
        assert 'value="xlsx"' not in html
        form = {"file_format": "xlsx", "_selected_action": [session.pk]}
        html = exporter.post(page, form, follow=True).text
        assert "xlsx is not one of the available choices" in html
        # The selection is still there.
        assert "1 chat: ticked in the list" in html

    def test_user_who_loses_permission_meanwhile_gets_no_file(
        self, log_in, allowed_once, messages_of
    ):
        session = ChatSessionFactory()
        client = log_in("view_chatsession")
        allowed_once("export_chatsession")
        form = {"file_format": "csv", "_selected_action": [session.pk]}
        response = client.post(f"{PAGE}?ticked=yes", form)
        assert response["Location"] == f"{PAGE}?ticked=yes"
        assert not DataExport.objects.exists()
        allowed_once("export_chatsession")
        response = client.get(response["Location"])
        [(level, sentence)] = messages_of(response)
        assert (level, "permission to export" in sentence) == ("error", True)
        assert "1 chat: ticked in the list" in response.text


class TestHistory:
    def test_history_shows_who_took_what_along(self, exporter, log_in):
        ChatSessionFactory()
        exporter.post(PAGE, {"file_format": "csv"}).getvalue()
        viewer = log_in("view_dataexport", name="kim")
        html = viewer.get(HISTORY).text
        for shown in ("jo", "CSV", "the whole list", "completed", "admin"):
            assert shown in html
        record = DataExport.objects.get()
        page = viewer.get(reverse("admin:osvi_django_dataexport_change", args=[record.pk]))
        assert (page.status_code, "_save" in page.text) == (200, False)

    def test_history_needs_permission(self, exporter):
        assert exporter.get(HISTORY).status_code == 403
