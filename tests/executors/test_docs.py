"""What docs/jobs.md tells people to write is what the tests of this package run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from django.core.management import get_commands

from osvi_django import executors
from tests.executors import drill

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "jobs.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
RECIPE = (ROOT / "tests" / "executors" / "support" / "tasks.py").read_text(encoding="utf-8")
SETTINGS = [code for _language, code in FENCED.findall(PAGE) if "OSVI_EXECUTOR =" in code]


@pytest.fixture
def drilled(monkeypatch, tmp_path):
    """The settings of the drills."""
    for name in ("EXECUTOR", "SPOOL_DIR", "DATABASE"):
        monkeypatch.setenv(f"DRILL_{name}", str(tmp_path))
    return importlib.import_module("tests.executors.settings")


def test_the_recipe_is_what_a_drill_runs():
    assert [code for language, code in FENCED.findall(PAGE)].count(RECIPE) == 1
    assert len(SETTINGS) == 3


@pytest.mark.parametrize("code", SETTINGS)
def test_the_settings_are_those_of_a_drill(code, drilled):
    told = {"INSTALLED_APPS": []}
    exec(code, told)  # noqa: S102
    backport = {"django_tasks"} - set(drilled.INSTALLED_APPS)
    assert set(told["INSTALLED_APPS"]) <= {*drilled.INSTALLED_APPS, *backport}
    assert told.get("TASKS", drilled.TASKS) == drilled.TASKS
    ours = {path.removeprefix("tests.executors.") for path in drill.EXECUTORS.values()}
    assert told["OSVI_EXECUTOR"] in ours


def test_the_commands_are_there(drilled):
    # db_worker is django-tasks-db's, and the drill runs it.
    drilled_ones = {command.split()[1] for command in drill.COMMANDS.values()}
    named = set(re.findall(r"manage\.py (\w+)", PAGE))
    assert named <= {*get_commands(), *drilled_ones}


def test_the_executors_of_the_table_are_there():
    named = set(re.findall(r"osvi_django\.executors\.(\w+)", PAGE))
    assert named == {"thread", "immediate", "django_tasks"}
    assert all(callable(getattr(executors, name)) for name in named)


def test_the_numbers_are_those_of_the_code(drilled):
    assert f"a task for each {executors.SESSIONS_PER_TASK} sessions, four at" in PAGE
    assert (executors.MOST_TASKS, executors.TIME_SLICE) == (4, 20)
    prefetch = drilled.CELERY_WORKER_PREFETCH_MULTIPLIER
    assert f"`CELERY_WORKER_PREFETCH_MULTIPLIER = {prefetch}`" in PAGE
