"""Test that a client generated from the schema closes a session."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from osvi_django.models import ChatSession

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = Path(sysconfig.get_path("scripts")) / "openapi-python-client"
# What a developer of another app writes with the client.
CALLER = """
import sys
from base64 import b64encode

from osvi_client import AuthenticatedClient
from osvi_client.api.osvi_chat_sessions import osvi_session_close, osvi_session_read
from osvi_client.models import OSVICloseRequest, OSVIClosedSession, OSVIError404

site, session_id = sys.argv[1:]
token = b64encode(b"client:secret").decode()
client = AuthenticatedClient(base_url=site, token=token, prefix="Basic")
closed = osvi_session_close.sync(
    session_id, client=client, body=OSVICloseRequest(note="Goodbye"), idempotency_key="1"
)
assert isinstance(closed, OSVIClosedSession), closed
assert closed.changed and closed.goodbye is None
shown = osvi_session_read.sync(session_id, client=client)
assert shown.summary == closed.summary
missing = osvi_session_read.sync("nothing", client=client)
assert isinstance(missing, OSVIError404) and missing.code.value == "not_found"
print(closed.status.value, closed.summary)
"""


@pytest.fixture
def generated(tmp_path):
    """Write a client from the committed schema, and return the folder that it is in."""
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    options = ["--meta", "none", "--config", tmp_path / "config.yaml", "--fail-on-warning"]
    where = ["--path", ROOT / "docs/openapi.yaml", "--output-path", tmp_path / "osvi_client"]
    command = [GENERATOR, "generate", *where, *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path


@pytest.mark.django_db(transaction=True)
def test_generated_client_closes_session(
    generated, live_server, mirrored, grant, django_user_model
):
    user = django_user_model.objects.create_user("client", password="secret")
    grant(user, "view_chatsession", "close_chatsession", "view_sessionsummary")
    session = mirrored(summary="All is well.")
    (generated / "caller.py").write_text(CALLER)
    command = [sys.executable, "caller.py", live_server.url, session.session_id]
    done = subprocess.run(command, cwd=generated, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "closed All is well.\n"), done.stderr
    assert ChatSession.objects.get().status == "closed"
