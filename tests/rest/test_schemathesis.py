"""Test the API against its own schema, with requests that schemathesis makes up.

It runs on PostgreSQL, against gunicorn and a sandbox that knows every id. ``SCHEMATHESIS_SECONDS``
is how long it may take, and less finds less.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
from django.db import connection

from tests.helpers.sandbox import mirror
from tests.services.test_web_server import run_site, superuser

__all__ = ["superuser"]

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sysconfig.get_path("scripts")) / "schemathesis"
SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "45")
# No undocumented status, header or body; what must be refused is. A 502, 503 or 504 is documented.
CHECKS = (
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
# The session of the examples.
EXAMPLE = "4718a326-417b-4dda-90d0-21fd65a11cb8"


@pytest.mark.django_db(transaction=True)
@pytest.mark.skipif(
    not PROGRAM.exists() and os.environ.get("CI") != "true", reason="schemathesis is not installed."
)
@pytest.mark.skipif(connection.vendor != "postgresql", reason="It is tried on PostgreSQL.")
def test_api_answers_as_its_schema_says(osvi_sandbox, superuser, tmp_path):
    osvi_sandbox.knows_every_id = True
    mirror(osvi_sandbox, session_id=EXAMPLE)
    schema = ROOT / "docs/openapi.yaml"
    with run_site(osvi_sandbox) as port:
        command = [PROGRAM, "run", schema, "--url", f"http://127.0.0.1:{port}"]
        command += ["--auth", "boss:secret", "--max-time", SECONDS, "--checks", ",".join(CHECKS)]
        command += ["--generation-database", "none", "--suppress-health-check", "all"]
        command += ["--continue-on-failure", "--no-color"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
