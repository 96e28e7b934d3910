"""Tests of ``GET sessions/export/``."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.testing import ApplicationCommunicator
from django.core.asgi import get_asgi_application
from django.db import OperationalError
from rest_framework.test import APIClient

from osvi_django.models import ChatSession, DataExport
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)
from tests.helpers.database import raise_on_queries
from tests.helpers.exports import READERS, read_csv, read_jsonl

pytestmark = pytest.mark.django_db

URL = "/api/osvi/sessions/export/"


@pytest.fixture
def exporter(staff, grant):
    """Return a client of staff who may export and read summaries."""
    client = APIClient()
    client.force_authenticate(grant(staff, "export_chatsession"))
    return client


def ids(response):
    return [row["session_id"] for row in read_jsonl(response.getvalue())]


class TestFile:
    @pytest.mark.parametrize(
        ("file_format", "content_type"),
        [
            ("csv", "text/csv; charset=utf-8"),
            ("jsonl", "application/jsonl"),
            ("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        ],
    )
    def test_export_streams_file(self, exporter, file_format, content_type):
        session = ClosedSessionFactory(customer_id="+15551112222", close_reason="=1+1")
        response = exporter.get(URL, {"format": file_format})
        assert (response.status_code, response.streaming) == (200, True)
        assert response["Content-Type"] == content_type
        name = response["Content-Disposition"]
        assert name.startswith('attachment; filename="chats-')
        assert name.endswith(f'Z.{file_format}"')
        (row,) = READERS[file_format](response.getvalue())
        assert (row["session_id"], row["customer_id"]) == (session.session_id, "+15551112222")
        assert row["summary"] == session.summary.text
        assert row["close_reason"] == ("'=1+1" if file_format == "csv" else "=1+1")

    def test_export_is_not_stored_and_has_no_etag(self, exporter):
        response = exporter.get(URL, {"format": "csv"})
        caching = set(response["Cache-Control"].split(", "))
        assert {"private", "no-store"} <= caching
        assert "ETag" not in response

    def test_export_has_what_filters_and_search_find(self, exporter):
        agent = ChatAgentFactory(uuid="agent_x")
        wanted = ClosedSessionFactory(agent=agent, customer_id="+15551112222")
        ClosedSessionFactory(agent=agent)
        ChatSessionFactory(customer_id="+15551112222")
        query = {"format": "jsonl", "agent_uuid": "agent_x", "status": "closed", "search": "2222"}
        assert ids(exporter.get(URL, query)) == [wanted.session_id]
        record = DataExport.objects.get()
        assert record.selection == "closed, of one agent, found by a search"
        assert (record.requested_by.username, record.via, record.rows) == ("sam", "rest", 1)
        assert record.outcome == "completed"

    def test_export_without_filter_has_all_sessions(self, exporter):
        made = [ChatSessionFactory(), ClosedSessionFactory()]
        response = exporter.get(URL, {"format": "jsonl"})
        assert ids(response) == [each.session_id for each in made]

    def test_export_accepts_every_accept_header_and_url_without_slash(self, exporter):
        for accept in ("text/csv", "application/xml", "*/*"):
            response = exporter.get(URL[:-1], {"format": "csv"}, headers={"Accept": accept})
            assert (response.status_code, read_csv(response.getvalue())) == (200, [])

    def test_export_for_user_who_may_not_read_summaries_lacks_words(self, client_with):
        ClosedSessionFactory()
        client = client_with("view_chatsession", "export_chatsession")
        (row,) = read_jsonl(client.get(URL, {"format": "jsonl"}).getvalue())
        assert {"summary", "note"}.isdisjoint(row)
        assert not DataExport.objects.get().has_words

    def test_head_returns_headers_and_exports_nothing(self, exporter):
        response = exporter.head(URL, {"format": "csv"})
        assert (response.status_code, response.content) == (200, b"")
        assert response["Content-Type"] == "text/csv; charset=utf-8"
        assert not DataExport.objects.exists()

    def test_client_that_goes_away_is_noted(self, exporter):
        ChatSessionFactory()
        response = exporter.get(URL, {"format": "csv"})
        next(iter(response))
        assert DataExport.objects.get().outcome == "started"
        response._iterator.close()  # as the test client closes it
        assert DataExport.objects.get().outcome == "broken_off"

    def test_options_describe_export(self, exporter):
        response = exporter.options(URL)
        assert (response.status_code, response["Allow"]) == (200, "GET, HEAD, OPTIONS")


class TestErrors:
    @pytest.mark.parametrize(
        ("query", "named"),
        [
            ({}, "format"),
            ({"format": "pdf"}, "format"),
            ({"format": "json"}, "format"),
            ({"format": "csv", "status": "open"}, "status"),
            ({"format": "csv", "page_size": "10"}, "page_size"),
            ({"format": "csv", "search": "!!!"}, "search"),
            ({"format": "csv", "search": "x" * 256}, "search"),
        ],
    )
    def test_invalid_query_returns_400_and_exports_nothing(self, exporter, query, named):
        response = exporter.get(URL, query)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert list(response.json()["errors"]) == [named]
        assert response.json()["detail"].startswith(f"{named}: ")
        if named == "format":
            assert "use one of csv, jsonl, xlsx" in response.json()["detail"]
        assert not DataExport.objects.exists()

    @pytest.mark.parametrize("codename", ["view_chatsession", "export_chatsession"])
    def test_export_needs_both_permissions(self, client_with, codename):
        response = client_with(codename).get(URL, {"format": "csv"})
        assert (response.status_code, response.json()["code"]) == (403, "permission_denied")

    def test_export_without_login_is_refused(self, client):
        assert client.get(URL, {"format": "csv"}).status_code in {401, 403}

    def test_excel_without_extra_returns_501_and_says_what_to_install(self, exporter, without_xlsx):
        response = exporter.get(URL, {"format": "xlsx"})
        assert (response.status_code, response.json()["code"]) == (501, "xlsx_not_installed")
        assert "osvi-django[xlsx]" in response.json()["detail"]

    def test_database_that_fails_before_first_byte_returns_503(self, exporter):
        def is_page(sql, _params):
            return "LIMIT 2000" in sql

        with raise_on_queries(is_page, OperationalError("gone")):
            response = exporter.get(URL, {"format": "csv"})
        assert (response.status_code, response.json()["code"]) == (503, "database_away")


@pytest.mark.django_db(transaction=True)
class TestEventLoop:
    """Under ASGI a file is read part by part as well."""

    @pytest.fixture
    def many(self):
        agent = ChatAgentFactory()
        ChatSession.objects.bulk_create(
            ChatSession(session_id=f"s{number}", agent=agent) for number in range(4_500)
        )

    @pytest.fixture
    def scope(self, client, staff, grant):
        client.force_login(grant(staff, "export_chatsession"))
        cookie = f"sessionid={client.cookies['sessionid'].value}"
        return {
            "type": "http",
            "method": "GET",
            "path": URL,
            "query_string": b"format=jsonl",
            "headers": [(b"cookie", cookie.encode()), (b"host", b"testserver")],
        }

    def test_export_in_event_loop_streams_parts(self, many, scope):
        async def read():
            app = await begin(scope)
            parts = []
            while not parts or parts[-1]:
                parts.append((await app.receive_output(timeout=60)).get("body", b""))
            await app.wait()
            return parts

        parts = asyncio.run(read())
        assert len(read_jsonl(b"".join(parts))) == 4_500
        assert len(parts) > 3
        assert DataExport.objects.get().outcome == "completed"

    def test_client_of_event_loop_that_goes_away_is_noted(self, many, scope):
        async def go_away():
            app = await begin(scope)
            await app.receive_output(timeout=60)
            await app.send_input({"type": "http.disconnect"})
            await app.wait(timeout=60)

        asyncio.run(go_away())
        record = DataExport.objects.get()
        assert record.outcome == "broken_off"
        assert 2_000 <= record.rows < 4_500


async def begin(scope):
    """Send a request to the site under ASGI, and return it when its answer has begun."""
    app = ApplicationCommunicator(get_asgi_application(), scope)
    await app.send_input({"type": "http.request"})
    assert (await app.receive_output(timeout=60))["status"] == 200
    return app
