"""What a host installs: the package with all that belongs to it, and nothing else."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from osvi_django import __version__

ROOT = Path(__file__).resolve().parents[2]
# What setuptools might look at; a copy, so that no build folder of an earlier build gets in.
SOURCES = ("example_project", "osvi_django", "tests")
FILES = ("LICENSE", "README.md", "manage.py", "pyproject.toml", "setup.cfg")
LEFT_BEHIND = ("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The opened wheel, built from a copy of the project and without a network."""
    project = tmp_path_factory.mktemp("project")
    for name in SOURCES:
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    for name in FILES:
        shutil.copy(ROOT / name, project)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "."]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = (project / "dist").iterdir()
    with zipfile.ZipFile(built) as opened:
        yield opened


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def files_of_the_package():
    """Every file below osvi_django/, whatever its kind, but what Python leaves behind."""
    paths = [path for path in (ROOT / "osvi_django").rglob("*") if path.is_file()]
    kept = [path for path in paths if not any(path.match(left) for left in LEFT_BEHIND)]
    return {path.relative_to(ROOT).as_posix() for path in kept}


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert in_wheel == files_of_the_package()


@pytest.mark.parametrize("kind", ["templates/", "static/", "migrations/", "testing/", "py.typed"])
def test_each_kind_of_file_is_there(wheel, kind):
    assert [name for name in wheel.namelist() if name.startswith(f"osvi_django/{kind}")]


def test_the_license_comes_along(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


def test_name_and_version(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("osvi-django", __version__)


def test_a_host_gets_four_requirements_and_no_more(metadata):
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    always = {item.name for item in requirements if "extra" not in str(item.marker)}
    assert always == {"django", "djangorestframework", "requests", "urllib3"}


def test_pytest_finds_the_plugin(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert "osvi_django = osvi_django.testing.plugin" in wheel.read(name).decode()
