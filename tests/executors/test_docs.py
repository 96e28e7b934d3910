"""The code in docs/jobs.md is what the tests of this package run."""

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
def drill_settings(monkeypatch, tmp_path):
    """Return the settings of the drills."""
    for name in ("EXECUTOR", "SPOOL_DIR", "DATABASE"):
        monkeypatch.setenv(f"DRILL_{name}", str(tmp_path))
    return importlib.import_module("tests.executors.settings")


def test_celery_recipe_in_docs_is_the_one_of_the_drill():
    assert [code for language, code in FENCED.findall(PAGE)].count(RECIPE) == 1
    assert len(SETTINGS) == 3


@pytest.mark.parametrize("code", SETTINGS)
def test_settings_in_docs_match_those_of_the_drill(code, drill_settings):
    settings = {"INSTALLED_APPS": []}
    exec(code, settings)  # noqa: S102
    backport = {"django_tasks"} - set(drill_settings.INSTALLED_APPS)
    assert set(settings["INSTALLED_APPS"]) <= {*drill_settings.INSTALLED_APPS, *backport}
    assert settings.get("TASKS", drill_settings.TASKS) == drill_settings.TASKS
    ours = {path.removeprefix("tests.executors.") for path in drill.EXECUTORS.values()}
    assert settings["OSVI_EXECUTOR"] in ours


def test_commands_in_docs_exist(drill_settings):
    # db_worker is django-tasks-db's, and the drill runs it.
    of_workers = {command.split()[1] for command in drill.COMMANDS.values()}
    named = set(re.findall(r"manage\.py (\w+)", PAGE))
    assert named <= {*get_commands(), *of_workers}


def test_executors_in_docs_exist():
    named = set(re.findall(r"osvi_django\.executors\.(\w+)", PAGE))
    assert named == {"thread", "immediate", "django_tasks"}
    assert all(callable(getattr(executors, name)) for name in named)


def test_numbers_in_docs_match_the_code(drill_settings):
    assert f"a task for each {executors.SESSIONS_PER_TASK} sessions, four at" in PAGE
    assert (executors.MAX_TASKS, executors.TIME_SLICE) == (4, 20)
    prefetch = drill_settings.CELERY_WORKER_PREFETCH_MULTIPLIER
    assert f"`CELERY_WORKER_PREFETCH_MULTIPLIER = {prefetch}`" in PAGE
