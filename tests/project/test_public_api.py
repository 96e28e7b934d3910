"""The public API: each name can be imported, and the typed program uses each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from osvi_django import services

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
DEEPER = re.compile(r"(?:from|import) +osvi_django\.services\.\w+")


def test_public_names_are_sorted_and_exist():
    assert sorted(services.__all__) == services.__all__
    missing = [name for name in services.__all__ if not hasattr(services, name)]
    assert missing == []


def test_public_names_are_all_imports_of_the_package():
    tree = ast.parse(Path(services.__file__).read_text())
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    imported = {alias.name for node in imports for alias in node.names} - {"annotations"}
    assert imported == set(services.__all__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_imports_services_from_public_package_only(page):
    assert DEEPER.findall(page.read_text()) == []


def test_typed_program_uses_each_public_name():
    tree = ast.parse((ROOT / "tests/project/typed_host.py").read_text())
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {
        node.attr
        for node in attributes
        if isinstance(node.value, ast.Name) and node.value.id == "services"
    }
    assert set(services.__all__) - used == set()
