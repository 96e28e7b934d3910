"""A middleware that compares each answer of the REST API with the OpenAPI schema.

So every test of the API is one of the schema, too: an answer with a status, a header or a body that
the schema does not have fails it.
"""

from __future__ import annotations

import json
import re
from functools import cache

from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

ROOT = "urn:schema"
PREFIX = "/api/osvi"
# What the servers, Django and other middleware add to each answer.
OF_OTHERS = {
    *("Content-Length", "Content-Type", "Content-Language", "Content-Security-Policy"),
    *("Cross-Origin-Opener-Policy", "Referrer-Policy", "X-Content-Type-Options"),
    *("X-Frame-Options", "Vary", "Allow", "Accept-Post", "WWW-Authenticate"),
}


@cache
def schema():
    """Return the schema of the example project."""
    return SchemaGenerator(urlconf="example_project.urls").get_schema(public=True)


@cache
def paths():
    """Return the pattern of each path, and its operations; the most exact come first."""
    described = schema()["paths"].items()
    found = [(path, re.sub(r"\{id\}", "[^/]+", path), item) for path, item in described]
    return [
        (re.compile(re.sub(r"\{session_id\}", "(?s:.+)", pattern)), item)
        for _path, pattern, item in sorted(found, key=_precedence)
    ]


def _precedence(found):
    """Sort what an id with slashes could swallow before it."""
    path = found[0]
    return -path.count("/"), path.count("{")


@cache
def registry():
    resource = DRAFT202012.create_resource(schema())
    return Registry().with_resource(ROOT, resource)


def resolve(node):
    """Return a part of the schema that another one refers to."""
    while "$ref" in node:
        target = node["$ref"].removeprefix("#/").split("/")
        node = schema()
        for name in target:
            node = node[name]
    return node


def absolute(node):
    """Return a part in which references name the whole schema."""
    if isinstance(node, list):
        return [absolute(each) for each in node]
    if not isinstance(node, dict):
        return node
    return {
        key: f"{ROOT}{value}" if key == "$ref" else absolute(value) for key, value in node.items()
    }


def problems(value, node):
    """Return where a value does not fit a schema."""
    validator = Draft202012Validator(
        absolute(node), registry=registry(), format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    return [f"{list(each.absolute_path)}: {each.message}" for each in validator.iter_errors(value)]


def operation_of(method, path):
    """Return the operation for a request, if there is one."""
    named = path if path.endswith("/") else f"{path}/"
    for pattern, item in paths():
        if pattern.fullmatch(named):
            return item.get(method.lower())
    return None


def check(request, response):
    """Raise an error if the schema does not have this answer."""
    operation = operation_of(request.method, request.path)
    if operation is None or response.get("Content-Type", "").startswith("text/html"):
        return
    documented = operation["responses"].get(str(response.status_code))
    assert documented, f"{response.status_code} is not documented: {response.content}"
    answer = resolve(documented)
    unknown = set(response.headers) - set(answer.get("headers", ())) - OF_OTHERS
    assert unknown == set(), unknown
    if not response.streaming and not response.content:
        return
    media = answer["content"][response["Content-Type"].partition(";")[0]]
    if response.streaming:  # a file
        return
    found = problems(json.loads(response.content), media["schema"])
    assert found == [], (found, response.content)


class DocumentedMiddleware:
    """Checks what the host's clients get."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        check(request, response)
        return response
