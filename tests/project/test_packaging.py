"""What a host installs: the whole package, and nothing else."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from osvi_django import __version__

ROOT = Path(__file__).resolve().parents[2]
# What setuptools might look at; a copy, so that no build folder of an earlier build gets in.
SOURCES = ("benchmarks", "chaos", "docs", "example_project", "osvi_django", "tests")
FILES = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "SECURITY.md",
    "manage.py",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
)
LEFT_BEHIND = ("__pycache__", "*.pyc")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build sdist and wheel from a copy of the project without a network; return their folder."""
    project = tmp_path_factory.mktemp("project")
    for name in SOURCES:
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns(*LEFT_BEHIND))
    for name in FILES:
        shutil.copy(ROOT / name, project)
    command = [sys.executable, "-m", "build", "--no-isolation", "."]
    result = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return project / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    """Return the opened wheel."""
    (path,) = built.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


@pytest.fixture(scope="module")
def sdist(built):
    """Return the names of the files in the source distribution, below its one folder."""
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as opened:
        return {name.partition("/")[2] for name in opened.getnames()}


@pytest.fixture(scope="module")
def metadata(wheel):
    """Return the metadata of the wheel."""
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def files_of_the_package():
    """Return all files below osvi_django/, except those that Python generates."""
    paths = [path for path in (ROOT / "osvi_django").rglob("*") if path.is_file()]
    kept = [path for path in paths if not any(path.match(left) for left in LEFT_BEHIND)]
    return {path.relative_to(ROOT).as_posix() for path in kept}


def test_wheel_holds_whole_package_and_nothing_else(wheel):
    in_wheel = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert in_wheel == files_of_the_package()


@pytest.mark.parametrize("kind", ["templates/", "static/", "migrations/", "testing/", "py.typed"])
def test_wheel_holds_each_kind_of_file(wheel, kind):
    assert [name for name in wheel.namelist() if name.startswith(f"osvi_django/{kind}")]


def test_wheel_holds_license(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/LICENSE")]
    assert wheel.read(name) == (ROOT / "LICENSE").read_bytes()


def test_metadata_has_name_and_version(metadata):
    assert (metadata["Name"], metadata["Version"]) == ("osvi-django", __version__)


def test_metadata_requires_four_packages_only(metadata):
    requirements = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    always = {item.name for item in requirements if "extra" not in str(item.marker)}
    assert always == {"django", "djangorestframework", "requests", "urllib3"}


def test_wheel_declares_pytest_plugin(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/entry_points.txt")]
    assert "osvi_django = osvi_django.testing.plugin" in wheel.read(name).decode()


def test_description_has_absolute_links_only(metadata):
    description = metadata.get_payload()
    assert "# osvi_django" in description
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert targets
    assert [each for each in targets if not each.startswith("https://")] == []


def test_description_is_markdown_and_metadata_has_links(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Project-URL") == ["OSVI's chat API, https://docs.osvi.ai"]


def test_sdist_has_docs_and_changelog_and_no_tests_or_tools(sdist):
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").iterdir()}
    pages = {path.name for path in ROOT.glob("*.md")}
    assert {*docs, *pages, "LICENSE", "setup.py"} <= sdist
    left_out = ("benchmarks", "chaos", "example_project", "tests")
    assert [name for name in sdist if name.startswith(left_out)] == []
