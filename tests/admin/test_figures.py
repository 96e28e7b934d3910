"""Tests of the page of figures."""

from __future__ import annotations

import re
from datetime import date, timedelta
from html import unescape
from xml.etree import ElementTree as ET

import pytest
from django.urls import reverse
from django.utils import timezone

from osvi_django.database import site_date
from osvi_django.models import ChatSession, DailyCount
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.helpers import tenants
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

FIGURES = reverse("admin:osvi_django_chatsession_figures")
CHATS = reverse("admin:osvi_django_chatsession_chats")
LIST = reverse("admin:osvi_django_chatsession_changelist")
APP = "/admin/osvi_django/"
WEEK = {"first": "2026-03-09", "last": "2026-03-15"}
HOSTILE = "<script>alert('x')</script>"
LONG = "W" * 200
REVERSED = "This is before the first day. Choose a later day, or an earlier first day."


@pytest.fixture
def closes(staff, django_user_model):
    """Create closes of each kind in a week of March, and some in the week before."""
    kim = django_user_model.objects.create_user(HOSTILE)
    agents = [ChatAgentFactory(name=name) for name in ("Night desk", HOSTILE, LONG)]
    kinds = [
        ("stored", staff, "admin", "Solved", agents[0]),
        ("stored", staff, "rest", "Solved", agents[0]),
        ("not_provided", kim, "rest", HOSTILE, agents[1]),
        ("lost", None, "", "", agents[2]),
    ]
    for day in (3, 10, 11):
        for outcome, user, via, reason, agent in kinds[day == 3 :]:
            ClosedSessionFactory(
                agent=agent,
                summary=None,
                summary_status=outcome,
                closed_at=db_datetime(f"2026-03-{day:02}T12:00Z"),
                closed_by=user,
                closed_via=via,
                close_reason=reason,
                close_seconds=2.0 * day,
                help_waited_seconds=600.0,
            )


@pytest.fixture
def waiting():
    """Create open chats, of which the customers of two wait, and failed attempts."""
    agent = ChatAgentFactory()
    for minutes in (10, 300):
        since = timezone.now() - timedelta(minutes=minutes)
        ChatSessionFactory(agent=agent, help_requested=True, help_requested_at=since)
    ChatSessionFactory(agent=agent, status="dormant", mode="support")
    refused = ChatSessionFactory(agent=agent, is_close_refused=True)
    unconfirmed = ChatSessionFactory(agent=agent, status="unconfirmed")
    CloseAttemptFactory(session=refused, outcome="rejected", error_code="rejected", http_status=422)
    CloseAttemptFactory(session=unconfirmed, outcome="no_answer", error_code="unconfirmed")
    CloseAttemptFactory(session=unconfirmed, outcome="not_sent")


def panels_of(response):
    """Return the panels of the page by name."""
    context = response.context
    return {panel.name: panel for panel in [*context["now"], *context["range"]]}


def cells_of(response, name):
    """Return the cells of a table by the labels of its rows."""
    return {row.label: list(row.cells) for row in panels_of(response)[name].rows}


def pictures_in(html):
    """Return each picture of a page, parsed as XML."""
    found = re.findall(r'<svg class="osvi-chart.*?</svg>', html, re.DOTALL)
    return [ET.fromstring(each.replace("&#x27;", "'")) for each in found]  # noqa: S314 - ours


