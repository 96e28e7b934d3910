"""Tests of request bodies that a server or REST framework might not read."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager

import pytest
from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from rest_framework.test import APIClient

from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.rest.urls import urlpatterns
from tests.helpers.processes import database_url, free_port
from tests.helpers.sandbox import mirror
from tests.helpers.waiting import TIMEOUT, wait_until

BASE = "/api/osvi/sessions/"
NOTE = json.dumps({"note": "Said goodbye"}).encode()
CHUNKED_NOTE = b"5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (NOTE[:5], len(NOTE) - 5, NOTE[5:])
FORM = b"--x\r\nContent-Disposition: form-data; name=note\r\n\r\nBye\r\n--x--\r\n"
POST_PATHS = [
    "close-jobs/1/cancel/",
    "close-jobs/1/retry/",
    "sessions/",
    "sessions/close/",
    "sessions/sync/",
    "sessions/s-1/close/",
    "sessions/s-1/recover/",
    "sessions/s-1/support/",
    "sessions/s-1/context/",
    "sessions/s-1/messages/",
]

pytestmark = pytest.mark.django_db


@pytest.fixture
def session(osvi_sandbox):
    return mirror(osvi_sandbox, session_id="s-1", summary="All is well.")


@pytest.fixture
def operator_user(staff, grant):
    """Return the support staff with a password and the permission to operate."""
    staff.set_password("secret")
    staff.save()
    return grant(staff, "operate_chatsession")


def is_unchanged(osvi_sandbox):
    """Return whether nothing was sent and the session is still active."""
    return osvi_sandbox.requests == [] and ChatSession.objects.get().status == "active"


class TestJSONOnly:
    @pytest.mark.parametrize("path", POST_PATHS)
    @pytest.mark.parametrize(
        "content_type",
        [
            "",
            "text/plain",
            "text/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "application/jsonp",
            "application/*",
            "*/*",
            "application/json, text/plain",
            "\x00",
        ],
    )
    def test_post_with_other_content_type_returns_415(
        self, operator, session, osvi_sandbox, path, content_type
    ):
        url = f"/api/osvi/{path}"
        response = operator.generic("POST", url, NOTE, content_type=content_type)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert response.json()["retryable"] is False
        assert is_unchanged(osvi_sandbox)
        assert not CloseJob.objects.exists()

    @pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf8"])
    def test_post_with_json_content_type_is_accepted(self, api, session, content_type):
        assert api.generic("POST", f"{BASE}s-1/close/", NOTE, content_type).status_code == 200
        assert CloseAttempt.objects.get().note == "Said goodbye"

    @pytest.mark.parametrize("content_type", ["", "application/json", "text/plain"])
    def test_post_with_empty_body_is_accepted(self, api, session, content_type):
        assert api.generic("POST", f"{BASE}s-1/close/", b"", content_type).status_code == 200

    def test_post_with_parsers_of_host_accepts_only_json(
        self, api, session, osvi_sandbox, settings
    ):
        parsers = ["rest_framework.parsers.MultiPartParser", "rest_framework.parsers.FormParser"]
        settings.REST_FRAMEWORK = {"DEFAULT_PARSER_CLASSES": parsers}
        for pattern in urlpatterns:
            assert [each.media_type for each in pattern.callback.cls.parser_classes] == [
                "application/json"
            ]
        assert api.post(f"{BASE}s-1/close/", {"note": "x"}, format="multipart").status_code == 415
        assert is_unchanged(osvi_sandbox)

    @pytest.mark.parametrize("header", [{}, {"X-CSRFToken": "a" * 32}])
    def test_post_form_read_by_csrf_check_returns_415(
        self, session, operator_user, osvi_sandbox, header
    ):
        client = APIClient(enforce_csrf_checks=bool(header))
        client.force_login(operator_user)
        client.cookies["csrftoken"] = "a" * 32
        response = client.generic(
            "POST", f"{BASE}s-1/close/", FORM, "multipart/form-data; boundary=x", headers=header
        )
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert is_unchanged(osvi_sandbox)

    def test_post_larger_than_limit_returns_413(self, api, session, osvi_sandbox, settings):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
        response = api.post(f"{BASE}s-1/close/", {"note": "Said goodbye"}, format="json")
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert is_unchanged(osvi_sandbox)


class DisconnectingBody(io.BytesIO):
    """A body whose sender disconnects."""

    def read(self, *size):
        raise ConnectionResetError

    readline = read


def close_over_wsgi(user, stream, **environ):
    """Send a close through the WSGI handler; return the status and the error code."""
    statuses = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": f"{BASE}s-1/close/",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": "application/json",
        "HTTP_AUTHORIZATION": basic_auth(user),
        "wsgi.url_scheme": "http",
        "wsgi.input": stream,
        **environ,
    }
    answer = WSGIHandler()(environ, lambda status, headers: statuses.append(status))
    body = json.loads(b"".join(answer))
    answer.close()
    return int(statuses[0].split()[0]), body["code"]


def basic_auth(user):
    """Return the Authorization header of a user whose password is "secret"."""
    return "Basic " + base64.b64encode(f"{user.get_username()}:secret".encode()).decode()


@pytest.mark.django_db(transaction=True)
class TestLength:
    CHUNKED = {"HTTP_TRANSFER_ENCODING": "chunked"}
    TERMINATED = {"wsgi.input_terminated": True}

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            (CHUNKED, (411, "length_required")),
            (CHUNKED | {"CONTENT_LENGTH": ""}, (411, "length_required")),
            (CHUNKED | {"CONTENT_LENGTH": "0"}, (411, "length_required")),
            (CHUNKED | TERMINATED, (411, "length_required")),
            ({"HTTP_TRANSFER_ENCODING": "gzip, chunked"}, (411, "length_required")),
            # HTTP/2 has lengths of its own.
            (TERMINATED, (411, "length_required")),
            ({"CONTENT_LENGTH": "abc"}, (400, "parse_error")),
            ({"CONTENT_LENGTH": "-1"}, (400, "parse_error")),
            ({"CONTENT_LENGTH": "1_0"}, (400, "parse_error")),
            ({"CONTENT_LENGTH": "+24"}, (400, "parse_error")),
            ({"CONTENT_LENGTH": "\u0662\u0664"}, (400, "parse_error")),
            ({"CONTENT_LENGTH": "24, 24"}, (400, "parse_error")),
            ({"CONTENT_LENGTH": "9" * 5000}, (400, "parse_error")),
            ({"CONTENT_LENGTH": str(len(NOTE) + 1)}, (400, "parse_error")),
            ({"CONTENT_LENGTH": str(len(NOTE) - 1)}, (400, "parse_error")),
        ],
    )
    def test_post_with_missing_or_wrong_length_is_refused(
        self, session, operator_user, osvi_sandbox, environ, expected
    ):
        assert close_over_wsgi(operator_user, io.BytesIO(NOTE), **environ) == expected
        assert is_unchanged(osvi_sandbox)

    def test_post_if_sender_disconnects_returns_400(self, session, operator_user, osvi_sandbox):
        assert close_over_wsgi(operator_user, DisconnectingBody(), CONTENT_LENGTH="24") == (
            400,
            "parse_error",
        )
        assert is_unchanged(osvi_sandbox)

    @pytest.mark.parametrize(
        ("chunked", "body", "status"),
        [(True, NOTE, 411), (True, b"", 411), (False, NOTE, 411), (False, b"", 200)],
    )
    def test_post_under_asgi_requires_length(
        self, session, operator_user, osvi_sandbox, chunked, body, status
    ):
        headers = [
            (b"host", b"testserver"),
            (b"authorization", basic_auth(operator_user).encode()),
            (b"content-type", b"application/json"),
        ]
        if chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        sent, events = [], [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if events:
                return events.pop()
            return await asyncio.Future()

        async def send(event):
            sent.append(event)

        scope = {
            "type": "http",
            "http_version": "2",
            "method": "POST",
            "path": f"{BASE}s-1/close/",
            "query_string": b"",
            "headers": headers,
        }
        async_to_sync(ASGIHandler())(scope, receive, send)
        assert sent[0]["status"] == status
        assert is_unchanged(osvi_sandbox) is (status == 411)


@contextmanager
def run_server(osvi_sandbox, *options, command=("gunicorn", "example_project.wsgi")):
    """Run a web server with the example project on the database of the test."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "example_project.settings",
        "OSVI_BASE_URL": osvi_sandbox.url,
        "OSVI_API_TOKEN": osvi_sandbox.token,
    }
    asked = [sys.executable, "-m", *command]
    where = f"127.0.0.1:{port}"
    bind = [where] if command[0] == "django" else ["--bind", where, "--no-control-socket"]
    with subprocess.Popen(
        [*asked, *options, *bind],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: is_listening(port))
            yield port
        finally:
            process.terminate()


