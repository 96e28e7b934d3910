"""Test that the frames of a running call show no token and no personal data."""

from __future__ import annotations

import signal
import sys

import pytest
from sentry_sdk.utils import event_from_exception

from tests.helpers.own_files import is_of_tests
from tests.helpers.raw_server import RawServer, close_response, http_response

SECRET = "tok-0123-456789a"
WORDS = "I want a refund"
CUSTOMER = "customer-4711"


def stack(frame):
    while frame:
        yield frame
        frame = frame.f_back


@pytest.fixture
def shown_while_receiving(make_client):
    """Return the variables of the client's frames while it sends and receives."""
    found = []

    def look(frame, event, argument):
        if event == "c_call" and getattr(argument, "__name__", "") in {"recv_into", "sendall"}:
            for each in stack(frame):
                if is_of_tests(each.f_code.co_filename):
                    break
                found.append(repr(each.f_locals))

    def _call(act, reply):
        with RawServer(reply) as server:
            client = make_client(server.url, token=SECRET)
            sys.setprofile(look)
            try:
                act(client)
            finally:
                sys.setprofile(None)
            assert server.calls[0].headers["api-token"] == SECRET
        assert len(found) > 10
        return "\n".join(found)

    return _call


def test_frames_of_close_contain_no_token_and_no_summary(shown_while_receiving):
    shown = shown_while_receiving(
        lambda client: client.close_session("s-1", agent_uuid="a"), close_response(summary=WORDS)
    )
    assert SECRET not in shown
    assert WORDS not in shown


def test_frames_of_message_contain_no_text_and_no_customer(shown_while_receiving):
    reply = http_response(b'{"success": true, "data": {"session_id": "s-1", "reply": "Sure."}}')
    shown = shown_while_receiving(
        lambda client: client.inbound(agent_uuid="a", customer_id=CUSTOMER, content=WORDS), reply
    )
    assert SECRET not in shown
    assert WORDS not in shown
    assert CUSTOMER not in shown


def test_sentry_event_of_interrupted_call_contains_no_personal_data(make_client):
    def interrupt(*args):
        raise SystemExit(1)

    previous = signal.signal(signal.SIGALRM, interrupt)
    with RawServer(lambda call: call.pause(1)) as server:
        client = make_client(server.url, token=SECRET, deadline=5, read_timeout=5)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(SystemExit) as caught:
                client.inbound(agent_uuid="a", customer_id=CUSTOMER, content=WORDS)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
    event, _hint = event_from_exception(caught.value)
    frames = event["exception"]["values"][-1]["stacktrace"]["frames"]
    # The frame of the test itself contains everything.
    ours = [frame for frame in frames if not is_of_tests(frame["abs_path"])]
    variables = repr([frame["vars"] for frame in ours])
    assert "[hidden]" in variables
    for secret in (SECRET, WORDS, CUSTOMER):
        assert secret not in variables
