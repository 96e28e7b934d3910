"""Admins of a host project that extend ours: another list template, another inline."""

from __future__ import annotations

import pytest
from django.contrib import admin
from django.contrib.messages.storage.cookie import CookieStorage
from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone

from osvi_django.admin import ChatSessionAdmin
from osvi_django.models import ChatSession, SupportAction
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory

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
        request.session = SessionStore()
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


def test_session_list_with_host_template_without_permission_links_to_chats_only(
    host_admin, request_of
):
    html = html_of(host_admin.changelist_view(request_of()))
    assert f'href="{host_admin.url_to("chats")}"' in html
    for way in ("lookup", "start"):
        assert f'href="{host_admin.url_to(way)}"' not in html


def test_session_page_with_host_inline_shows_its_rows(host_admin, request_of):
    session = ChatSessionFactory()
    session.actions.create(kind="tell")
    request = request_of("view_supportaction")
    html = html_of(host_admin.change_view(request, str(session.pk)))
    assert 'id="actions-group"' in html


class HostPageAdmin(ChatSessionAdmin):
    """An admin of sessions with Django's own template of a page."""

    change_form_template = "admin/change_form.html"


class TestHostPage:
    @pytest.fixture
    def html_of_page(self, request_of):
        def _html_of_page(session, *permissions, user=None):
            page, request = HostPageAdmin(ChatSession, admin.site), request_of(*permissions)
            request.user = user or request.user
            return html_of(page.change_view(request, str(session.pk)))

        return _html_of_page

    def test_page_of_open_session_shows_state_and_ways(self, html_of_page, settings):
        settings.OSVI["default"]["DASHBOARD_URL"] = "https://osvi.example.com/{session_id}"
        session = ChatSessionFactory(mode="support", active_human="Sam", help_requested=True)
        html = html_of_page(session, "operate_chatsession", "close_chatsession")
        assert "(Sam) The customer needs a person." in html
        assert f'href="https://osvi.example.com/{session.session_id}"' in html
        assert "Look up" in html
        for way in ("desk", "close"):
            assert f"/{session.pk}/{way}" in html

    def test_page_of_session_without_customer_links_to_no_look_up(self, html_of_page):
        html = html_of_page(ChatSessionFactory(customer_id=""), "operate_chatsession")
        assert "osvi-look-up" not in html

    def test_page_of_erased_customer_links_to_no_look_up(self, html_of_page):
        session = ClosedSessionFactory(erased_at=timezone.now())
        html = html_of_page(session, "operate_chatsession")
        assert ("osvi-look-up" in html, session.customer_id in html) == (False, True)

    def test_page_of_closed_session_shows_summary_to_those_who_may_read_it(
        self, html_of_page, django_user_model, grant
    ):
        session = ClosedSessionFactory(summary__text="A refund.")
        assert "A refund." in html_of_page(session)
        user = grant(django_user_model.objects.create_user("jo", is_staff=True), "view_chatsession")
        html = html_of_page(session, user=user)
        assert "A refund." not in html
        assert "You do not have permission to read summaries." in html

    def test_page_of_session_without_summary_says_why(self, html_of_page):
        lost = ChatSessionFactory(status="closed", summary_status="lost")
        assert "The summary was lost" in html_of_page(lost)

    def test_page_of_unconfirmed_session_explains_it(self, html_of_page):
        html = html_of_page(ChatSessionFactory(status="unconfirmed"), "close_chatsession")
        assert "Try again" in html
