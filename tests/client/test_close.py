"""Test the close call in both dialects, and its result."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from django.test import override_settings
from hypothesis import example, given
from hypothesis import strategies as st

from osvi_django.client import OSVIClient
from osvi_django.client.responses import ClosedSession
from osvi_django.exceptions import InvalidInput, OSVINotConfigured
from osvi_django.testing import MISSING, OddSummary
from osvi_django.validation import storable
from tests.client.conftest import TOKEN
from tests.helpers.raw_server import RawServer, close_response

VENDOR = Path(__file__).parent.parent / "vendor" / "end_chat_session.yaml"


@pytest.fixture
def chat(osvi):
    return osvi.add_session("s-1", agent_uuid="agent_1", summary="Wanted a refund.")


def test_legacy_close_sends_request_of_vendor_page(osvi, close):
    page = yaml.safe_load(VENDOR.read_text())
    ((path, methods),) = page["paths"].items()
    ((method, operation),) = methods.items()
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    scheme = page["components"]["securitySchemes"]["ApiToken"]
    session_id = operation["parameters"][0]["schema"]["example"]
    osvi.add_session(session_id, agent_uuid="agent_1")

    close(osvi.url, session_id)

    (request,) = osvi.requests
    assert (request.method, request.path) == (method.upper(), path.format(id=session_id))
    assert list(request.body) == schema["required"] == list(schema["properties"])
    assert request.body == {"agent_uuid": "agent_1"}
    assert request.headers["Content-Type"] == "application/json"
    assert (scheme["in"], request.headers[scheme["name"]]) == ("header", TOKEN)


def test_v1_close_sends_support_command(osvi, chat, make_client):
    osvi.v1_summary = True
    result = make_client(osvi.url, close_with="v1").close_session("s-1")

    (request,) = osvi.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/session/s-1/support")
    assert request.body == {"command": "close"}
    assert request.headers["API-Token"] == TOKEN
    assert result == ClosedSession(session_id="s-1", summary="Wanted a refund.")


def test_v1_close_without_summary_closes_session(osvi, chat, close):
    assert close(osvi.url, close_with="v1").summary is None
    assert chat.is_closed


def test_legacy_close_returns_summary(osvi, chat, close):
    result = close(osvi.url)
    assert result == ClosedSession(session_id="s-1", summary="Wanted a refund.")
    assert osvi.closes("s-1") == 1


@pytest.mark.parametrize("nothing", [MISSING, None, "", " \n\t "])
def test_close_with_missing_or_blank_summary_returns_none(osvi, chat, close, nothing):
    osvi.script("s-1", OddSummary(nothing))
    assert close(osvi.url).summary is None


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("a\ud83db", "a\ufffdb"),
        ("a\udc00", "a\ufffd"),
        ("\U0001f600 naïve, ok\u202f?", "\U0001f600 naïve, ok\u202f?"),
        ("  two\nlines \n", "two\nlines"),
    ],
)
def test_close_with_unstorable_summary_returns_storable_text(osvi, chat, close, sent, kept):
    osvi.script("s-1", OddSummary(sent))
    assert close(osvi.url).summary == kept


@given(st.text(st.characters(codec=None, exclude_categories=())))
@example("\ud83d\ude00")
def test_storable_with_any_text_returns_encodable_text_of_same_length(text):
    made = storable(text)
    assert "\x00" not in made
    assert len(made) == len(text)
    assert storable(made.encode().decode()) == made


def test_repr_of_answer_and_result_contains_no_summary(osvi, chat, make_client):
    client = make_client(osvi.url)
    assert "refund" not in repr(client.send_close("s-1", agent_uuid="agent_1"))
    assert "refund" not in repr(client.close_session("s-1", agent_uuid="agent_1"))


def test_send_close_returns_unparsed_answer(osvi, make_client):
    answer = make_client(osvi.url).send_close("s-unknown", agent_uuid="agent_1")
    assert (answer.status, answer.truncated, answer.retry_after) == (404, False, None)
    assert "Session not found" in answer.text


def test_answer_text_with_any_bytes_is_storable(make_client):
    with RawServer(close_response(summary="x").replace(b"Fine", b"F\x00\xff")) as server:
        answer = make_client(server.url).send_close("s-1", agent_uuid="agent_1")
    answer.text.encode()
    assert "\x00" not in answer.text


def test_legacy_close_without_agent_raises_invalid_input(osvi, make_client):
    with pytest.raises(InvalidInput) as caught:
        make_client(osvi.url).close_session("s-1")
    assert caught.value.field == "agent_uuid"
    assert osvi.requests == []


def test_base_url_with_path_is_prefixed_to_requests(close):
    with RawServer() as server:
        close(f"{server.url}/osvi/", "s-1")
    assert server.calls[0].target == "/osvi/chat_sessions/s-1/close_session"


# Clients for an account


def test_client_for_account_uses_current_settings(osvi, chat):
    account = {"API_TOKEN": TOKEN, "BASE_URL": osvi.url, "CLOSE_WITH": "v1", "DEADLINE": 9}
    with override_settings(OSVI={"default": {}, "other": account}):
        client = OSVIClient.for_account("other")
    assert (client.base_url, client.close_with, client.deadline) == (osvi.url, "v1", 9)
    with override_settings(OSVI={"other": {**account, "CONNECT_TIMEOUT": 3, "READ_TIMEOUT": 4}}):
        client = OSVIClient.for_account("other")
        assert (client.connect_timeout, client.read_timeout) == (3, 4)
        client.close_session("s-1")
    assert osvi.closes("s-1") == 1


tokens = []


def next_token():
    return tokens.pop(0)


@pytest.mark.parametrize("source", [next_token, f"{__name__}.next_token"])
def test_callable_token_is_called_for_each_request(osvi, chat, source):
    tokens[:] = [TOKEN, "rotated-token-16"]
    account = {"API_TOKEN": source, "BASE_URL": osvi.url}
    with override_settings(OSVI={"default": account}):
        client = OSVIClient.for_account()
        client.send_close("s-1", agent_uuid="agent_1")
        client.send_close("s-1", agent_uuid="agent_1")
    sent = [request.headers["API-Token"] for request in osvi.requests]
    assert sent == [TOKEN, "rotated-token-16"]


def test_client_with_callable_token_closes_session(osvi, chat, close):
    tokens[:] = [TOKEN]
    assert close(osvi.url, token=next_token).summary == "Wanted a refund."


def test_client_for_unusable_account_raises_not_configured():
    with override_settings(OSVI={"default": {"API_TOKEN": TOKEN, "DEADLINE": "9"}}):
        with pytest.raises(OSVINotConfigured, match=r'OSVI\["default"\]\["DEADLINE"\]'):
            OSVIClient.for_account()
        with pytest.raises(OSVINotConfigured, match='no account "other"'):
            OSVIClient.for_account("other")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"base_url": "http://api.osvi.ai"}, "base_url does not use https"),
        ({"base_url": None}, "base_url is not a URL"),
        ({"close_with": "v2"}, "close_with"),
        *(
            ({name: value}, "positive number of seconds")
            for name in ("connect_timeout", "read_timeout", "deadline")
            for value in (0, -1, float("nan"), float("inf"), 10**400, 1e12, None, "5", True)
        ),
    ],
)
def test_client_with_unusable_option_raises_not_configured(options, problem):
    with pytest.raises(OSVINotConfigured, match=problem):
        OSVIClient(token=TOKEN, **options)


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (None, "is missing"),
        ("", "is empty"),
        (b"bytes", "is not text"),
        (16, "is not text"),
        ("two words", "a character that a token cannot have"),
        (lambda: None, "is missing"),
    ],
)
def test_close_with_unsendable_token_raises_not_configured(osvi, close, token, problem):
    with pytest.raises(OSVINotConfigured, match=problem):
        close(osvi.url, token=token)
    assert osvi.requests == []


# Without Django settings

SHELL = """
    import os
    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    from osvi_django.client import OSVIClient
    from osvi_django.exceptions import OSVIError, OSVINotConfigured
    client = OSVIClient(token="{token}", base_url="{url}")
    print(client.close_session("s-1", agent_uuid="agent_1").summary)
    try:
        client.close_session("nobody's", agent_uuid="agent_1")
    except OSVIError as error:
        print(error)
    try:
        client.close_session("..", agent_uuid="agent_1")
    except OSVIError as error:
        print(error)
    try:
        OSVIClient.for_account()
    except OSVINotConfigured as error:
        print(error)
    from django.conf import settings
    assert not settings.configured
"""


def test_client_without_django_settings_closes_session(osvi, chat):
    code = textwrap.dedent(SHELL.format(token=TOKEN, url=osvi.url))
    shell = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shell.stderr == ""
    summary, refused, invalid, not_configured = shell.stdout.strip().splitlines()
    assert summary == "Wanted a refund."
    assert refused.startswith("OSVI does not know this chat session")
    assert refused.endswith("OSVI said: “Session not found”")
    assert invalid.startswith("session_id: This is not a valid id: use ")
    assert not_configured.startswith("OSVI is not set up on this site")
