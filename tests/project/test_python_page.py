"""The page about Python has the signature of each public function and the fields of each result."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from pathlib import Path
from textwrap import dedent
from typing import Any, get_args, get_type_hints

import pytest

from osvi_django import services

PAGE = (Path(__file__).resolve().parents[2] / "docs/python.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
PUBLIC = {name: getattr(services, name) for name in services.__all__}
FUNCTIONS = [
    name
    for name, each in PUBLIC.items()
    if inspect.isfunction(each) and not inspect.iscoroutinefunction(each)
]
TWINS = [name for name, each in PUBLIC.items() if inspect.iscoroutinefunction(each)]
RESULTS = [name for name, each in PUBLIC.items() if dataclasses.is_dataclass(each)]


def is_signature(node: ast.AST) -> bool:
    """Return whether this is a function without a body."""
    return isinstance(node, ast.FunctionDef) and ast.unparse(node.body[0]) == "..."


def documented_signatures() -> dict[str, ast.FunctionDef]:
    """Return the signatures in the Python blocks of the page, by name."""
    blocks = [ast.parse(dedent(block)) for _indent, block in PYTHON.findall(PAGE)]
    nodes = [node for block in blocks for node in ast.walk(block) if is_signature(node)]
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    return dict(zip(names, nodes, strict=True))


def documented_parameters(node: ast.FunctionDef) -> list[tuple[str, bool, bool]]:
    """Return name, whether keyword only, and whether optional, of each documented parameter."""
    positional = [each.arg for each in node.args.args]
    required = len(positional) - len(node.args.defaults)
    pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return [
        *((name, False, number >= required) for number, name in enumerate(positional)),
        *((each.arg, True, default is not None) for each, default in pairs),
    ]


def real_parameters(function: Any) -> list[tuple[str, bool, bool]]:
    """Return the same for a function, with the keywords of its ``**options`` written out."""
    parameters = inspect.signature(function).parameters.values()
    return [found for each in parameters for found in written_out(function, each)]


def written_out(function: Any, parameter: inspect.Parameter) -> list[tuple[str, bool, bool]]:
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        (options,) = get_args(get_type_hints(function)[parameter.name])
        return [(name, True, True) for name in get_type_hints(options)]
    is_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
    return [(parameter.name, is_keyword, parameter.default is not parameter.empty)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented_signature_is_that_of_the_function(name):
    function, node = PUBLIC[name], documented_signatures().get(name)
    assert node is not None, f"docs/python.md has no signature of {name}"
    assert sorted(documented_parameters(node)) == sorted(real_parameters(function))
    assert ast.unparse(node.returns) == inspect.signature(function).return_annotation


def test_documented_signatures_are_of_public_functions():
    assert {*documented_signatures()} <= {*services.__all__}


@pytest.mark.parametrize("name", TWINS)
def test_documented_twins_are_all_of_the_package(name):
    section = PAGE.partition("## Asynchronous code")[2].partition("\n## ")[0]
    assert f"`{name}`" in section


@pytest.mark.parametrize("name", RESULTS)
def test_documented_result_has_each_field(name):
    (row,) = re.findall(rf"^\| `{name}` \|.*$", PAGE, re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", row))
    assert {each.name for each in dataclasses.fields(PUBLIC[name])} - named == set()
