"""Test that the error reporters of hosts receive no token, no text and no customer."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from base64 import b64encode
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException

import pytest
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from osvi_django.client import OSVIClient
from tests.helpers.error_reports import RecordingEmailHandler
from tests.helpers.processes import database_url, free_port
from tests.helpers.raw_server import RawServer, close_body, close_response, http_response
from tests.helpers.waiting import wait_until

# Joined at run time, as reports also quote source lines.
TOKEN, WORDS, CUSTOMER, SUMMARY = ("-".join(("canary", each)) for each in ("0", "1", "2", "3"))
CANARY = "canary-"


def send_partial_answer(call):
    """Send a part of the body, and then nothing for 20 seconds."""
    call.send(http_response(close_body("s-1", summary=SUMMARY, more="." * 100))[:-60])
    call.pause(20)


@contextmanager
def interrupted(error, seconds=0.4):
    """Raise an error in this thread from outside, as a signal's handler does."""

    def interrupt(*args):
        raise error

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("raises", ["SystemExit", "RuntimeError"])
def test_sentry_events_of_interrupted_call_contain_no_personal_data(tmp_path, raises):
    events = tmp_path / "events"
    with RawServer(send_partial_answer) as server:
        environment = {
            **{key: value for key, value in os.environ.items() if "DJANGO" not in key},
            "CANARY_A": TOKEN,
            "CANARY_B": CUSTOMER,
            "CANARY_C": WORDS,
            "EVENTS": str(events),
            "RAISES": raises,
            "URL": server.url,
        }
        command = [sys.executable, "-m", "tests.client.interrupted_call"]
        subprocess.run(command, env=environment, check=True, timeout=60)
        assert server.calls[0].headers["api-token"] == TOKEN
    sent = events.read_text()
    assert f'"type":"{raises}"' in sent
    assert '"function":"_read_body"' in sent
    assert '"vars":' in sent
    assert "[hidden]" in sent
    assert CANARY not in sent


@contextmanager
def served(url, events):
    """Run a site that reports to Sentry, whose worker is killed if it blocks too long."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "example_project.settings",
        "EVENTS": str(events),
        "OSVI_BASE_URL": url,
        "OSVI_API_TOKEN": TOKEN,
    }
    app = ["tests.client.sentry_app:application", "--bind", f"127.0.0.1:{port}"]
    options = ["--preload", "--timeout", "4", "--no-control-socket", "--log-level", "critical"]
    command = [sys.executable, "-m", "gunicorn", *app, *options]
    with subprocess.Popen(command, env=environment) as process:
        try:
            wait_until(lambda: request(port, "GET", "/admin/login/"))
            yield port
        finally:
            process.terminate()


def request(port, method, path):
    who = b64encode(b"sam:secret").decode()
    headers = {"Authorization": f"Basic {who}", "Content-Type": "application/json"}
    asked = HTTPConnection("127.0.0.1", port, timeout=30)
    with suppress(OSError, HTTPException):
        asked.request(method, path, body=json.dumps({}), headers=headers)
        return asked.getresponse().status
    return 0


@pytest.mark.django_db(transaction=True)
def test_sentry_events_of_worker_killed_in_close_contain_no_personal_data(
    tmp_path, mirrored, staff
):
    events = tmp_path / "events"
    staff.set_password("secret")
    staff.save()
    session = mirrored(customer_id=CUSTOMER)
    with RawServer(send_partial_answer) as server, served(server.url, events) as port:
        request(port, "POST", f"/api/osvi/sessions/{session.session_id}/close/")
        wait_until(lambda: events.exists() and "SystemExit" in events.read_text())
        assert server.calls[0].headers["api-token"] == TOKEN
    sent = events.read_text()
    assert '"type":"SystemExit"' in sent
    assert '"function":"_read_body"' in sent
    assert "[hidden]" in sent
    assert CANARY not in sent


def test_error_email_of_interrupted_call_contains_no_personal_data(settings):
    with RawServer(send_partial_answer) as server:
        settings.OSVI = {"default": {"API_TOKEN": TOKEN, "BASE_URL": server.url}}
        client = OSVIClient.for_account()
        with pytest.raises(RuntimeError) as caught, interrupted(RuntimeError("unexpected")):
            client.inbound(agent_uuid="a", customer_id=CUSTOMER, content=WORDS)
        assert server.calls[0].headers["api-token"] == TOKEN
    handler = RecordingEmailHandler(include_html=True)
    exc_info = (caught.type, caught.value, caught.tb)
    handler.emit(logging.makeLogRecord({"levelno": logging.ERROR, "exc_info": exc_info}))
    assert "_read_body" in handler.sent[1]
    assert "[hidden]" in handler.sent[1]
    for each in handler.sent:
        assert CANARY not in each


@pytest.fixture
def spans(monkeypatch):
    """Return the spans of calls, with headers and all attributes that a hook can see."""
    for kind in ("REQUEST", "RESPONSE"):
        monkeypatch.setenv(f"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_{kind}", ".*")

    def look_at_request(span, request):
        span.set_attribute("hook.request", repr(vars(request)))

    def look_at_response(span, request, response):
        span.set_attribute("hook.response", repr((vars(request), vars(response))))

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument(
        tracer_provider=provider, request_hook=look_at_request, response_hook=look_at_response
    )
    yield exporter.get_finished_spans
    instrumentor.uninstrument()


def test_opentelemetry_spans_of_calls_contain_no_personal_data(spans, make_client):
    answered = http_response(close_body("s-1", reply=SUMMARY))
    with RawServer(close_response(summary=SUMMARY), answered, lambda call: call.reset()) as server:
        client = make_client(server.url, token=TOKEN)
        assert client.close_session("s-1", agent_uuid="a").summary == SUMMARY
        message = {"agent_uuid": "a", "customer_id": CUSTOMER, "content": WORDS}
        assert client.inbound(**message).text == SUMMARY
        with pytest.raises(Exception, match="OSVI"):
            client.inbound(**message)
        assert {call.headers["api-token"] for call in server.calls} == {TOKEN}
    found = [span.to_json() for span in spans()]
    assert len(found) == 3
    assert "hook.response" in found[0]
    assert "http.request.header.api_token" in found[0]
    for each in found:
        assert CANARY not in each


def test_answer_read_by_opentelemetry_hook_is_still_read(make_client):
    instrumentor = RequestsInstrumentor()
    instrumentor.instrument(response_hook=lambda span, request, response: response.text)
    try:
        with RawServer(close_response(summary=SUMMARY)) as server:
            client = make_client(server.url, token=TOKEN)
            assert client.close_session("s-1", agent_uuid="a").summary == SUMMARY
    finally:
        instrumentor.uninstrument()


def test_documented_filters_remove_customer_from_events_and_spans(tmp_path):
    events = tmp_path / "events"
    with RawServer(http_response(close_body("s-1")), lambda call: call.reset()) as server:
        environment = {
            **{key: value for key, value in os.environ.items() if "DJANGO" not in key},
            "CANARY_B": CUSTOMER,
            "EVENTS": str(events),
            "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup",
            "URL": server.url,
        }
        command = [sys.executable, "-m", "tests.client.documented_filters"]
        done = subprocess.run(command, env=environment, check=True, timeout=60, capture_output=True)
        assert [CUSTOMER in call.target for call in server.calls] == [True, True]
    spans, sent = done.stdout.decode(), events.read_text()
    assert spans.count('"http.url": "') == spans.count('"url.full": "') == 2
    assert '"exception.message"' in spans
    assert "/v1/chat/session/active" in sent
    assert '"op":"http.client"' in sent
    for each in (spans, sent):
        assert CANARY not in each
