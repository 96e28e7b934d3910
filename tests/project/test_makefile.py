"""Test what the targets of the Makefile run, without running it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def commands_of(tmp_path):
    """Return the commands that a target runs with these variables."""
    shell = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    shell.pop("PYTEST_ARGS", None)

    def _commands(target, *variables):
        command = ["make", "--dry-run", target, f"VENV={tmp_path}", *variables]
        done = subprocess.run(
            command, cwd=ROOT, env=shell, check=True, capture_output=True, text=True
        )
        return done.stdout

    return _commands


def test_make_test_of_the_whole_suite_measures_and_requires_coverage(commands_of):
    shown = commands_of("test", "WORKERS=3")
    assert "-m coverage run -m pytest --numprocesses 3 --dist worksteal\n" in shown
    assert "-m coverage report" in shown
    assert "Coverage was not measured" not in shown


def test_make_test_of_a_part_measures_no_coverage_and_says_so(commands_of):
    shown = commands_of("test", "WORKERS=1", "PYTEST_ARGS=-k rest")
    assert "-m pytest --numprocesses 1 --dist worksteal -k rest\n" in shown
    assert "-m coverage" not in shown
    assert shown.count("Coverage was not measured") == 1


def test_ci_run_starts_the_suite_without_arguments_of_the_shell():
    script = (ROOT / ".ci/run").read_text()
    assert "\nunset PYTEST_ADDOPTS PYTEST_ARGS MAKEFLAGS\n" in script
    assert 'suite_newest() { make_new test WORKERS="$WORKERS"; }' in script
