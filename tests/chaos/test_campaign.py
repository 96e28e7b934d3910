"""The short campaign.

It has a PostgreSQL of its own, whatever database the suite runs on: it is part of the suite's run
on SQLite alone.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from chaos.databases import NotHere, postgresql_binaries

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--closes", "60", "--kills", "8", "--outages", "2", "--limit", "240")


def not_here():
    """Why the campaign cannot be run on this machine; "" where it can be."""
    wanted = [name for name in ("gunicorn", "psycopg") if not importlib.util.find_spec(name)]
    if wanted:
        return f"{' and '.join(wanted)} cannot be imported."
    if not Path("/proc/net/tcp").exists():
        return "There is no /proc to find out who owns a connection."
    try:
        postgresql_binaries()
    except NotHere as error:
        return str(error)
    return ""


@pytest.mark.skipif(
    not os.environ.get("DATABASE_URL", "sqlite").startswith("sqlite"),
    reason="The campaign brings a database of its own: it is run once, with the suite on SQLite.",
)
def test_short_campaign_loses_nothing():
    if problem := not_here():
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    code, output = run("-m", "chaos.campaign", *SHORT)
    assert code == 0, output
    assert "- unexplained: 0" in output


def run(*arguments):
    """Run a campaign as a process of its own; its exit code and what it wrote."""
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
        except BaseException:  # Ctrl-C too: it ends what it started
            campaign.send_signal(signal.SIGTERM)
            raise
    return campaign.returncode, output
