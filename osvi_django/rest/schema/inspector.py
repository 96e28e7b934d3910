"""Describe our views to drf-spectacular, whatever schema class the host's own views have."""

from __future__ import annotations

import re
from typing import Any, Final

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent
from drf_spectacular.settings import spectacular_settings
from rest_framework.views import APIView

from osvi_django.rest.schema.document import describe, path_parameter
from osvi_django.rest.schema.nodes import Components, Node, as_3_0
from osvi_django.rest.schema.operations import find_operation

_VARIABLE: Final = re.compile(r"\{(\w+)\}")
# A hook that renames the fields of all components in a host's build; ours stay as they are sent.
_CAMELIZES: Final = "camelize_serializer_fields"


class OSVISchema(AutoSchema):
    """The operation of one of our views; only its path and security are the host's."""

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: ComponentRegistry
    ) -> dict[str, Any] | None:
        """Return the operation; None for the path without its final slash."""
        self.path, self.path_regex, self.path_prefix = path, path_regex, path_prefix
        self.method, self.registry = method.upper(), registry
        view: Any = self.view
        operation = find_operation(view, method)
        if operation is None or not path.endswith("/"):
            return None
        components = Components()
        described = describe(operation, view.get_query_serializer(), components)
        described["parameters"] = [*self._path(), *described["parameters"]]
        described["security"] = self.get_auth()
        register(components, registry)
        return for_version(described)

    def _path(self) -> list[Node]:
        names = _VARIABLE.findall(self.path)
        ours = {name: path_parameter(name) for name in names}
        hosts = self._resolve_path_parameters([name for name in names if ours[name] is None])
        return [*hosts, *filter(None, ours.values())]


class OSVIViewExtension(OpenApiViewExtension):
    """Gives our views that schema, in the build only."""

    target_class = "osvi_django.rest.views.base.OSVIAPIView"
    match_subclasses = True

    def view_replacement(self) -> type[APIView]:
        """Return the view with our schema."""
        members = {"schema": OSVISchema(), "__doc__": self.target.__doc__}
        return type(self.target.__name__, (self.target,), members)


def register(components: Components, registry: ComponentRegistry) -> None:
    """Add what an operation refers to."""
    for (kind, name), node in components.named.items():
        schema = _as_sent(for_version(node)) if kind == "schemas" else for_version(node)
        component = ResolvedComponent(name=name, type=kind, schema=schema, object=name)
        registry.register_on_missing(component)


def for_version(node: Node) -> Node:
    """Return a part as the OpenAPI version of this build writes it."""
    is_old = spectacular_settings.OAS_VERSION.startswith("3.0")
    converted: Node = as_3_0(node) if is_old else node
    return converted


def _as_sent(node: Node) -> Node:
    """Return a schema that the host's hooks do not rename: they look at objects only."""
    hooks = (getattr(hook, "__name__", "") for hook in spectacular_settings.POSTPROCESSING_HOOKS)
    return {"allOf": [node]} if _CAMELIZES in hooks else node
