"""Test the figures: what is counted, for which days, and for whom."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone

from osvi_django.database import in_utc, to_db_datetime
from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatSession, DailyCount
from osvi_django.services import figures
from osvi_django.services.statistics import MAX_TOP
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.helpers.tenants import narrow

pytestmark = pytest.mark.django_db


def at(text):
    """Return a moment of UTC as the database has it."""
    return to_db_datetime(datetime.fromisoformat(text).replace(tzinfo=UTC))


def close_at(*moments, **fields):
    """Create closed chats; they stay closed at these moments."""
    fields.setdefault("agent", ChatAgentFactory())
    return [ClosedSessionFactory(closed_at=at(each), **fields) for each in moments]


def zone():
    return timezone.get_default_timezone()


def numbers(shares):
    return {share.label: (share.number, share.before) for share in shares}


@pytest.fixture
def march():
    """Return the figures of a week in March, compared with the week before."""
    return lambda **options: figures(first=date(2026, 3, 9), last=date(2026, 3, 15), **options)


class TestNow:
    def test_open_chats_are_counted_by_status(self):
        for status in ("active", "active", "dormant", "unconfirmed", "closing", "closed"):
            ChatSessionFactory(status=status)
        ChatSessionFactory(mode="support")
        found = figures()
        assert {each.key: each.number for each in found.open} == {
            "active": 3,
            "dormant": 1,
            "closing": 1,
            "unconfirmed": 1,
        }
        assert found.with_people == 1

    def test_customers_who_wait_are_counted_by_time(self):
        for minutes in (1, 6, 7, 30, 120, 3000):
            asked_at = timezone.now() - timedelta(minutes=minutes)
            ChatSessionFactory(help_requested=True, help_requested_at=asked_at)
        ChatSessionFactory(help_requested=True, status="closed")
        waiting = figures().waiting
        assert [each.number for each in waiting.by_time] == [1, 2, 1, 1, 1]
        assert waiting.number == 6
        assert 3000 <= waiting.longest_seconds / 60 < 3001

    def test_wait_without_time_counts_since_last_activity(self):
        moment = timezone.now() - timedelta(minutes=10)
        ChatSessionFactory(help_requested=True, last_activity_at=moment)
        assert [each.number for each in figures().waiting.by_time] == [0, 1, 0, 0, 0]

    def test_recent_closes_are_counted_by_outcome(self):
        now = timezone.now()
        for days in (0, 5, 20, 40):
            ClosedSessionFactory(closed_at=now - timedelta(days=days))
        ClosedSessionFactory(summary=None, summary_status="lost")
        recent = {each.key: (each.today, each.week, each.month) for each in figures().recent}
        assert recent == {"stored": (1, 2, 3), "lost": (1, 1, 1)}

    def test_failures_of_last_day_are_counted_by_reason(self):
        old = timezone.now() - timedelta(hours=25)
        CloseAttemptFactory(outcome="rejected", error_code="rejected", started_at=old)
        CloseAttemptFactory(outcome="closed")
        for _number in range(2):
            CloseAttemptFactory(
                outcome="rejected", error_code="rejected", http_status=422, error_reason="s-1"
            )
        CloseAttemptFactory(outcome="no_answer", error_code="unconfirmed")
        first, second = figures().failures
        assert (first.outcome, first.code, first.http_status, first.number) == (
            "rejected",
            "rejected",
            422,
            2,
        )
        assert first.reason
        assert "s-1" not in first.reason
        assert (second.code, second.label, second.number) == ("unconfirmed", "no answer", 1)

    def test_empty_site_has_zeros(self):
        found = figures()
        assert (found.closed.number, found.closed.before, found.removed) == (0, 0, 0)
        assert (found.waiting.number, found.waiting.longest_seconds) == (0, None)
        assert (found.close_times.now.median, found.help_times.before.p95) == (None, None)
        assert (found.agents.rows, found.agents.others, found.failures) == ([], None, [])
        assert [step.number for step in found.steps] == [0] * 30


class TestRange:
    def test_range_is_compared_with_the_one_before(self, march):
        close_at("2026-03-01T23:59:59", "2026-03-16T00:00:00")
        close_at("2026-03-02T00:00:00", "2026-03-08T23:59:59.999999")
        close_at("2026-03-09T00:00:00", "2026-03-11T12:00:00", "2026-03-15T23:59:59.999999")
        found = march()
        assert (found.closed.number, found.closed.before) == (3, 2)
        assert (found.before.first, found.before.last) == (date(2026, 3, 2), date(2026, 3, 8))
        assert [step.number for step in found.steps] == [1, 0, 1, 0, 0, 0, 1]

    def test_default_is_last_30_days(self):
        found = figures()
        assert found.days.days == 30
        assert found.days.last == in_utc(timezone.now()).astimezone(zone()).date()
        assert figures(last=date(2026, 3, 30)).days.first == date(2026, 3, 1)
        assert figures(first=date(2026, 3, 1)).days.last == found.days.last
        tomorrow = found.days.last + timedelta(days=1)
        assert figures(first=tomorrow).days.days == 1

    def test_long_range_has_steps_of_weeks(self):
        close_at("2025-01-01T12:00:00", "2025-01-07T12:00:00", "2025-01-08T12:00:00")
        found = figures(first=date(2025, 1, 1), last=date(2025, 12, 31))
        assert len(found.steps) == 53
        assert [step.number for step in found.steps[:3]] == [2, 1, 0]
        assert found.steps[-1].days.first == found.steps[-1].days.last == date(2025, 12, 31)

    @pytest.mark.parametrize(
        ("first", "last", "field"),
        [
            (date(2026, 1, 2), date(2026, 1, 1), "last"),
            (date(1000, 1, 1), None, "first"),
            (None, date(9999, 12, 31), "last"),
            (date(2010, 1, 1), date(2026, 1, 1), "first"),
        ],
    )
    def test_range_that_is_none_is_refused(self, first, last, field):
        with pytest.raises(InvalidInput) as caught:
            figures(first=first, last=last)
        assert caught.value.field == field

    @pytest.mark.parametrize("top", [0, MAX_TOP + 1])
    def test_too_many_names_are_refused(self, top):
        with pytest.raises(InvalidInput):
            figures(top=top)


class TestZone:
    @pytest.fixture(autouse=True)
    def berlin(self, settings):
        settings.TIME_ZONE = "Europe/Berlin"

    def test_days_with_23_and_25_hours_are_whole(self):
        close_at("2026-03-28T22:59:59", "2026-03-28T23:00:00", "2026-03-29T21:59:59")
        close_at("2026-03-29T22:00:00", "2026-03-30T21:59:59", "2026-03-30T22:00:00")
        found = figures(first=date(2026, 3, 28), last=date(2026, 3, 31))
        assert [step.number for step in found.steps] == [1, 2, 2, 1]
        ChatSession.objects.all().delete()
        close_at("2026-10-24T21:59:59", "2026-10-24T22:00:00", "2026-10-25T22:59:59")
        close_at("2026-10-25T23:00:00", "2026-10-26T22:59:59", "2026-10-26T23:00:00")
        found = figures(first=date(2026, 10, 24), last=date(2026, 10, 27))
        assert [step.number for step in found.steps] == [1, 2, 2, 1]
        assert found.closed.number == 6


class TestKinds:
    def test_closes_are_counted_by_person_agent_reason_and_via(self, march, staff):
        agent = ChatAgentFactory(name="Night desk")
        fields = {"closed_by": staff, "close_reason": "Solved", "closed_via": "admin"}
        close_at("2026-03-10", "2026-03-11", "2026-03-03", agent=agent, **fields)
        close_at("2026-03-12", closed_via="elsewhere", summary=None, summary_status="lost")
        found = march()
        assert numbers(found.people.rows) == {"sam": (2, 1), "no user": (1, 0)}
        assert found.people.rows[0].pk == staff.pk
        best = found.agents.rows[0]
        assert (best.key, best.label, best.pk) == (agent.uuid, "Night desk", agent.pk)
        assert numbers(found.reasons.rows) == {"Solved": (2, 1), "no reason given": (1, 0)}
        assert numbers(found.vias.rows) == {"the admin": (2, 1), "elsewhere": (1, 0)}
        assert numbers(found.outcomes) == {"summary stored": (2, 1), "summary lost": (1, 0)}
        assert [step.outcomes for step in found.steps][:4] == [[0, 0], [1, 0], [1, 0], [0, 1]]

    def test_smaller_ones_are_added_up(self, march):
        for number, agent in enumerate(ChatAgentFactory.create_batch(5)):
            close_at(*["2026-03-10"] * (number + 1), agent=agent)
        close_at("2026-03-03", agent=agent)
        agents = march(top=2).agents
        assert [(each.number, each.before) for each in agents.rows] == [(5, 1), (4, 0)]
        assert (agents.others.number, agents.others.before, agents.others.kinds) == (6, 0, 3)

    def test_unknown_outcome_keeps_its_name(self, march):
        close_at("2026-03-10", summary=None, summary_status="new")
        assert numbers(march().outcomes) == {"new": (1, 0)}


class TestTimes:
    def test_percentiles_are_within_5_percent(self, march):
        agent = ChatAgentFactory()
        for number in range(1, 101):
            close_at("2026-03-10", agent=agent, close_seconds=number / 3)
        close_at("2026-03-10", agent=agent)
        close_at("2026-03-03", agent=agent, close_seconds=0)
        times = march().close_times
        assert times.now.number == 100
        assert times.now.median == pytest.approx(50 / 3, rel=0.05)
        assert times.now.p95 == pytest.approx(95 / 3, rel=0.05)
        assert times.before.median == pytest.approx(0, abs=0.001)
        assert march().steps[1].close_times == times.now

    def test_waits_for_a_person_are_counted(self, march):
        close_at("2026-03-10", help_waited_seconds=600)
        close_at("2026-03-10", "2026-03-03")
        times = march().help_times
        assert times.now.median == times.now.p95 == pytest.approx(600, rel=0.05)
        assert times.before.number == 0


class TestRemoved:
    @pytest.fixture
    def removed(self, staff):
        """Add counts of chats that have been deleted since."""
        agent = ChatAgentFactory(name="Night desk")

        def add(day, number, **fields):
            values = {"closed_by": staff, "agent": agent, "via": "rest", **fields}
            key = str(DailyCount.objects.count())
            DailyCount.objects.create(
                key=key, day=day, number=number, summary_status="stored", account="a", **values
            )

        return add

    def test_deleted_chats_are_counted(self, march, removed):
        removed(date(2026, 3, 8), 7)
        removed(date(2026, 3, 10), 40)
        removed(date(2026, 3, 10), 2, agent=None, closed_by=None)
        close_at("2026-03-10")
        found = march()
        assert (found.closed.number, found.closed.before, found.removed) == (43, 7, 42)
        assert found.steps[1].number == 43
        assert numbers(found.people.rows) == {"sam": (40, 7), "no user": (3, 0)}
        assert numbers(found.agents.rows)["deleted agents"] == (2, 0)
        assert numbers(found.vias.rows)["REST"] == (42, 7)
        assert numbers(found.outcomes) == {"summary stored": (43, 7)}

    def test_deleted_chats_of_last_days_are_recent(self, removed):
        today = figures().days.last
        removed(today, 3)
        removed(today - timedelta(days=10), 4)
        ClosedSessionFactory()
        [recent] = figures().recent
        assert (recent.today, recent.week, recent.month) == (4, 4, 8)


class TestPermissions:
    def test_caller_without_permission_is_refused(self):
        with pytest.raises(NotAllowed):
            figures(requested_by=AnonymousUser())

    def test_caller_who_may_view_gets_figures(self, staff):
        assert figures(requested_by=staff).closed.number == 0

    def test_only_chats_inside_access_are_counted(self, march, staff, settings):
        narrow(settings)
        staff.first_name = "A"
        for name in ("A one", "B one"):
            agent = ChatAgentFactory(name=name)
            [session] = close_at("2026-03-10", agent=agent, help_waited_seconds=5, close_seconds=5)
            ChatSessionFactory(agent=agent, help_requested=True)
            CloseAttemptFactory(session=session, outcome="rejected")
        DailyCount.objects.create(
            key="1", day=date(2026, 3, 10), account="a", summary_status="stored", number=5
        )
        found = march(requested_by=staff)
        assert (found.closed.number, found.removed) == (1, None)
        assert (found.waiting.number, found.open[0].number, found.failures[0].number) == (1, 1, 1)
        assert [each.label for each in found.agents.rows] == ["A one"]
        assert (found.close_times.now.number, found.help_times.now.number) == (1, 1)
        assert march().closed.number == 7
        assert march().removed == 5
