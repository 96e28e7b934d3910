"""The house stands: who may import whom (``[importlinter]`` in setup.cfg), and openly so."""

from __future__ import annotations

import ast
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sysconfig.get_path("scripts")) / "lint-imports"
FLOORS = "A module imports only from layers below its own"
WIRE = "Only the transport imports requests"
ROOMS = (
    "urls",
    *("admin", "rest", "management", "executors", "tasks"),
    "environment_checks",
    *("models", "checks", "spool", "database", "contexts", "validation"),
    *("clock", "conf", "exceptions", "signals"),
    *("display", "network", "redaction"),
)

PACKAGES = {
    "client": (
        *("pool", "api", "transport", "connections", "validation", "responses"),
        *("throttle", "threads", "bodies"),
    ),
    "services": (
        *("by_id", "jobs", "starting", "recovery", "closing", "support", "mirroring", "summaries"),
        *("start_locks", "attempts", "permissions", "selectors"),
    ),
}
SERVICES = "A service imports only from services below its own"
CLIENT = "The client knows no models"


def lint(folder):
    command = [LINT_IMPORTS, "--no-cache", "--config", "setup.cfg"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def house(tmp_path):
    """A house of empty rooms under this project's own contracts; changes are written into it."""
    contracts = (ROOT / "setup.cfg").read_text().partition("[importlinter]")
    (tmp_path / "setup.cfg").write_text("".join(contracts[1:]).replace("osvi_django", "house"))
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").touch()
    for room in ROOMS:
        (tmp_path / "house" / f"{room}.py").touch()
    for package, rooms in PACKAGES.items():
        (tmp_path / "house" / package).mkdir()
        for room in ("__init__", *rooms):
            (tmp_path / "house" / package / f"{room}.py").touch()
    for room in ("transport", "connections"):
        (tmp_path / "house" / "client" / f"{room}.py").write_text("import requests, urllib3\n")
    return tmp_path


def test_the_project_keeps_its_contracts():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert f"{FLOORS} KEPT" in result.stdout
    assert f"{WIRE} KEPT" in result.stdout


def test_a_house_that_follows_the_contracts_passes(house):
    result = lint(house)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("room", "imported", "broken"),
    [
        ("conf", "house.client", FLOORS),
        ("models", "house.services", FLOORS),
        ("client.api", "house.models", FLOORS),
        ("services.closing", "house.rest", FLOORS),
        ("services.jobs", "house.executors", FLOORS),
        ("executors", "house.management", FLOORS),
        ("rest", "house.admin", FLOORS),
        ("admin", "house.rest", FLOORS),
        ("services.closing", "requests", WIRE),
        ("client.api", "requests", WIRE),
        ("services.closing", "house.services.jobs", SERVICES),
        ("services.attempts", "house.services.mirroring", SERVICES),
        ("client.transport", "house.client.api", CLIENT),
        ("models", "urllib3", WIRE),
    ],
)
def test_a_forbidden_import_breaks_a_contract(house, room, imported, broken):
    with (house / "house" / f"{room.replace('.', '/')}.py").open("a") as source:
        source.write(f"import {imported}\n")
    result = lint(house)
    assert result.returncode == 1
    assert f"{broken} BROKEN" in result.stdout


def hidden_imports(source):
    """The lines of imports that run only when a function is called."""
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = [node for function in functions for node in ast.walk(function)]
    return sorted({node.lineno for node in inside if isinstance(node, ast.Import | ast.ImportFrom)})


def test_no_import_hides_in_a_function():
    sources = sorted((ROOT / "osvi_django").rglob("*.py"))
    assert sources
    found = {str(path): hidden_imports(path.read_text(encoding="utf-8")) for path in sources}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import os\nfrom os import path\n", []),
        ("def f():\n    import os\n", [2]),
        (
            "class A:\n    async def f(self):\n        if self:\n            from os import path",
            [4],
        ),
        ("def f():\n    def g():\n        import os\n", [3]),
    ],
)
def test_a_hidden_import_is_found(source, lines):
    assert hidden_imports(source) == lines


def test_only_one_module_makes_the_clients_of_services():
    """What it makes holds no connection of the database while OSVI is asked."""
    made = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "osvi_django").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _makes_a_client(node.func)
    ]
    assert made == ["osvi_django/services/attempts/clients.py"]


def _makes_a_client(called):
    names = {each.id for each in ast.walk(called) if isinstance(each, ast.Name)}
    return "OSVIClient" in names
