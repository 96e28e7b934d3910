"""Tests of the way in for every set of permissions: no link is dead, each refusal says why."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import parse_qs

import pytest
from django.contrib import admin
from django.urls import resolve, reverse

from osvi_django.models import ChatSession
from tests.admin.session_urls import session_url
from tests.helpers.admin_pages import fill_site, links_of

pytestmark = pytest.mark.django_db

INDEX = reverse("admin:index")
LIST = reverse("admin:osvi_django_chatsession_changelist")
JOBS = reverse("admin:osvi_django_closejob_changelist")
LOOKUP = reverse("admin:osvi_django_chatsession_lookup")
START = reverse("admin:osvi_django_chatsession_start")

# What is reached from the index by links alone, by the permissions of a user.
REACHED = {
    ("operate_chatsession",): {"chatsession_lookup", "chatsession_start"},
    ("close_chatsession",): {"closejob_changelist", "closejob_change", "closejob_sessions"},
    ("operate_chatsession", "close_chatsession"): {"chatsession_start", "closejob_change"},
    ("view_chatsession",): {"chatsession_changelist", "chatsession_change"},
    ("view_chatsession", "view_sessionsummary"): {"chatsession_change", "chatsession_history"},
    ("view_closejob",): {"closejob_changelist", "closejob_change", "closejob_history"},
    ("view_chatagent",): {"chatagent_changelist", "chatagent_change"},
    ("view_chatsession", "operate_chatsession"): {"chatsession_change", "chatsession_lookup"},
    ("view_chatsession", "close_chatsession"): {"chatsession_close", "chatsession_review"},
    (
        "view_chatsession",
        "view_sessionsummary",
        "close_chatsession",
        "operate_chatsession",
        "view_chatagent",
        "change_chatagent",
        "add_chatagent",
    ): {"chatsession_change", "chatsession_mark", "chatagent_add"},
}
# Links that only sort or count, and those to Django's own pages.
NOT_FOLLOWED = re.compile(r"[?&](o|_facets)=|/password_change/|/jsi18n/")
# Of the links that differ in the key of a row or in a value alone, so many are followed.
ROWS_FOLLOWED = 9
FILTERS_FOLLOWED = 1


@pytest.fixture
def filled(osvi_sandbox, staff):
    """Create rows of every kind."""
    return fill_site(osvi_sandbox, staff)


def crawl(client, start):
    """Follow the links from this page, and return the names of the URLs that were opened."""
    left, origins, counts = [start], {start: ""}, Counter()
    reached = set()
    while left:
        url = left.pop()
        response = client.get(url, follow=True)
        problem = f"{url} ({response.status_code}), a link on {origins[url]}"
        assert response.status_code == 200, problem
        reached.add(resolve(response.request["PATH_INFO"]).url_name)
        for link in sorted(links_of(response) - origins.keys()):
            shape = shape_of(link)
            limit = FILTERS_FOLLOWED if "?" in link else ROWS_FOLLOWED
            has_many_filters = "/chatsession/?" in link and "&" in link
            if counts[shape] < limit and not has_many_filters and not NOT_FOLLOWED.search(link):
                counts[shape] += 1
                origins[link] = url
                left.append(link)
    return {name.removeprefix("osvi_django_") for name in reached}


def shape_of(link):
    """Return the link without the keys of rows and the values of its query."""
    path, _, query = link.partition("?")
    return re.sub(r"\d+", "0", path), tuple(sorted(parse_qs(query)))


@pytest.mark.parametrize("codenames", REACHED, ids="+".join)
def test_links_with_permissions_lead_to_pages(log_in, filled, staff, codenames):
    client = log_in(*codenames)
    user = client.get(INDEX).wsgi_request.user
    for job in (filled.job, filled.draft):
        job.requested_by = user
        job.save()
    reached = crawl(client, INDEX)
    assert REACHED[codenames] <= reached


def test_links_without_permission_lead_to_pages(log_in, filled):
    assert crawl(log_in(), INDEX) == {"index"}


class TestEntry:
    def test_index_with_operate_permission_alone_links_to_look_up_and_start(self, log_in, filled):
        client = log_in("operate_chatsession")
        assert LIST in links_of(client.get(INDEX))
        assert LIST in links_of(client.get(reverse("admin:app_list", args=["osvi_django"])))
        page = client.get(LIST)
        assert page.status_code == 200
        assert {LOOKUP, START} <= links_of(page)
        assert JOBS not in links_of(page)
        assert "Can view chat session" in page.text
        assert filled.session.customer_id not in page.text

    def test_index_with_close_permission_alone_links_to_jobs(self, log_in):
        client = log_in("close_chatsession")
        assert {LIST, JOBS} <= links_of(client.get(INDEX))
        page = client.get(LIST)
        assert JOBS in links_of(page)
        assert not {LOOKUP, START} & links_of(page)

    def test_index_without_permission_has_no_link(self, log_in):
        client = log_in()
        assert not {LIST, JOBS} & links_of(client.get(INDEX))
        assert client.get(LIST).status_code == 403

    def test_look_up_by_operator_alone_leads_to_desk(self, log_in, filled):
        client = log_in("operate_chatsession")
        url = f"{LOOKUP}?customer_id=%2B{filled.session.customer_id[1:]}"
        desk = session_url(filled.session, "desk")
        assert desk in links_of(client.get(url))
        assert client.get(desk).status_code == 200

    def test_index_of_site_without_jobs_with_close_permission_has_no_link(self, rf, staff, grant):
        site = admin.AdminSite("alone")
        model_admin = type(admin.site.get_model_admin(ChatSession))
        site.register(ChatSession, model_admin)
        request = rf.get("/")
        staff.user_permissions.clear()
        request.user = grant(staff, "close_chatsession")
        assert not site.get_model_admin(ChatSession).get_model_perms(request)["view"]


class TestRefusal:
    @pytest.mark.parametrize(
        ("codenames", "name", "needed"),
        [
            (("view_chatsession",), "close", ["close chat session"]),
            (("view_chatsession",), "desk", ["operate chat session"]),
            (("operate_chatsession",), "change", ["view chat session"]),
            (("close_chatsession",), "thread", ["view chat session", "operate chat session"]),
            ((), "change", ["view chat session"]),
        ],
    )
    def test_page_without_permission_names_it(self, log_in, filled, codenames, name, needed):
        client = log_in(*codenames)
        response = client.get(session_url(filled.session, name))
        assert response.status_code == 403
        assert 'action="/admin/logout/"' in response.text  # the frame of the admin
        for each in needed:
            assert f"Can {each}</strong>" in response.text
        assert response.text.count("</strong></li>") == len(needed)
        assert "<bdi>jo</bdi>" in response.text
        assert "ask the administrator" in response.text
        for link in links_of(response):
            assert client.get(link, follow=True).status_code == 200, link

    @pytest.mark.parametrize(
        ("model", "name", "needed"),
        [
            ("chatagent", "changelist", "Can view chat agent"),
            ("chatagent", "add", "Can add chat agent"),
            ("closejob", "changelist", "Can view close job"),
        ],
    )
    def test_list_without_permission_names_it(self, log_in, model, name, needed):
        response = log_in("view_chatsession").get(reverse(f"admin:osvi_django_{model}_{name}"))
        assert response.status_code == 403
        assert needed in response.text
        assert LIST in links_of(response)

    def test_refused_page_links_to_what_user_may_do(self, log_in, filled):
        client = log_in("view_chatsession", "operate_chatsession")
        page = client.get(session_url(filled.session, "close"))
        assert {LIST, LOOKUP, START} <= links_of(page)

    def test_page_that_no_permission_opens_names_none(self, admin_client, filled):
        response = admin_client.get(session_url(filled.session, "delete"))
        assert response.status_code == 403
        assert "You cannot do this here." in response.text
        assert "ask the administrator" not in response.text

    def test_refused_job_of_colleague_says_why(self, log_in, filled, job_url):
        response = log_in("view_closejob").post(job_url("cancel", filled.job))
        assert response.status_code == 403
        assert "You do not have permission to do this with this close job." in response.text
        assert "Can close chat session" in response.text
