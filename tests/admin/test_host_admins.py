"""Admins of a host project that extend ours: another list template, another inline."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.messages.storage.cookie import CookieStorage

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession, SupportAction
from osvi_django.testing.factories import ChatSessionFactory

pytestmark = pytest.mark.django_db


class SupportActionInline(admin.TabularInline):
    """Another inline of the page of a session."""

    model = SupportAction
    fields = ("kind",)
    extra = 0


class HostSessionAdmin(ChatSessionAdmin):
    """An admin of sessions with Django's list template and an inline more."""

    change_list_template = "admin/change_list.html"
    inlines = (*ChatSessionAdmin.inlines, SupportActionInline)


@pytest.fixture
def host_admin():
    return HostSessionAdmin(ChatSession, admin.site)


@pytest.fixture
def request_of(rf, grant, staff):
    """Create a request of a staff user with these permissions."""

    def _request_of(*permissions):
        request = rf.get("/")
        request.user = grant(staff, "view_chatsession", *permissions)
        request._messages = CookieStorage(request)
        return request

    return _request_of


def html_of(response):
    return response.render().content.decode()


def test_session_list_with_host_template_has_links_as_filter(host_admin, request_of):
    html = html_of(host_admin.changelist_view(request_of("operate_chatsession")))
    assert "not in this list" in html
    for way in ("lookup", "start"):
        assert f'href="{host_admin.url_to(way)}"' in html


def test_session_list_with_host_template_without_permission_has_no_links(host_admin, request_of):
    html = html_of(host_admin.changelist_view(request_of()))
    assert "not in this list" not in html


def test_session_page_with_host_inline_shows_its_rows(host_admin, request_of):
    session = ChatSessionFactory()
    session.actions.create(kind="tell")
    request = request_of("view_supportaction")
    html = html_of(host_admin.change_view(request, str(session.pk)))
    assert 'id="actions-group"' in html
