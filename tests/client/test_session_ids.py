"""Test that any session id is sent as one path segment and arrives unchanged."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osvi_django.client import OSVIClient
from osvi_django.exceptions import InvalidInput
from osvi_django.testing import OSVISandbox
from tests.client.conftest import TOKEN

ODD = [
    "4718a326-417b-4dda-90d0-21fd65a11cb8",
    "a/b",
    "../../v1/active_agents",
    "..%2F..",
    "%2F",
    "%2e%2e",
    "%",
    "%zz",
    "a b+c",
    "?admin=1",
    "#fragment",
    "a;b=c",
    "a:b@c",
    "\\..\\",
    "été/☕/\U0001f600",
    "...",
    "~._-",
    "{id}",
    "{0}",
    "line\r\nAPI-Token: other",
    "\x7f\x80",
    " ",
]


@pytest.fixture(scope="module")
def sandbox():
    with OSVISandbox(token=TOKEN) as osvi:
        yield osvi


def assert_id_arrives(osvi, session_id, close_with):
    client = OSVIClient(token=TOKEN, base_url=osvi.url, close_with=close_with)
    osvi.requests.clear()
    client.send_close(session_id, agent_uuid="agent_1")
    (request,) = osvi.requests
    segments = request.path.split("/")
    place = {"legacy": 2, "v1": 4}[close_with]
    assert len(segments) == {"legacy": 4, "v1": 6}[close_with]
    assert unquote(segments[place], errors="strict") == session_id
    assert request.query == {}
    assert request.headers["API-Token"] == TOKEN


@pytest.mark.parametrize("close_with", ["legacy", "v1"])
@pytest.mark.parametrize("session_id", ODD)
def test_odd_session_id_arrives_unchanged_as_one_path_segment(sandbox, session_id, close_with):
    assert_id_arrives(sandbox, session_id, close_with)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    session_id=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1
    ).filter(lambda text: text not in {".", ".."})
)
def test_any_session_id_arrives_unchanged_as_one_path_segment(sandbox, session_id):
    assert_id_arrives(sandbox, session_id, "legacy")


def test_close_with_odd_session_id_returns_same_id(osvi, close):
    osvi.add_session("a/b?c", agent_uuid="agent_1", summary="Fine.")
    assert close(osvi.url, "a/b?c").session_id == "a/b?c"


@pytest.mark.parametrize("close_with", ["legacy", "v1"])
@pytest.mark.parametrize("session_id", ["", ".", "..", "a\x00b", "\ud83d", "a\udfff"])
def test_close_with_unsendable_session_id_raises_invalid_input(osvi, close, session_id, close_with):
    with pytest.raises(InvalidInput) as caught:
        close(osvi.url, session_id, close_with=close_with)
    assert caught.value.field == "session_id"
    assert osvi.requests == []
