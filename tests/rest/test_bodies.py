"""Bodies that a server or REST framework could take for none: nothing is done without them."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import pytest
from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from rest_framework.test import APIClient

from osvi_django.models import ChatSession, CloseAttempt, CloseJob
from osvi_django.rest.urls import urlpatterns
from tests.commands.conftest import database_url
from tests.mirroring import mirror
from tests.waiting import PATIENCE

BASE = "/api/osvi/sessions/"
NOTE = json.dumps({"note": "Said goodbye"}).encode()
IN_CHUNKS = b"5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (NOTE[:5], len(NOTE) - 5, NOTE[5:])
FORM = b"--x\r\nContent-Disposition: form-data; name=note\r\n\r\nBye\r\n--x--\r\n"
POSTED = [
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
def sam(staff, grant):
    """A member of the support staff who has a password and may also operate."""
    staff.set_password("secret")
    staff.save()
    return grant(staff, "operate_chatsession")


def untouched(osvi_sandbox):
    return osvi_sandbox.requests == [] and ChatSession.objects.get().status == "active"


class TestJSONOnly:
    @pytest.mark.parametrize("path", POSTED)
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
    def test_a_body_of_another_kind_is_a_415(
        self, operator, session, osvi_sandbox, path, content_type
    ):
        url = f"/api/osvi/{path}"
        response = operator.generic("POST", url, NOTE, content_type=content_type)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert response.json()["retryable"] is False
        assert untouched(osvi_sandbox)
        assert not CloseJob.objects.exists()

    @pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf8"])
    def test_json_is_taken(self, api, session, content_type):
        assert api.generic("POST", f"{BASE}s-1/close/", NOTE, content_type).status_code == 200
        assert CloseAttempt.objects.get().note == "Said goodbye"

    @pytest.mark.parametrize("content_type", ["", "application/json", "text/plain"])
    def test_none_at_all_is_fine_if_it_is_optional(self, api, session, content_type):
        assert api.generic("POST", f"{BASE}s-1/close/", b"", content_type).status_code == 200

    def test_a_hosts_own_parsers_change_nothing(self, api, session, osvi_sandbox, settings):
        parsers = ["rest_framework.parsers.MultiPartParser", "rest_framework.parsers.FormParser"]
        settings.REST_FRAMEWORK = {"DEFAULT_PARSER_CLASSES": parsers}
        for pattern in urlpatterns:
            assert [each.media_type for each in pattern.callback.cls.parser_classes] == [
                "application/json"
            ]
        assert api.post(f"{BASE}s-1/close/", {"note": "x"}, format="multipart").status_code == 415
        assert untouched(osvi_sandbox)

    @pytest.mark.parametrize("header", [{}, {"X-CSRFToken": "a" * 32}])
    def test_a_form_that_the_csrf_check_has_read_is_a_415(self, session, sam, osvi_sandbox, header):
        client = APIClient(enforce_csrf_checks=bool(header))
        client.force_login(sam)
        client.cookies["csrftoken"] = "a" * 32
        response = client.generic(
            "POST", f"{BASE}s-1/close/", FORM, "multipart/form-data; boundary=x", headers=header
        )
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert untouched(osvi_sandbox)

    def test_one_that_is_larger_than_the_site_takes_is_a_413(
        self, api, session, osvi_sandbox, settings
    ):
        settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 10
        response = api.post(f"{BASE}s-1/close/", {"note": "Said goodbye"}, format="json")
        assert (response.status_code, response.json()["code"]) == (413, "too_large")
        assert untouched(osvi_sandbox)


class Broken(io.BytesIO):
    """A body whose sender goes away."""

    def read(self, *size):
        raise ConnectionResetError

    readline = read


def ask_wsgi(sam, stream, **environ):
    """What a WSGI server is answered for a close; the status and the body."""
    told = []
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": f"{BASE}s-1/close/",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "CONTENT_TYPE": "application/json",
        "HTTP_AUTHORIZATION": basic(sam),
        "wsgi.url_scheme": "http",
        "wsgi.input": stream,
        **environ,
    }
    answer = WSGIHandler()(environ, lambda status, headers: told.append(status))
    body = json.loads(b"".join(answer))
    answer.close()
    return int(told[0].split()[0]), body["code"]


def basic(user):
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
    def test_a_body_without_a_true_one_is_refused(
        self, session, sam, osvi_sandbox, environ, expected
    ):
        assert ask_wsgi(sam, io.BytesIO(NOTE), **environ) == expected
        assert untouched(osvi_sandbox)

    def test_a_sender_that_goes_away_is_a_400(self, session, sam, osvi_sandbox):
        assert ask_wsgi(sam, Broken(), CONTENT_LENGTH="24") == (400, "parse_error")
        assert untouched(osvi_sandbox)

    @pytest.mark.parametrize(
        ("chunked", "body", "status"),
        [(True, NOTE, 411), (True, b"", 411), (False, NOTE, 411), (False, b"", 200)],
    )
    def test_under_asgi(self, session, sam, osvi_sandbox, chunked, body, status):
        headers = [
            (b"host", b"testserver"),
            (b"authorization", basic(sam).encode()),
            (b"content-type", b"application/json"),
        ]
        if chunked:
            headers.append((b"transfer-encoding", b"chunked"))
        sent, events = [], [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if events:
                return events.pop()
            import asyncio  # noqa: PLC0415

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
        assert untouched(osvi_sandbox) is (status == 411)


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(osvi_sandbox, *options, command=("gunicorn", "example_project.wsgi")):
    """A web server with the example project, on the database of the test."""
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
            _await(port)
            yield port
        finally:
            process.terminate()


def _await(port):
    ends_at = time.monotonic() + PATIENCE
    while time.monotonic() < ends_at:
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not start")


def say(port, user, *headers, body=b""):
    """Send a close with these headers, and return the last status and the body."""
    lines = [
        f"POST {BASE}s-1/close HTTP/1.1",
        "Host: 127.0.0.1",
        f"Authorization: {basic(user)}",
        "Content-Type: application/json",
        "Connection: close",
        *headers,
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        answer = b"".join(iter(lambda: sock.recv(65_536), b""))
    heads = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return int(heads[-1].split()[1]), answer.rpartition(b"\r\n")[2]


GUNICORN = ("gunicorn", "example_project.wsgi")
RUNSERVER = ("django", "runserver", "--noreload")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("command", [GUNICORN, RUNSERVER], ids=["gunicorn", "runserver"])
def test_behind_a_real_server_a_close_is_never_made_without_its_note(
    session, sam, osvi_sandbox, command
):
    with served(osvi_sandbox, command=command) as port:
        status, body = say(port, sam, "Transfer-Encoding: chunked", body=IN_CHUNKS)
        assert (status, json.loads(body)["code"]) == (411, "length_required")
        for length in ("abc", "-5"):
            assert say(port, sam, f"Content-Length: {length}", body=NOTE)[0] == 400
        with_both = ("Transfer-Encoding: chunked", "Content-Length: 0")
        assert say(port, sam, *with_both, body=IN_CHUNKS)[0] in {400, 411}
        assert untouched(osvi_sandbox)
        asked = ("Expect: 100-continue", f"Content-Length: {len(NOTE)}")
        status, body = say(port, sam, *asked, body=NOTE)
        assert (status, json.loads(body)["summary"]) == (200, "All is well.")
    assert CloseAttempt.objects.get().note == "Said goodbye"
