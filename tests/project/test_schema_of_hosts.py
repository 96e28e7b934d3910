"""Test that a host's own OpenAPI schema builds without warnings once our URLs are in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
import sys
from example_project.settings import *

INSTALLED_APPS = [each for each in INSTALLED_APPS if each != "drf_spectacular"]
REST_FRAMEWORK = {}
SPECTACULAR_SETTINGS = {"TITLE": "Host"}
ROOT_URLCONF = "host_urls"
"""
# A view of the host's own, with fields that are named as ours are.
URLS = """
from django.urls import include, path
from django.contrib.auth.models import User
from rest_framework import serializers, viewsets
from rest_framework.routers import DefaultRouter


class SessionSerializer(serializers.ModelSerializer):
    status = serializers.ChoiceField(choices=["open", "shut"])
    kind = serializers.ChoiceField(choices=["person", "robot"])

    class Meta:
        model = User
        fields = ("id", "first_name", "status", "kind")


class UserView(viewsets.ModelViewSet):
    queryset = User.objects.all()
    serializer_class = SessionSerializer


router = DefaultRouter()
router.register("users", UserView)
urlpatterns = [
    path("hosts/", include(router.urls)),
    path("shops/<slug:shop>/chats/", include("osvi_django.urls")),
]
"""
SPECTACULAR = """
INSTALLED_APPS.append("drf_spectacular")
REST_FRAMEWORK["DEFAULT_SCHEMA_CLASS"] = "drf_spectacular.openapi.AutoSchema"
"""
NEW = 'SPECTACULAR_SETTINGS["OAS_VERSION"] = "3.1.1"'
EVENTS = """
SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"] = [
    "osvi_django.rest.schema.hooks.add_webhooks",
    "drf_spectacular.hooks.postprocess_schema_enums",
]
"""
STANDARDIZED = """
INSTALLED_APPS.append("drf_standardized_errors")
REST_FRAMEWORK["DEFAULT_SCHEMA_CLASS"] = "drf_standardized_errors.openapi.AutoSchema"
REST_FRAMEWORK["EXCEPTION_HANDLER"] = "drf_standardized_errors.handler.exception_handler"
_kinds = ("ValidationError", "ClientError", "ServerError")
_codes = [f"ErrorCode{status}" for status in (401, 403, 404, 405, 406, 415, 429, 500)]
_serializers = "drf_standardized_errors.openapi_serializers"
SPECTACULAR_SETTINGS["ENUM_NAME_OVERRIDES"] = {
    f"{name}Enum": f"{_serializers}.{name}Enum.choices" for name in (*_kinds, *_codes)
}
SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"] = [
    "drf_standardized_errors.openapi_hooks.postprocess_schema_enums",
]
"""
CAMEL = """
REST_FRAMEWORK["DEFAULT_RENDERER_CLASSES"] = [
    "djangorestframework_camel_case.render.CamelCaseJSONRenderer",
]
REST_FRAMEWORK["DEFAULT_PARSER_CLASSES"] = [
    "djangorestframework_camel_case.parser.CamelCaseJSONParser",
]
SPECTACULAR_SETTINGS["CAMELIZE_NAMES"] = True
SPECTACULAR_SETTINGS["COMPONENT_SPLIT_REQUEST"] = True
SPECTACULAR_SETTINGS["POSTPROCESSING_HOOKS"] = [
    "drf_spectacular.hooks.postprocess_schema_enums",
    "drf_spectacular.contrib.djangorestframework_camel_case.camelize_serializer_fields",
]
"""
VERSIONED = """
REST_FRAMEWORK["DEFAULT_VERSIONING_CLASS"] = "rest_framework.versioning.AcceptHeaderVersioning"
REST_FRAMEWORK["DEFAULT_VERSION"] = "1"
REST_FRAMEWORK["DEFAULT_PAGINATION_CLASS"] = "rest_framework.pagination.PageNumberPagination"
REST_FRAMEWORK["PAGE_SIZE"] = 10
SPECTACULAR_SETTINGS["SCHEMA_PATH_PREFIX_TRIM"] = True
SPECTACULAR_SETTINGS["SCHEMA_PATH_PREFIX"] = "/shops/[^/]+"
"""
BUILD = "spectacular --validate --fail-on-warn --format openapi-json"


def manage(folder, settings, *command):
    (folder / "host_settings.py").write_text(SETTINGS + settings)
    (folder / "host_urls.py").write_text(URLS)
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "django", *command],
        env={**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "host_settings"},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def build(folder, *settings):
    done = manage(folder, "\n".join((SPECTACULAR, *settings)), *BUILD.split())
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", ["", NEW], ids=["3.0", "3.1"])
@pytest.mark.parametrize(
    "hooks", [EVENTS, STANDARDIZED, CAMEL], ids=["events", "standardized", "camel"]
)
def test_host_builds_schema_without_warnings(tmp_path, version, hooks):
    built = build(tmp_path, version, hooks)
    closes = [path for path in built["paths"] if path.endswith("/close/")]
    assert len(closes) == 2
    schemas = built["components"]["schemas"]
    [body] = schemas["OSVISession"].get("allOf", [schemas["OSVISession"]])
    assert {"session_id", "agent_uuid", "closed_by"} <= set(body["properties"])
    assert "agent_uuid" in body["required"]


def test_host_with_own_versions_pages_and_prefix_builds_schema(tmp_path):
    built = build(tmp_path, NEW, VERSIONED)
    page = built["paths"]["/chats/sessions/"]["get"]
    names = [each["name"] for each in page["parameters"] if each["in"] != "header"]
    assert {"shop", "page_size", "cursor"} <= set(names)
    assert "page" not in names
    assert list(page["responses"]["200"]["content"]) == ["application/json"]


def test_host_without_schema_class_builds_schema_of_ours(tmp_path):
    only_ours = 'INSTALLED_APPS.append("drf_spectacular")\nROOT_URLCONF = "osvi_django.urls"\n'
    done = manage(tmp_path, only_ours, *BUILD.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "/sessions/{session_id}/close/" in json.loads(done.stdout)["paths"]


def test_host_with_schema_class_and_without_app_gets_our_description(tmp_path):
    listed = SPECTACULAR.replace('INSTALLED_APPS.append("drf_spectacular")', "")
    code = (
        "import django; django.setup()\n"
        "from drf_spectacular.generators import SchemaGenerator\n"
        "from drf_spectacular.drainage import GENERATOR_STATS\n"
        "built = SchemaGenerator().get_schema(public=True)\n"
        "assert not GENERATOR_STATS\n"
        "assert '/shops/{shop}/chats/sessions/{session_id}/close/' in built['paths']\n"
    )
    (tmp_path / "built.py").write_text(code)
    manage(tmp_path, listed, "version")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "host_settings"}
    done = subprocess.run(
        [sys.executable, "built.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("schema_class", ["", "rest_framework.schemas.openapi.AutoSchema"])
def test_host_without_drf_spectacular_serves_our_urls(tmp_path, schema_class):
    settings = 'sys.modules["drf_spectacular"] = None\n'
    if schema_class:
        settings += f'REST_FRAMEWORK["DEFAULT_SCHEMA_CLASS"] = "{schema_class}"\n'
    done = manage(tmp_path, settings, "check")
    assert done.returncode == 0, done.stderr
