"""What README.md tells people to type exists."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from django.core.management import get_commands

ROOT = Path(__file__).resolve().parents[2]

FENCED = re.compile(r"^(```|~~~)[^\n]*\n(.*?)^\1", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
COMMENT = re.compile(r"(?:^|\s)#.*")
MAKE = re.compile(r"(?:^|[\s;&|$])make(?: +[A-Z_]+=(?:'[^']*'|\S+))* +([a-z][\w-]*)", re.MULTILINE)
MANAGE = re.compile(r"(?:manage\.py|django-admin) +([a-z_]\w*)")
EXTRAS = re.compile(r"(?:osvi[-_]django|['\" ]\.)\[([\w,\s-]+)\]")
TARGET = re.compile(r"^([a-z][\w-]*):(?!=)", re.MULTILINE)


def code_of(text):
    """The fenced blocks and the inline code, without comments; prose may well say "make sure"."""
    blocks = [block for _, block in FENCED.findall(text)]
    code = [*blocks, *INLINE.findall(FENCED.sub("", text))]
    return "\n".join(COMMENT.sub("", line) for part in code for line in part.splitlines())


def make_targets():
    return set(TARGET.findall((ROOT / "Makefile").read_text()))


def extras():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return set(config["options.extras_require"])


def unknown_names(text):
    """What the code in ``text`` names and this project does not have."""
    code = code_of(text)
    named = {name.strip() for group in EXTRAS.findall(code) for name in group.split(",")}
    return (
        {f"make {name}" for name in set(MAKE.findall(code)) - make_targets()}
        | {f"manage.py {name}" for name in set(MANAGE.findall(code)) - set(get_commands())}
        | {f"[{name}]" for name in named - extras()}
    )


def test_the_readme_names_only_what_exists():
    assert unknown_names((ROOT / "README.md").read_text(encoding="utf-8")) == set()


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("Run `make nothing`.", {"make nothing"}),
        ("```\n$ make test && make that\n```", {"make that"}),
        ("```\nmake VENV=.venv-5.2 DJANGO='django~=5.2.0' tests\n```", {"make tests"}),
        ("`python manage.py osvi_nonsense --all`", {"manage.py osvi_nonsense"}),
        ("```shell\npip install 'osvi-django[celery,demo]'\n```", {"[celery]"}),
        ("`pip install -e '.[devel]'`", {"[devel]"}),
        ("`pip install -e .[devel]`", {"[devel]"}),
    ],
)
def test_a_name_that_is_missing_is_found(text, unknown):
    assert unknown_names(text) == unknown


@pytest.mark.parametrize(
    "text",
    [
        "Please make sure to migrate, and make it so.",
        "```\nmake test  # to make sure\n```",
        "`make demo`, `make DJANGO=django~=5.2.0 test`, `make`",
        "`python manage.py migrate` and `manage.py osvi_sandbox --port 0`",
        "`pip install osvi-django` or `pip install 'osvi-django[testing]'`",
        "`INSTALLED_APPS += [...]`, `details[name]`, `coverage[toml]`",
    ],
)
def test_what_exists_passes(text):
    assert unknown_names(text) == set()
