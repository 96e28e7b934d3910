"""Run the tests of the admin's pages with each theme, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

THEMES = (
    "plain",
    "unfold",
    "unfold_mixed",
    "unfold_below",
    "jazzmin",
    "grappelli",
    "admin_interface",
    "object_actions",
    "guardian",
)


@pytest.mark.parametrize("theme", THEMES)
def test_pages_with_theme_work(theme):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-o",
        "filterwarnings=default",
    ]
    ran = subprocess.run(
        [*command, "--no-migrations", "--ds", "tests.themes.settings", "tests/themes/pages.py"],
        env={**os.environ, "OSVI_TEST_THEME": theme},
        capture_output=True,
        text=True,
        timeout=900,  # of seconds; a browser is slow on a busy machine
    )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
