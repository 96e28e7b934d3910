"""Run the tests with django-guardian in a process of their own: it needs tables of its own."""

from __future__ import annotations

import subprocess
import sys


def test_grants_and_refusals_of_django_guardian():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    options = ["--no-migrations", "--ds", "tests.access.guardian_settings"]
    ran = subprocess.run(
        [*command, *options, "-o", "filterwarnings=default", "tests/access/guardian_pages.py"],
        capture_output=True,
        text=True,
        timeout=600,  # seconds
    )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
