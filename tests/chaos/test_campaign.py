"""The short campaign.

It always starts its own PostgreSQL, so it is part of the suite only if that runs on SQLite.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.databases import NotAvailable, postgresql_binaries

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--closes", "60", "--kills", "8", "--outages", "2", "--limit", "240")


def find_problem():
    """Return why the campaign cannot run on this machine; "" if it can."""
    missing = [name for name in ("gunicorn", "psycopg") if not importlib.util.find_spec(name)]
    if missing:
        return f"{' and '.join(missing)} cannot be imported."
    if not Path("/proc/net/tcp").exists():
        return "There is no /proc, which shows who owns a connection."
    try:
        postgresql_binaries()
    except NotAvailable as error:
        return str(error)
    return ""


@pytest.mark.skipif(
    not os.environ.get("DATABASE_URL", "sqlite").startswith("sqlite"),
    reason="The campaign starts its own database, so it runs once, with the suite on SQLite.",
)
def test_short_campaign_loses_nothing():
    if problem := find_problem():
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    code, output = run("-m", "chaos.campaign", *SHORT)
    assert code == 0, output
    assert "- unexplained: 0" in output


def run(*arguments):
    """Run a campaign in a new process; return its exit code and its output."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as campaign:
        try:
            output, _ = campaign.communicate(timeout=280)
        except BaseException:  # Ctrl-C too: it stops what it started
            campaign.send_signal(signal.SIGTERM)
            raise
    return campaign.returncode, output
