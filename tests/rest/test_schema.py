"""Test that the OpenAPI schema describes all of this API, and that what it shows is true."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import yaml
from django.apps import apps
from django.core.management import call_command
from django.urls import resolve as find_view
from django.urls import reverse
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.settings import patched_settings
from drf_spectacular.validation import validate_schema
from rest_framework import serializers

from osvi_django import exceptions
from osvi_django.models import WebhookDelivery
from osvi_django.rest.errors import STATUSES
from osvi_django.rest.input_serializers import StrictSerializer
from osvi_django.rest.schema.inputs import body_of
from osvi_django.rest.schema.nodes import Components
from osvi_django.rest.views.base import PATHS
from osvi_django.services.events.payloads import body_of as body_of_event
from osvi_django.services.events.receivers import usable_receivers
from tests.helpers.documented import problems, resolve, schema

FILE = Path(__file__).resolve().parents[2] / "docs/openapi.yaml"
METHODS = {"get", "post"}


def build(urlconf="example_project.urls", **options):
    with patched_settings(options):
        return SchemaGenerator(urlconf=urlconf).get_schema(public=True)


def operations():
    """Return each operation of the API, and each event, by its id."""
    items = [*schema()["paths"].values(), *schema()["webhooks"].values()]
    return {each["operationId"]: each for item in items for each in item.values()}


def examples():
    """Yield each example, with the schema that it is one of."""
    parts = [operations(), schema()["components"]["responses"]]
    for name, part in ((name, part) for group in parts for name, part in group.items()):
        bodies = [part.get("requestBody", {}), *part.get("responses", {}).values(), part]
        for body in bodies:
            for media in body.get("content", {}).values():
                shown = media.get("examples") or {"": {"value": media["example"]}}
                for key, each in shown.items():
                    yield f"{name} {key}", each["value"], media["schema"]


def refers_to(node, found):
    """Collect the names of all components that a part refers to."""
    if isinstance(node, list):
        for each in node:
            refers_to(each, found)
    elif isinstance(node, dict):
        if "$ref" in node and node["$ref"] not in found:
            found.add(node["$ref"])
            refers_to(resolve(node), found)
        for each in node.values():
            refers_to(each, found)
    return found


def test_committed_schema_is_current():
    """Run ``make schema`` if it is not."""
    written = io.StringIO()
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=written)
    assert yaml.safe_load(written.getvalue()) == yaml.safe_load(FILE.read_text(encoding="utf-8"))


def test_schema_has_each_path():
    assert {path.removeprefix("/api/osvi/") for path in schema()["paths"]} == set(PATHS)


def test_schema_of_path_has_each_method():
    for path, item in schema()["paths"].items():
        view = view_at(path)
        assert set(item) == {name for name in METHODS if hasattr(view, name)}, path


def view_at(path):
    """Return the class of the view at a path of the schema."""
    return find_view(path.replace("{session_id}", "chat").replace("{id}", "1")).func.cls


def test_schema_has_each_event():
    assert set(schema()["webhooks"]) == {f"osvi.{name}" for name in WebhookDelivery.Event.values}


def test_operation_ids_are_those_that_clients_use():
    ids = set(operations())
    assert {"osvi_session_close", "osvi_session_list", "osvi_event_session_closed"} <= ids
    assert all(each.startswith("osvi_") for each in ids)
    assert len(ids) == 29


def test_each_operation_says_who_may_call_it():
    for name, operation in operations().items():
        if not name.startswith("osvi_event_"):
            assert operation["security"] == [{"basicAuth": []}, {"cookieAuth": []}]
            assert all(
                permission in operation["description"] for permission in operation["x-permission"]
            )


def test_each_component_is_named_as_ours_and_used():
    named = {
        f"#/components/{kind}/{name}"
        for kind, parts in schema()["components"].items()
        for name in parts
        if kind != "securitySchemes"
    }
    used = set()
    for operation in operations().values():
        refers_to(operation, used)
    assert named == used
    assert all(name.rpartition("/")[2].startswith("OSVI") for name in named)


def test_each_code_of_an_error_is_documented_for_its_status():
    for code, status in STATUSES.items():
        found = [
            name
            for name, response in schema()["components"]["responses"].items()
            if name.endswith(str(status))
            and code in response["content"]["application/json"]["examples"]
        ]
        assert found, code


def test_each_class_of_error_has_a_status():
    kinds = exceptions.OSVIError.__subclasses__()  # also those that tests have made
    codes = {error.code for error in kinds if error.__module__ == exceptions.__name__}
    assert codes <= set(STATUSES)


def test_each_example_fits_its_schema():
    found = {name: problems(value, node) for name, value, node in examples()}
    assert len(found) > 70
    assert {name: each for name, each in found.items() if each} == {}


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_schema_of_each_version_is_valid(version):
    built = build(OAS_VERSION=version)
    validate_schema(built)
    note = built["components"]["schemas"]["OSVISession"]["properties"]["close_reason"]
    assert note == (
        {"type": "string", "nullable": True} if version == "3.0.3" else {"type": ["string", "null"]}
    )


def test_schema_of_old_version_has_events_as_an_extension():
    built = build(OAS_VERSION="3.0.3")
    assert set(built["x-webhooks"]) == set(schema()["webhooks"])
    assert "webhooks" not in built


def test_build_with_hook_that_renames_keeps_names_that_are_sent():
    hook = "drf_spectacular.contrib.djangorestframework_camel_case.camelize_serializer_fields"
    built = build(POSTPROCESSING_HOOKS=[hook])
    [body] = built["components"]["schemas"]["OSVISession"]["allOf"]
    assert {"session_id", "agent_uuid"} <= set(body["properties"])


def test_path_of_host_with_own_parameter_describes_it():
    built = build("tests.rest.tenant_urls")
    closes = [item for path, item in built["paths"].items() if path.endswith("}/close/")]
    names = [each["name"] for each in closes[0]["post"]["parameters"] if each["in"] == "path"]
    assert names == ["tenant", "session_id"]


def test_start_without_drf_spectacular_loads_nothing_that_needs_it(monkeypatch):
    ours = "osvi_django.rest.schema.inspector"
    monkeypatch.delitem(sys.modules, ours)
    monkeypatch.setitem(sys.modules, "drf_spectacular", None)
    apps.get_app_config("osvi_django").ready()
    assert ours not in sys.modules


def test_body_with_field_that_is_not_known_raises_error():
    class UnknownSerializer(StrictSerializer):
        share = serializers.DecimalField(max_digits=3, decimal_places=2)

    with pytest.raises(TypeError, match="DecimalField"):
        body_of(UnknownSerializer, Components())


def test_two_components_with_one_name_raise_error():
    components = Components()
    components.schema("Session", {"type": "object"})
    with pytest.raises(ValueError, match="OSVISession"):
        components.schema("Session", {"type": "string"})


@pytest.mark.django_db
def test_example_project_serves_schema(client):
    served = yaml.safe_load(client.get(reverse("schema")).content)
    assert served["paths"].keys() == schema()["paths"].keys()


@pytest.mark.django_db
@pytest.mark.parametrize("event", WebhookDelivery.Event.values)
def test_event_is_as_the_schema_says(event, job, session, settings):
    key = "whsec_" + "A" * 44
    entry = {"URL": "https://crm.example", "SECRETS": [key]}
    settings.OSVI_WEBHOOKS = [{**entry, "INCLUDE_SUMMARY": True, "INCLUDE_CUSTOMER": True}]
    subject = str(job.uuid) if event == "close_job.completed" else session.session_id
    delivery = WebhookDelivery(event=event, subject=subject, data={}, occurred_at=timezone.now())
    body = json.loads(body_of_event(delivery, usable_receivers()[0]))
    described = schema()["webhooks"][f"osvi.{event}"]["post"]["requestBody"]["content"]
    assert problems(body, described["application/json"]["schema"]) == []
    known = properties_of(described["application/json"]["schema"])
    assert set(body["data"]) <= set(known["data"]["properties"])


def properties_of(node):
    """Return the properties of an object."""
    return resolve(node)["properties"]
