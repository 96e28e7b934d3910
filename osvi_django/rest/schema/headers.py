"""The headers of requests and responses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from osvi_django.rest.idempotency import HEADER, MAX_LENGTH, REPLAYED
from osvi_django.rest.preferences import MAX_WAIT
from osvi_django.rest.rendering import JSON_MEDIA_TYPE
from osvi_django.rest.schema.nodes import ADDRESS, INTEGER, STRING, Components, Node

KEY: Final[Node] = {
    "name": HEADER,
    "in": "header",
    "description": "Makes it safe to repeat the request: a success is answered again as it was.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_LENGTH, "pattern": "^[ -~]+$"},
}
MATCH: Final[Node] = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` of an earlier answer: an unchanged one is a 304 without a body.",
    "schema": STRING,
}
PREFER: Final[Node] = {
    "name": "Prefer",
    "in": "header",
    "description": (
        "`respond-async`: answer 202 with a job. `wait=10`: wait for it so many seconds first, "
        f"at most {MAX_WAIT}."
    ),
    "schema": STRING,
    "example": "respond-async, wait=10",
}
_RESPONSE: Final[dict[str, tuple[str, Node]]] = {
    "Accept-Post": ("What may be posted.", {**STRING, "enum": [JSON_MEDIA_TYPE]}),
    "Allow": ("The methods that there are.", STRING),
    "Content-Disposition": ("A name for the file.", STRING),
    "Cache-Control": ("The answer is for its caller alone: `private, no-cache`.", STRING),
    "ETag": ("Names this state of the answer.", STRING),
    REPLAYED: ("`true` if this was answered before.", {**STRING, "enum": ["true"]}),
    "Link": ("The neighbours of this page (RFC 8288), if there are any.", STRING),
    "Location": ("The address of what was created.", ADDRESS),
    "Preference-Applied": ("What was done as the caller prefers.", STRING),
    "Retry-After": ("Seconds to wait before the next request.", {**INTEGER, "minimum": 0}),
    "WWW-Authenticate": ("How to authenticate.", STRING),
}


def headers_of(names: Iterable[str], components: Components) -> Node:
    """Return the headers of a response."""
    return {name: _header(name, components) for name in ("Cache-Control", *names)}


def _header(name: str, components: Components) -> Node:
    description, schema = _RESPONSE[name]
    node = {"description": description, "schema": schema}
    return components.header(name.replace("-", ""), node)
