"""Tell the files of the package from those of its tests, wherever the checkout is."""

from __future__ import annotations

from pathlib import Path

import osvi_django

PACKAGE = Path(osvi_django.__file__).parent
TESTS = Path(__file__).parents[1]


def is_of_package(filename):
    """Return whether a file of this name, as a frame has it, is the package's own."""
    return Path(filename).is_relative_to(PACKAGE)


def is_of_tests(filename):
    """Return whether a file of this name is one of these tests."""
    return Path(filename).is_relative_to(TESTS)