class TestRange:
    def test_numbers_are_compared_with_those_before(self, staff_client, closes):
        response = staff_client.get(FIGURES, WEEK)
        assert cells_of(response, "outcomes") == {
            "Summary stored": [4, 1, "+300%"],
            "OSVI sent no summary": [2, 1, "+100%"],
            "Summary lost": [2, 1, "+100%"],
        }
        assert cells_of(response, "people") == {
            "sam": [4, 1, "+300%"],
            HOSTILE: [2, 1, "+100%"],
            "No user": [2, 1, "+100%"],
        }
        assert cells_of(response, "agents")["Night desk"] == [4, 1, "+300%"]
        assert cells_of(response, "reasons")["No reason given"] == [2, 1, "+100%"]
        assert cells_of(response, "vias")["The admin"] == [2, 0, "–"]  # noqa: RUF001
        assert "In the 7 days before (March 2, 2026 – March 8, 2026): 3." in response.text  # noqa: RUF001
        assert "Change: +167%." in response.text

    def test_times_are_compared_with_those_before(self, staff_client, closes):
        response = staff_client.get(FIGURES, WEEK)
        times = cells_of(response, "close")
        assert [len(cells) for cells in times.values()] == [2, 2, 2]
        assert times["Times known"] == [8, 3]
        assert times["Median"][0].endswith(" s")
        assert cells_of(response, "help")["Median"] == ["10 min", "10 min"]
        steps = cells_of(response, "speed")
        assert steps["March 9, 2026"] == ["–", "–"]  # noqa: RUF001
        assert steps["March 10, 2026"] != steps["March 11, 2026"]

    def test_every_number_leads_to_a_list_of_as_many(self, staff_client, closes, waiting):
        panels = panels_of(staff_client.get(FIGURES, WEEK))
        rows = [row for panel in panels.values() for row in panel.rows if row.url]
        assert len(rows) > 15
        for row in rows:
            listed = staff_client.get(row.url)
            assert listed.status_code == 200, row
            assert listed.context["cl"].result_count == row.cells[0], row

    def test_number_of_all_leads_to_list_of_as_many(self, staff_client, closes):
        response = staff_client.get(FIGURES, WEEK)
        listed = staff_client.get(response.context["closed_url"])
        assert listed.context["cl"].result_count == 8
        assert "<strong>8</strong> chats were closed" in response.text

    def test_many_kinds_are_shown_with_others_together(self, staff_client):
        for number in range(12):
            ClosedSessionFactory(close_reason=f"r{number}")
        rows = panels_of(staff_client.get(FIGURES))["reasons"].rows
        assert (rows[-1].label, rows[-1].cells[0], rows[-1].url) == ("2 others", 2, "")
        assert len(rows) == 11

    def test_agent_that_is_deleted_has_no_link(self, staff_client):
        removed(5, agent=None)
        [row] = panels_of(staff_client.get(FIGURES))["agents"].rows
        assert (row.label, row.cells[0], row.url) == ("Deleted agents", 5, "")

    def test_chats_that_were_deleted_are_counted_and_named(self, staff_client):
        assert "deleted since" not in staff_client.get(FIGURES).text
        removed(1)
        html = staff_client.get(FIGURES).text
        assert "1 of them has been deleted since for its age." in html
        removed(1_000_000)
        assert "1000001 of them have been deleted since for their age." in (
            staff_client.get(FIGURES).text
        )

    @pytest.mark.parametrize(
        ("days", "steps", "said"),
        [(1, 1, ""), (30, 30, ""), (366, 53, "Each step is 7 days.")],
    )
    def test_range_of_any_length_is_shown(self, staff_client, closes, days, steps, said):
        last = date(2026, 3, 11)
        first = last - timedelta(days=days - 1)
        response = staff_client.get(FIGURES, {"first": first, "last": last})
        panel = panels_of(response)["closed"]
        assert (len(panel.rows), panel.said) == (steps, said)
        assert len(panel.picture.boxes) <= 3 * steps
        assert "In the day before (March 10, 2026): 4." in response.text or days > 1

    def test_change_down_and_none_have_their_signs(self, staff_client):
        for day, number in ((1, 4), (2, 2), (3, 2)):
            moment = db_datetime(f"2026-05-{day:02}T12:00Z")
            ClosedSessionFactory.create_batch(number, closed_at=moment)
        assert "Change: −50%." in staff_client.get(FIGURES, one_day("2026-05-02")).text  # noqa: RUF001
        assert "Change: 0%." in staff_client.get(FIGURES, one_day("2026-05-03")).text


def one_day(day):
    return {"first": day, "last": day}


def removed(number, **fields):
    """Store that so many chats of yesterday have been deleted."""
    yesterday = site_date(timezone.now()) - timedelta(days=1)
    DailyCount.objects.create(
        key=f"{DailyCount.objects.count()}",
        day=yesterday,
        account="default",
        summary_status="stored",
        number=number,
        **fields,
    )


