"""Test that a host can collect every text of this app for translation, as the docs say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from django.core.management.commands.makemessages import Command

import osvi_django

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(osvi_django.__file__).parent
# What xgettext looks for in Python by itself.
OF_XGETTEXT = {"_", "gettext", "ngettext"}
MODULES = {"django.utils.translation", "osvi_django.exceptions"}
FUNCTION = re.compile("n?gettext(_lazy)?|translate")


def names_of_translators():
    """Yield each name that the package gives to a function that translates."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in MODULES:
                for each in node.names:
                    if FUNCTION.fullmatch(each.name):
                        yield each.asname or each.name


def keywords_of(options):
    return {found[1] for option in options if (found := re.match(r"--keyword=(\w+)", option))}


def test_each_function_that_translates_has_a_name_that_the_documented_command_looks_for():
    page = (ROOT / "docs/installation.md").read_text(encoding="utf-8")
    documented = keywords_of(re.findall(r"--keyword=\w+", page))
    known = OF_XGETTEXT | keywords_of(Command.xgettext_options)
    used = set(names_of_translators())
    assert used - known - documented == set()
    assert documented == documented & used
