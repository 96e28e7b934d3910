"""Parts of an OpenAPI document, written as in OpenAPI 3.1, and as OpenAPI 3.0 writes the same."""

from __future__ import annotations

from typing import Any, Final

Node = dict[str, Any]

PREFIX: Final = "OSVI"
STRING: Final[Node] = {"type": "string"}
BOOLEAN: Final[Node] = {"type": "boolean"}
INTEGER: Final[Node] = {"type": "integer"}
MOMENT: Final[Node] = {"type": "string", "format": "date-time"}
ADDRESS: Final[Node] = {"type": "string", "format": "uri"}
_NULL: Final[Node] = {"type": "null"}


class Components:
    """The named parts that an operation refers to, by the kind of part and the name."""

    def __init__(self) -> None:
        self.named: dict[tuple[str, str], Node] = {}

    def schema(self, name: str, node: Node) -> Node:
        """Name a schema, and return the reference to it."""
        return self._add("schemas", name, node)

    def response(self, name: str, node: Node) -> Node:
        """Name a response, and return the reference to it."""
        return self._add("responses", name, node)

    def header(self, name: str, node: Node) -> Node:
        """Name a header of responses, and return the reference to it."""
        return self._add("headers", name, node)

    def resolve(self, node: Node) -> Node:
        """Return the schema that a reference names, described or not, or the schema itself."""
        [node] = node.get("allOf", [node])
        reference = node.get("$ref")
        return self.named["schemas", reference.rpartition("/")[2]] if reference else node

    def _add(self, kind: str, name: str, node: Node) -> Node:
        known = self.named.setdefault((kind, f"{PREFIX}{name}"), node)
        if known != node:
            raise ValueError(f"Two {kind} have the name {PREFIX}{name}.")
        return {"$ref": f"#/components/{kind}/{PREFIX}{name}"}


def nullable(node: Node) -> Node:
    """Return the schema of the same or null."""
    if "type" in node:
        return {**node, "type": [node["type"], "null"]}
    return {"anyOf": [node, _NULL]}


def described(node: Node, text: object) -> Node:
    """Return a schema with a description, if there is one."""
    if not text:
        return node
    # Beside a reference OpenAPI 3.0 ignores everything.
    base: Node = {"allOf": [node]} if "$ref" in node else node
    return {**base, "description": str(text)}


def object_of(properties: Node, *, required: list[str] | None = None, **more: Any) -> Node:
    """Return the schema of an object; all of its properties are required if not said otherwise."""
    named = list(properties) if required is None else required
    needed = {"required": named} if named else {}
    return {"type": "object", "properties": properties, **needed, **more}


def array_of(items: Node, **more: Any) -> Node:
    """Return the schema of a list."""
    return {"type": "array", "items": items, **more}


def as_3_0(node: Any) -> Any:
    """Return a part as OpenAPI 3.0 writes it, where null is no type."""
    if isinstance(node, list):
        return [as_3_0(each) for each in node]
    if not isinstance(node, dict):
        return node
    return _without_null({name: as_3_0(each) for name, each in node.items()})


def _without_null(node: Node) -> Node:
    if isinstance(node.get("type"), list):
        [kind] = [each for each in node["type"] if each != "null"]
        node |= {"type": kind, "nullable": True}
    if _NULL in node.get("anyOf", ()):
        choices = [each for each in node.pop("anyOf") if each != _NULL]
        node |= {"allOf": choices, "nullable": True}
    return node