class TestNow:
    def test_page_shows_what_is_open_and_waits(self, staff_client, waiting):
        response = staff_client.get(FIGURES)
        assert cells_of(response, "open") == {
            "Active": [3],
            "Dormant": [1],
            "Being closed": [0],
            "Unconfirmed": [1],
            "Of these taken over by people": [1],
        }
        panel = panels_of(response)["waiting"]
        assert panel.said == "2 customers wait, the first of them for 5 hours."
        assert cells_of(response, "waiting")["5 to 15 minutes"] == [1]
        [way] = panel.ways
        assert staff_client.get(way.url).context["cl"].result_count == 2

    def test_page_says_how_long_one_customer_waits(self, staff_client):
        since = timezone.now() - timedelta(seconds=119)
        ChatSessionFactory(help_requested=True, help_requested_at=since)
        said = panels_of(staff_client.get(FIGURES))["waiting"].said
        assert said == "1 customer waits, for 2 minutes."

    def test_page_says_that_customer_who_asked_before_may_wait_longer(self, staff_client):
        since = timezone.now() - timedelta(minutes=20)
        ChatSessionFactory(help_requested=True, last_activity_at=since)
        said = panels_of(staff_client.get(FIGURES))["waiting"].said
        assert said == "1 customer waits, for at least 20 minutes."

    def test_failures_have_reasons_and_lead_to_chats_that_need_a_person(
        self, staff_client, waiting
    ):
        response = staff_client.get(FIGURES)
        rows = cells_of(response, "failures")
        assert rows["Not sent"] == ["–", 1]  # noqa: RUF001
        [refused] = [label for label in rows if label.startswith("Refused by OSVI. ")]
        assert rows[refused] == ["422", 1]
        panel = panels_of(response)["failures"]
        labels = {row.label.text for row in panel.picture.rows}
        assert "Refused by OSVI (rejected, 422)" in labels
        assert "Not sent" in labels
        for way in panel.ways:
            assert staff_client.get(way.url).context["cl"].result_count == 1
        assert len(panel.ways) == 2

    def test_page_shows_what_was_closed_lately(self, staff_client):
        for days in (0, 3, 20, 40):
            ClosedSessionFactory(closed_at=timezone.now() - timedelta(days=days))
        rows = cells_of(staff_client.get(FIGURES), "recent")
        assert rows == {"Summary stored": [1, 2, 3], "All": [1, 2, 3]}

    def test_page_without_chats_says_so_in_words(self, staff_client):
        response = staff_client.get(FIGURES)
        panels = panels_of(response).values()
        assert all(panel.said for panel in panels)
        assert not any(panel.picture or panel.rows for panel in panels)
        assert "No attempt to close a chat failed." in response.text


class TestForm:
    def test_page_begins_with_last_30_days(self, staff_client):
        response = staff_client.get(FIGURES)
        today = site_date(timezone.now())
        first = today - timedelta(days=29)
        assert f'name="first" value="{first.isoformat()}"' in response.text
        assert f'name="last" value="{today.isoformat()}"' in response.text
        assert re.findall(r'aria-current="true">(.*?)<', response.text) == ["30 days"]
        assert '<label for="id_first">First day:</label>' in response.text

    def test_shortcuts_lead_to_ranges_that_end_today(self, staff_client):
        shortcuts = staff_client.get(FIGURES, one_day("2026-01-01")).context["shortcuts"]
        assert [each.label for each in shortcuts] == ["Today", "7 days", "30 days", "90 days"]
        assert not any(each.is_chosen for each in shortcuts)
        for each, days in zip(shortcuts, (1, 7, 30, 90), strict=True):
            response = staff_client.get(each.url)
            assert response.context["found"].days.days == days
            assert response.context["found"].days.last == site_date(timezone.now())
            [chosen] = [one for one in response.context["shortcuts"] if one.is_chosen]
            assert chosen.label == each.label

    def test_one_day_suffices(self, staff_client):
        response = staff_client.get(FIGURES, {"first": "", "last": "2026-03-15"})
        assert 'name="first" value="2026-02-14"' in response.text

    @pytest.mark.parametrize(
        ("query", "said"),
        [
            ({"first": "2026-02-30"}, "First day: Enter a day such as 2026-01-31."),
            ({"last": "<b>today"}, "Last day: Enter a day such as 2026-01-31."),
            ({"first": "\x00"}, "First day: Enter a day such as 2026-01-31."),
            ({"last": "9" * 5000}, "Last day: Enter a day such as 2026-01-31."),
            (
                {"first": "2026-03-02", "last": "2026-03-01"},
                f"Last day: {REVERSED}",
            ),
            (
                {"first": "2001-01-01", "last": "2026-03-01"},
                (
                    "First day: These are more than 3660 days. Choose a later day, or an earlier "
                    "last day."
                ),
            ),
            (
                {"first": "9999-12-31", "last": "9999-12-31"},
                "First day: Choose a day in a year from 1900 to 2999.",
            ),
            (
                {"last": "0001-01-01"},
                "Last day: Choose a day in a year from 1900 to 2999.",
            ),
        ],
    )
    def test_days_that_cannot_be_shown_are_explained_at_their_field(
        self, staff_client, query, said
    ):
        response = staff_client.get(FIGURES, query)
        assert response.status_code == 200
        assert f"<li>{said}</li>" in unescape(response.text)
        assert 'aria-invalid="true"' in response.text
        assert "These days cannot be shown." in response.text
        assert "<b>today" not in response.text
        assert "osvi-panel" not in response.text
        assert len(response.context["shortcuts"]) == 4


