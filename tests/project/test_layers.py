"""Import contracts (``[importlinter]`` in setup.cfg), and no imports inside functions."""

from __future__ import annotations

import ast
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sysconfig.get_path("scripts")) / "lint-imports"
LAYERS = "A module imports only from layers below its own"
REQUESTS = "Only the transport imports requests"
MODULES = (
    "templatetags",
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
        *(
            "privacy",
            "asynchronous",
            "by_id",
            "jobs",
            "starting",
            "recovery",
            "closing",
            "support",
            "mirroring",
            "summaries",
            "statistics",
        ),
        *("start_locks", "search", "sharing", "attention", "attempts", "events"),
        *("access", "permissions", "idempotency", "selectors"),
        *("export",),
    ),
}
SERVICES = "A service imports only from services below its own"
CLIENT = "The client knows no models"


def lint(folder):
    """Check the contracts of a project."""
    command = [LINT_IMPORTS, "--no-cache", "--config", "setup.cfg"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def sample(tmp_path):
    """Write a package of empty modules under this project's contracts, and return its folder."""
    contracts = (ROOT / "setup.cfg").read_text().partition("[importlinter]")
    (tmp_path / "setup.cfg").write_text("".join(contracts[1:]).replace("osvi_django", "sample"))
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "__init__.py").touch()
    for module in MODULES:
        (tmp_path / "sample" / f"{module}.py").touch()
    for package, modules in PACKAGES.items():
        (tmp_path / "sample" / package).mkdir()
        for module in ("__init__", *modules):
            (tmp_path / "sample" / package / f"{module}.py").touch()
    for module in ("transport", "connections"):
        (tmp_path / "sample" / "client" / f"{module}.py").write_text("import requests, urllib3\n")
    return tmp_path


def test_project_keeps_its_import_contracts():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert f"{LAYERS} KEPT" in result.stdout
    assert f"{REQUESTS} KEPT" in result.stdout


def test_contracts_without_forbidden_imports_are_kept(sample):
    result = lint(sample)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "imported", "broken"),
    [
        ("conf", "sample.client", LAYERS),
        ("models", "sample.services", LAYERS),
        ("client.api", "sample.models", LAYERS),
        ("services.closing", "sample.rest", LAYERS),
        ("services.jobs", "sample.executors", LAYERS),
        ("executors", "sample.management", LAYERS),
        ("rest", "sample.admin", LAYERS),
        ("admin", "sample.rest", LAYERS),
        ("services.closing", "requests", REQUESTS),
        ("client.api", "requests", REQUESTS),
        ("services.closing", "sample.services.jobs", SERVICES),
        ("services.attempts", "sample.services.mirroring", SERVICES),
        ("client.transport", "sample.client.api", CLIENT),
        ("models", "urllib3", REQUESTS),
    ],
)
def test_contract_with_forbidden_import_is_broken(sample, module, imported, broken):
    with (sample / "sample" / f"{module.replace('.', '/')}.py").open("a") as source:
        source.write(f"import {imported}\n")
    result = lint(sample)
    assert result.returncode == 1
    assert f"{broken} BROKEN" in result.stdout


def hidden_imports(source):
    """Return the lines of imports inside functions."""
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = [node for function in functions for node in ast.walk(function)]
    return sorted({node.lineno for node in inside if isinstance(node, ast.Import | ast.ImportFrom)})


def test_package_has_no_imports_inside_functions():
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
def test_hidden_imports_returns_lines_inside_functions(source, lines):
    assert hidden_imports(source) == lines


def test_osvi_client_is_created_in_one_module_only():
    """Its clients hold no database connection during a request."""
    made = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "osvi_django").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _creates_client(node.func)
    ]
    assert made == ["osvi_django/services/attempts/clients.py"]


def _creates_client(called):
    """Return whether a call creates an ``OSVIClient``."""
    names = {each.id for each in ast.walk(called) if isinstance(each, ast.Name)}
    return "OSVIClient" in names