def is_listening(port):
    """Return whether a server accepts connections at this port."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def send_close(port, user, *headers, body=b""):
    """Send a close with these headers; return the last status and the body."""
    lines = [
        f"POST {BASE}s-1/close HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: {basic_auth(user)}",
        "Content-Type: application/json",
        "Connection: close",
        *headers,
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = b"".join(iter(lambda: sock.recv(65_536), b""))
    heads = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return int(heads[-1].split()[1]), answer.rpartition(b"\r\n")[2]


GUNICORN = ("gunicorn", "example_project.wsgi")
RUNSERVER = ("django", "runserver", "--noreload")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", [GUNICORN, RUNSERVER], ids=["gunicorn", "runserver"])
def test_close_behind_real_server_is_never_made_without_note(
    session, operator_user, osvi_sandbox, command
):
    with run_server(osvi_sandbox, command=command) as port:
        status, body = send_close(
            port, operator_user, "Transfer-Encoding: chunked", body=CHUNKED_NOTE
        )
        assert (status, json.loads(body)["code"]) == (411, "length_required")
        for length in ("abc", "-5"):
            assert send_close(port, operator_user, f"Content-Length: {length}", body=NOTE)[0] == 400
        with_both = ("Transfer-Encoding: chunked", "Content-Length: 0")
        assert send_close(port, operator_user, *with_both, body=CHUNKED_NOTE)[0] in {400, 411}
        assert is_unchanged(osvi_sandbox)
        asked = ("Expect: 100-continue", f"Content-Length: {len(NOTE)}")
        status, body = send_close(port, operator_user, *asked, body=NOTE)
        assert (status, json.loads(body)["summary"]) == (200, "All is well.")
    assert CloseAttempt.objects.get().note == "Said goodbye"