class TestPictures:
    def test_pictures_are_well_formed_and_described(self, staff_client, closes, waiting):
        html = staff_client.get(FIGURES, WEEK).text
        pictures = pictures_in(html)
        panels = panels_of(staff_client.get(FIGURES, WEEK)).values()
        assert len(pictures) == sum(panel.picture is not None for panel in panels) == 12
        for picture in pictures:
            assert picture.get("role") == "img"
            for name, tag in (("aria-labelledby", "title"), ("aria-describedby", "desc")):
                [named] = [each for each in picture if each.get("id") == picture.get(name)]
                assert named.tag == tag
                assert named.text
        ids = re.findall(r'\bid="([^"]+)"', html)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r"url\(#(.+?)\)", html)) <= set(ids)

    def test_each_picture_has_its_table(self, staff_client, closes, waiting):
        for panel in panels_of(staff_client.get(FIGURES, WEEK)).values():
            assert panel.rows or panel.picture is None

    def test_labels_are_escaped(self, staff_client, closes):
        html = staff_client.get(FIGURES, WEEK).text
        assert "alert(&#x27;x&#x27;)" in html
        assert HOSTILE not in html
        assert not re.search(r"<script(?![^>]*\bsrc=)", html)

    def test_long_label_is_cut_in_picture_and_whole_in_table(self, staff_client, closes):
        html = staff_client.get(FIGURES, WEEK).text
        assert f"<bdi>{LONG}</bdi>" in html
        assert re.search(r"<text [^>]*>W{20,60}…<title>W{200}</title>", html)

    def test_numbers_are_localized_and_geometry_is_not(
        self, staff_client, closes, waiting, settings
    ):
        settings.USE_THOUSAND_SEPARATOR = True
        settings.DECIMAL_SEPARATOR = ","
        removed(1_234_567)
        ClosedSessionFactory(close_seconds=1.5)
        html = staff_client.get(FIGURES, headers={"Accept-Language": "de"}).text
        assert "<td>1.234.568</td>" in html
        assert "1,5 s" in html
        number = re.compile(r"-?\d+(\.\d+)?")
        for picture in pictures_in(html):
            for each in picture.iter():
                for name in ("x", "y", "width", "height", "cx", "cy"):
                    assert number.fullmatch(each.get(name, "0")), ET.tostring(each)
                assert "," not in each.get("d", "")
                assert "," not in each.get("viewBox", "")

    def test_page_keeps_a_strict_policy(self, staff_client, closes, waiting):
        html = staff_client.get(FIGURES, WEEK).text
        assert not re.search(r"<style\b|\sstyle=|\son[a-z]+=", html[html.index("osvi-figures") :])


class TestAccess:
    def test_viewer_finds_link_on_start_page_and_app_index(self, log_in):
        client = log_in("view_chatsession")
        for page in (CHATS, APP):
            assert f'<a href="{FIGURES}">Figures</a>' in client.get(page).text
        assert client.get(FIGURES).status_code == 200

    @pytest.mark.parametrize("codename", ["operate_chatsession", "change_chatsession"])
    def test_user_who_may_not_view_has_no_link_and_is_refused(self, log_in, codename):
        client = log_in(codename)
        for page in (CHATS, APP):
            assert FIGURES not in client.get(page).text
        response = client.get(FIGURES)
        assert response.status_code == 403
        assert "Can view chat session" in response.text

    def test_narrowed_user_sees_figures_of_own_chats(
        self, log_in, settings, django_user_model, closes
    ):
        tenants.narrow(settings)
        agent = ChatAgentFactory(name="A one")
        attempt = CloseAttemptFactory(outcome="rejected", session__agent__name="B one")
        ClosedSessionFactory(agent=agent, closed_at=db_datetime("2026-03-10T12:00Z"))
        client = log_in("view_chatsession")
        django_user_model.objects.filter(username="jo").update(first_name="A")
        removed(7)
        response = client.get(FIGURES, WEEK)
        assert cells_of(response, "agents") == {"A one": [1, 0, "–"]}  # noqa: RUF001
        assert panels_of(response)["failures"].rows == []
        assert "deleted since" not in client.get(FIGURES).text
        assert attempt.session.agent.name not in response.text

    def test_page_takes_same_number_of_queries_for_any_number(
        self, staff_client, closes, waiting, django_assert_max_num_queries
    ):
        with django_assert_max_num_queries(28) as few:
            staff_client.get(FIGURES, WEEK)
        for number in range(30):
            ClosedSessionFactory(
                closed_at=db_datetime("2026-03-12T12:00Z"), close_reason=f"r{number}"
            )
        with django_assert_max_num_queries(len(few)):
            staff_client.get(FIGURES, WEEK)
        assert ChatSession.objects.count() > 30
