"""One operation as OpenAPI describes it."""

from __future__ import annotations

from typing import Final

from osvi_django.rest.input_serializers import PageSerializer, QuerySerializer, StrictSerializer
from osvi_django.rest.pagination import KeysetPagination
from osvi_django.rest.rendering import JSON_MEDIA_TYPE
from osvi_django.rest.schema import headers
from osvi_django.rest.schema.errors import responses_of
from osvi_django.rest.schema.examples import example_of
from osvi_django.rest.schema.inputs import body_of, id_schema, parameters_of
from osvi_django.rest.schema.nodes import INTEGER, PREFIX, STRING, Components, Node
from osvi_django.rest.schema.operations import Operation, Success

TAG: Final = f"{PREFIX} chat sessions"
# The names that our own paths use; ``pk`` if the host keeps it.
_PATH: Final[dict[str, Node]] = {"session_id": id_schema(), "id": INTEGER, "pk": INTEGER}


def describe(operation: Operation, query: type[QuerySerializer], components: Components) -> Node:
    """Return an operation, without what the host decides: its path and its authentication."""
    described: Node = {
        "operationId": f"{PREFIX.lower()}_{operation.name}",
        "summary": operation.summary,
        "description": _description(operation),
        "tags": [TAG],
        "parameters": [*_query(query, components), *_headers(operation)],
    }
    if operation.body is not None:
        described["requestBody"] = _body(operation.body, components)
    described["responses"] = _responses(operation, components)
    described["x-permission"] = list(operation.permissions)
    return described


def path_parameter(name: str) -> Node | None:
    """Return a parameter of our own paths; None for one of the host's."""
    schema = _PATH.get(name)
    if schema is None:
        return None
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _description(operation: Operation) -> str:
    needed = " or ".join(f"`{name}`" for name in operation.permissions)
    permission = f"Needs the permission {needed}." if needed else "Needs a caller who is known."
    return " ".join(filter(None, (operation.description, permission)))


def _query(query: type[QuerySerializer], components: Components) -> list[Node]:
    pages = _pages() if issubclass(query, PageSerializer) else []
    return [*parameters_of(query, components), *pages]


def _pages() -> list[Node]:
    size: Node = {
        "type": "integer",
        "minimum": 1,
        "maximum": KeysetPagination.max_page_size,
        "default": KeysetPagination.page_size,
    }
    cursor = {
        "name": KeysetPagination.cursor_query_param,
        "in": "query",
        "description": "Where a page begins: take it from `next` or `previous`.",
        "schema": {**STRING, "minLength": 1},
    }
    named = {"name": KeysetPagination.page_size_query_param, "in": "query", "schema": size}
    return [named, cursor]


def _headers(operation: Operation) -> list[Node]:
    if operation.is_read:
        return [headers.MATCH] if operation.has_etag else []
    return [headers.KEY, *([headers.PREFER] if operation.takes_preferences else [])]


def _body(serializer: type[StrictSerializer], components: Components) -> Node:
    schema = body_of(serializer, components)
    required = bool(components.resolve(schema).get("required"))
    media = {"schema": schema, "example": example_of(schema, components)}
    return {"required": required, "content": {JSON_MEDIA_TYPE: media}}


def _responses(operation: Operation, components: Components) -> Node:
    responses = {
        str(success.status): _success(success, components) for success in operation.successes
    }
    if operation.has_etag:
        unchanged = headers.headers_of(("ETag",), components)
        responses["304"] = {"description": "Unchanged since that `ETag`.", "headers": unchanged}
    return responses | responses_of(operation.family, components)


def _success(success: Success, components: Components) -> Node:
    schema = success.body(components)
    media = {"schema": schema, "example": example_of(schema, components)}
    return {
        "description": success.description,
        "headers": headers.headers_of(success.headers, components),
        "content": dict.fromkeys(success.media_types, media),
    }
