"""The README and the pages of docs/ name only what exists: commands, functions and links."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from django.core.management import get_commands

from osvi_django import services

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# The rest of the package may change in any version.
PUBLIC = re.compile(r"osvi_django\.(admin|exceptions|executors|models|services|signals|testing.*)")

FENCED = re.compile(r"^( *)(```|~~~)[^\n]*\n(.*?)^\1\2", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^( *)```(?:python|py)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)(`+)(?!`)([^\n]+?)(?<!`)\1(?!`)")
COMMENT = re.compile(r"(?:^|\s)#.*")
MAKE = re.compile(r"(?:^|[\s;&|$])make(?: +[A-Z_]+=(?:'[^']*'|\S+))* +([a-z][\w-]*)", re.MULTILINE)
MANAGE = re.compile(r"(?:manage\.py|django-admin) +([a-z_]\w*)")
EXTRAS = re.compile(r"(?:osvi[-_]django|['\" ]\.)\[([\w,\s-]+)\]")
TARGET = re.compile(r"^([a-z][\w-]*):(?!=)", re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)")
PATH = re.compile(r"`((?:docs|osvi_django|tests)/[\w./-]*)`")
LABEL = re.compile(r"(?<!\*)\*([^*\n]+)\*(?!\*)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
# Made by Django from names of ours.
LABELS_OF_DJANGO = {
    "Can view close job",
    "Can view webhook delivery",
    "Can view webhook receiver",
    "OSVI chats › Chat sessions",  # noqa: RUF001
    "Webhook deliveries",
    "Webhook receivers",
}
# Of django-tasks-db, see tests/executors/test_docs.py; and of REST framework's tokens.
COMMANDS_OF_OTHERS = {"db_worker", "drf_create_token"}


def prose_of(text):
    """Return a page without its fenced blocks."""
    return FENCED.sub("", text)


def code_of(text):
    """Return the fenced blocks and the inline code, without comments."""
    blocks = [block for *_fence, block in FENCED.findall(text)]
    code = [*blocks, *(inline for _ticks, inline in INLINE.findall(prose_of(text)))]
    return "\n".join(COMMENT.sub("", line) for part in code for line in part.splitlines())


def make_targets():
    """Return the targets of the Makefile."""
    return set(TARGET.findall((ROOT / "Makefile").read_text()))


def extras():
    """Return the extras of the package."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return set(config["options.extras_require"])


def unknown_names(text):
    """Return what the code in ``text`` names and this project does not have."""
    code = code_of(text)
    named = {name.strip() for group in EXTRAS.findall(code) for name in group.split(",")}
    commands = {*get_commands(), *COMMANDS_OF_OTHERS}
    return (
        {f"make {name}" for name in set(MAKE.findall(code)) - make_targets()}
        | {f"manage.py {name}" for name in set(MANAGE.findall(code)) - commands}
        | {f"[{name}]" for name in named - extras()}
    )


def imports_of(text):
    """Return the pairs of module and name that the Python in ``text`` imports from this package."""
    for _indent, block in PYTHON.findall(text):
        for node in ast.walk(ast.parse(dedent(block))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("osvi_django"):
                yield from ((node.module, alias.name) for alias in node.names)


def dead_links(page, text):
    """Return the links of a page to a file, or to a heading, that does not exist."""
    for path, anchor in LINK.findall(prose_of(text)):
        target = page.parent / path if path else page
        if not target.is_file():
            yield path
        elif anchor and anchor not in anchors_of(target):
            yield f"{path}#{anchor}"


def anchors_of(page):
    """Return the anchors of the headings of a page."""
    headings = HEADING.findall(prose_of(page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(params=PAGES, ids=NAMES)
def page(request):
    return request.param


def test_page_code_names_only_what_exists(page):
    assert unknown_names(page.read_text(encoding="utf-8")) == set()


def test_page_imports_are_public(page):
    for module, name in imports_of(page.read_text(encoding="utf-8")):
        assert PUBLIC.fullmatch(module)
        assert hasattr(importlib.import_module(module), name)
        assert module != services.__name__ or name in services.__all__


def test_page_links_have_targets(page):
    assert list(dead_links(page, page.read_text(encoding="utf-8"))) == []


def test_page_names_only_files_that_exist(page):
    paths = PATH.findall(page.read_text(encoding="utf-8"))
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_admin_guide_names_only_labels_that_exist():
    labels = set(LABEL.findall(prose_of((ROOT / "docs/admin.md").read_text(encoding="utf-8"))))
    files = [path for path in (ROOT / "osvi_django").rglob("*") if path.suffix in {".html", ".py"}]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    assert {label for label in labels - LABELS_OF_DJANGO if label not in source} == set()


def test_readme_links_to_each_page():
    linked = {path for path, _anchor in LINK.findall(README.read_text(encoding="utf-8"))}
    assert {*NAMES} - {"README.md"} <= linked


def test_readme_has_at_most_200_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("Run `make nothing`.", {"make nothing"}),
        ("```\n$ make test && make that\n```", {"make that"}),
        ("```\nmake VENV=.venv-5.2 DJANGO='django~=5.2.0' tests\n```", {"make tests"}),
        ("1. Run:\n\n   ```\n   make it\n   ```", {"make it"}),
        ("`python manage.py osvi_nonsense --all`", {"manage.py osvi_nonsense"}),
        ("```shell\npip install 'osvi-django[celery,demo]'\n```", {"[celery]"}),
        ("`pip install -e '.[devel]'`", {"[devel]"}),
        ("`pip install -e .[devel]`", {"[devel]"}),
    ],
)
def test_unknown_names_returns_missing_names(text, unknown):
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
def test_unknown_names_ignores_existing_names(text):
    assert unknown_names(text) == set()


@pytest.mark.parametrize(
    ("text", "dead"),
    [
        ("[a](nothing.md)", ["nothing.md"]),
        ("[a](README.md#nowhere) [b](#here)", ["README.md#nowhere", "#here"]),
        ("[a](README.md#try-it) ![b](docs/desk.png) [c](https://docs.osvi.ai)", []),
    ],
)
def test_dead_links_returns_links_without_target(text, dead):
    assert list(dead_links(README, text)) == dead


@pytest.mark.parametrize("options", [{}, {"NOTE_REQUIRED": True}])
def test_documented_tests_pass(tmp_path, options):
    blocks = [block for _indent, block in PYTHON.findall((ROOT / "docs/testing.md").read_text())]
    for number, example in enumerate(block for block in blocks if "def test_" in block):
        (tmp_path / f"test_example_{number}.py").write_text(example)
    settings = f"from example_project.settings import *\nOSVI['default'] |= {options}\n"
    (tmp_path / "host_settings.py").write_text(settings)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    command += ["-c", "/dev/null", "--ds=host_settings", tmp_path]
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    run = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    assert "6 passed" in run.stdout
