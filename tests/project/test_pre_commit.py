"""The pre-commit hooks run what `make lint` runs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
LINT = re.compile(r"^lint:.*\n((?:\t.*\n)+)", re.MULTILINE)


def commands_of_lint():
    """Return the commands of `make lint`."""
    (recipe,) = LINT.findall((ROOT / "Makefile").read_text())
    return {line.strip().removeprefix("$(BIN)/").removesuffix(" .") for line in recipe.splitlines()}


def commands_of_hooks():
    """Return the commands of the pre-commit hooks."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    return {each.removeprefix(".venv/bin/").removesuffix(" --force-exclude") for each in entries}


def test_pre_commit_hooks_run_the_commands_of_make_lint():
    assert commands_of_hooks() == commands_of_lint()
