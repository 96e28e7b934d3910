"""Tests that our pages need no inline script or style, and find their static files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.contrib import admin
from django.core.management import call_command

import osvi_django
from tests.helpers.admin_pages import fill_site, pages_of

PACKAGE = Path(osvi_django.__file__).parent
SOURCES = sorted(path for ending in ("html", "py", "js") for path in PACKAGE.rglob(f"*.{ending}"))
# What a policy of default-src 'self' refuses.
INLINE = re.compile(
    r"""<style\b | <script\b(?![^>]*\bsrc=) | <[^>]*\s(style|on[a-z]+)=["'] | javascript: | \beval\(
    | \bnew\ Function\( | setAttribute\(["']style | https?://[^\s"']*\.(js|css)\b""",
    re.VERBOSE,
)
MANIFEST = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"


def test_sources_hold_no_inline_script_or_style():
    assert len(SOURCES) > 100
    found = {
        str(path.relative_to(PACKAGE)): match[0]
        for path in SOURCES
        if (match := INLINE.search(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_buttons_of_pages_have_class_that_gives_them_their_look():
    buttons = [
        button
        for path in SOURCES
        if path.suffix == ".html"
        for button in re.findall(r"<button\b.*?</button>", path.read_text(encoding="utf-8"))
    ]
    assert len(buttons) > 8
    assert [each for each in buttons if not re.search(r'class="osvi-(button|copy)\b', each)] == []


@pytest.mark.parametrize(
    "text",
    [
        '<p style="color: red">',
        '<a href="#" onclick="go()">',
        "<script>go()</script>",
        "<style>",
        '<a href="javascript:go()">',
        '<script src="https://cdn.example.com/x.js"></script>',
    ],
)
def test_inline_script_or_style_is_recognized(text):
    assert INLINE.search(text)


@pytest.mark.django_db
def test_pages_with_manifest_name_collected_files(
    admin_client, admin_user, osvi_sandbox, settings, tmp_path
):
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": MANIFEST}}
    call_command("collectstatic", interactive=False, verbosity=0)
    found = []
    for page in pages_of(admin.site, fill_site(osvi_sandbox, admin_user)).values():
        html = admin_client.get(page).text
        ours = re.findall(r'/static/(osvi_django/[^"]+)"', html)
        for name in ours:
            assert re.search(r"\.[0-9a-f]{12}\.(css|js)$", name), page
            assert (tmp_path / name).exists(), page
        found += ours
    assert len(found) > 10
