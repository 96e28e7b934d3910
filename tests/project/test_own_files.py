"""Test that the tests know which files are the package's, wherever the checkout is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from osvi_django import conf
from tests.helpers import own_files

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("clone", ["/home/me/osvi_django", "/home/me/tests/osvi"])
def test_files_in_a_clone_of_any_name_are_told_apart(monkeypatch, clone):
    monkeypatch.setattr(own_files, "PACKAGE", Path(f"{clone}/osvi_django"))
    monkeypatch.setattr(own_files, "TESTS", Path(f"{clone}/tests"))
    assert own_files.is_of_package(f"{clone}/osvi_django/conf.py")
    assert not own_files.is_of_package(f"{clone}/tests/test_conf.py")
    assert own_files.is_of_tests(f"{clone}/tests/test_conf.py")
    assert not own_files.is_of_tests(f"{clone}/osvi_django/conf.py")


def test_files_of_this_checkout_are_told_apart():
    assert own_files.is_of_package(conf.__file__)
    assert own_files.is_of_tests(__file__)
    assert not own_files.is_of_package(__file__)


def test_tests_compare_no_part_of_a_path_with_a_directory_of_that_name():
    parts = re.compile(r"""["']/(?:osvi_django|tests)/["'].*(?:co_filename|abs_path|path)""")
    found = [
        f"{path.name}:{number}"
        for path in TESTS.rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if parts.search(line)
    ]
    assert found == []
