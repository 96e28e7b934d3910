"""A hook for the host's ``SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"]``."""

from __future__ import annotations

from typing import Any

from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import spectacular_settings

from osvi_django.rest.schema.inspector import for_version, register
from osvi_django.rest.schema.nodes import Components
from osvi_django.rest.schema.webhooks import describe_events


def add_webhooks(
    result: dict[str, Any], generator: SchemaGenerator, **options: Any
) -> dict[str, Any]:
    """Add the events that this app sends: ``webhooks``, or ``x-webhooks`` in OpenAPI 3.0."""
    components = Components()
    events = describe_events(components)
    register(components, generator.registry)
    is_old = spectacular_settings.OAS_VERSION.startswith("3.0")
    name = "x-webhooks" if is_old else "webhooks"
    result[name] = {**result.get(name, {}), **for_version(events)}
    result["components"] = generator.registry.build(spectacular_settings.APPEND_COMPONENTS)
    return result
