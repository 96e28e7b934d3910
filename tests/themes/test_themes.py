"""The admin's pages under themes and beside packages that hosts have, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

THEMES = ("plain", "unfold", "unfold_mixed", "jazzmin", "object_actions", "guardian")


@pytest.mark.parametrize("theme", THEMES)
def test_every_page_works_with(theme):
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
        timeout=240,
    )
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-2_000:]
