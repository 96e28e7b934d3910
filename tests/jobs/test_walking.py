"""What a job is made of: each session once, whatever queryset or iterable it is created from."""

from __future__ import annotations

import tracemalloc
from datetime import timedelta
from itertools import islice

import pytest
from django.contrib.auth import get_user_model
from django.db import OperationalError, connection, connections
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.db.models import Count, F, Value, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from osvi_django.exceptions import InvalidInput
from osvi_django.models import ChatAgent, ChatSession, CloseJob
from osvi_django.services.jobs import create_close_job
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.database import raise_on_queries

MANY = 600

ON_POSTGRESQL = connection.vendor == "postgresql"


@pytest.fixture
def many(agent):
    """Make more sessions than are read at a time, and return their queryset."""
    new = [
        ChatSessionFactory.build(
            agent=agent,
            session_id=f"s{number:05}",
            customer_id=f"customer {number % 200}",
            status="dormant" if number % 2 else "active",
        )
        for number in range(MANY)
    ]
    ChatSession.objects.bulk_create(new)
    return ChatSession.objects.all()


def requested_ids(job):
    """Return the ids of a job's items in their order, after checking the job's total."""
    ids = list(job.items.values_list("requested_session_id", flat=True))
    assert job.total == len(ids)
    return ids


def ids_in_key_order(sessions):
    """Return the ids of sessions in the order of their keys."""
    return list(sessions.order_by("pk").values_list("session_id", flat=True))


class TestQueryset:
    @pytest.mark.parametrize(
        "ordered",
        [
            lambda sessions: sessions.reverse(),
            lambda sessions: sessions.order_by("pk").reverse(),
            lambda sessions: sessions.order_by("-pk").reverse(),
            lambda sessions: sessions.reverse().order_by("customer_id"),
            lambda sessions: sessions.order_by().reverse(),
            lambda sessions: sessions.order_by("?"),
            lambda sessions: sessions.order_by(F("closed_at").desc(nulls_last=True)),
            lambda sessions: sessions.order_by("agent__name", "-started_at"),
            lambda sessions: sessions.distinct(),
            lambda sessions: sessions.reverse().distinct(),
            lambda sessions: sessions.select_related("agent", "summary").defer("session_id"),
            lambda sessions: sessions.only("customer_id").reverse(),
            lambda sessions: sessions.prefetch_related("attempts"),
            lambda sessions: sessions.select_for_update().reverse(),
            lambda sessions: sessions.annotate(attempts_made=Count("attempts")).reverse(),
            lambda sessions: sessions.alias(n=Count("attempts")).filter(n=0),
            lambda sessions: sessions.extra(select={"one": "1"}, order_by=["-session_id"]),
            lambda sessions: sessions.extra(where=["osvi_django_chatsession.id > 0"]),
            lambda sessions: sessions.using("default").reverse(),
            lambda sessions: sessions.filter(agent__in=ChatAgent.objects.reverse()),
        ],
    )
    def test_queryset_of_any_kind_makes_one_item_each_in_key_order(self, many, ordered):
        job = create_close_job(ordered(many), start=False)
        assert requested_ids(job) == ids_in_key_order(many)
        assert set(job.items.values_list("outcome", flat=True)) == {"waiting"}

    def test_filtered_queryset_makes_items_of_what_it_selects(self, many):
        dormant = many.filter(status="dormant").reverse()
        job = create_close_job(dormant, start=False)
        assert requested_ids(job) == ids_in_key_order(many.filter(status="dormant"))

    def test_evaluated_queryset_makes_all_items(self, many):
        sessions = many.reverse()
        assert len(sessions) == MANY
        assert requested_ids(create_close_job(sessions, start=False)) == ids_in_key_order(many)

    def test_queryset_with_repeating_join_makes_one_item_per_session(self, many):
        for session in many[:3]:
            for number in range(4):
                session.attempts.create(claim=f"{number:032}")
        tried = ChatSession.objects.filter(attempts__outcome="started").reverse()
        assert len(tried) == 12
        assert requested_ids(create_close_job(tried, start=False)) == ids_in_key_order(many)[-3:]

    def test_queryset_filtered_by_aggregate_is_aggregated_as_a_whole(self, many):
        for session in many[:3]:
            session.attempts.create(claim="0" * 32)
        tried = many.annotate(n=Count("attempts")).filter(n__gt=0)
        assert len(requested_ids(create_close_job(tried, start=False))) == 3

    def test_queryset_filtered_by_window_keeps_newest_of_each_customer(self, many):
        newest = Window(RowNumber(), partition_by="customer_id", order_by="-pk")
        job = create_close_job(many.annotate(row=newest).filter(row=1), start=False)
        assert requested_ids(job) == ids_in_key_order(many)[-200:]

    def test_queryset_with_distinct_fields_works_on_postgresql_only(self, many):
        sessions = many.order_by("customer_id", "-pk").distinct("customer_id")
        if ON_POSTGRESQL:
            assert (
                requested_ids(create_close_job(sessions, start=False))
                == ids_in_key_order(many)[-200:]
            )
            return
        with pytest.raises(InvalidInput, match="session_id") as caught:
            create_close_job(sessions)
        assert caught.value.field == "session_ids"
        assert not CloseJob.objects.exists()

    def test_empty_queryset_makes_job_without_items(self, many):
        assert create_close_job(many.none(), start=False).total == 0

    def test_queryset_of_proxy_model_makes_all_items(self, many):
        assert requested_ids(
            create_close_job(HostSession.objects.reverse(), start=False)
        ) == ids_in_key_order(many)

    def test_user_with_object_permissions_gets_only_those_sessions(self, many, settings):
        settings.AUTHENTICATION_BACKENDS = ["tests.jobs.test_walking.CustomerSevenBackend"]
        user = get_user_model().objects.create_user("seven")
        for sessions in (many.reverse(), many.select_for_update(), many.order_by("?")[:MANY]):
            job = create_close_job(sessions, requested_by=user, start=False)
            allowed = job.items.filter(outcome="waiting").values_list("session__customer_id")
            assert (job.total, set(allowed)) == (MANY, {("customer 7",)})

    def test_memory_does_not_grow_with_number_of_sessions(self, agent):
        create_close_job(_make_sessions(agent, 10), start=False)
        peaks = [_peak_memory(_make_sessions(agent, number)) for number in (600, 2_400)]
        assert peaks[1] < 1.5 * peaks[0] + 500_000


class TestSlicedOrCombinedQueryset:
    @pytest.mark.parametrize(
        ("cut", "expected"),
        [
            (lambda sessions: sessions.order_by("pk")[:550], slice(550)),
            (lambda sessions: sessions.order_by("pk").reverse()[:550], slice(50, None)),
            (lambda sessions: sessions.order_by("-pk")[20:560], slice(40, 580)),
            (lambda sessions: sessions.order_by("pk")[550:], slice(550, None)),
            (lambda sessions: sessions.order_by("pk")[5:5], slice(0)),
            (lambda sessions: sessions.order_by("pk").only("customer_id")[:20], slice(20)),
            (lambda sessions: list(sessions.order_by("-pk")[:550]), slice(50, None)),
            (lambda sessions: sessions.order_by("pk")[:9:2], slice(0, 9, 2)),
            (lambda sessions: sessions.distinct().order_by("pk")[:550], slice(550)),
            (
                lambda sessions: sessions.order_by("pk").values_list("session_id", flat=True)[:550],
                slice(550),
            ),
        ],
    )
    def test_slice_makes_items_of_exactly_that_slice(self, many, cut, expected):
        job = create_close_job(cut(many), start=False)
        assert sorted(requested_ids(job)) == ids_in_key_order(many)[expected]

    def test_evaluated_random_sample_makes_items_of_that_sample(self, many):
        sample = many.order_by("?")[:50]
        seen = {session.session_id for session in sample}
        assert set(requested_ids(create_close_job(sample, start=False))) == seen

    @pytest.mark.parametrize(
        ("combine", "expected"),
        [
            (lambda odd, first: odd.union(first), {*range(400), *range(1, MANY, 2)}),
            (lambda odd, first: odd.union(first, all=True), {*range(400), *range(1, MANY, 2)}),
            (lambda odd, first: odd.intersection(first), set(range(1, 400, 2))),
            (lambda odd, first: odd.difference(first), set(range(401, MANY, 2))),
            (lambda odd, first: odd.union(first).order_by("-session_id"), None),
            (lambda odd, first: odd.union(first).reverse(), None),
            (lambda odd, first: odd | first, None),
            (
                lambda odd, first: odd.order_by("pk").reverse() | first.order_by("pk").reverse(),
                None,
            ),
        ],
    )
    def test_combined_querysets_make_items_of_the_combined_rows(self, many, combine, expected):
        # SQLite does not combine what has an order of its own.
        odd = many.order_by().filter(status="dormant")
        first = many.order_by().filter(session_id__lt="s00400")
        if expected is None:
            expected = {*range(400), *range(1, MANY, 2)}
        job = create_close_job(combine(odd, first), start=False)
        assert sorted(requested_ids(job)) == [f"s{number:05}" for number in sorted(expected)]

    def test_slice_of_combined_querysets_makes_items_of_that_slice(self, many):
        many = many.order_by()
        both = many.filter(status="dormant").union(many.filter(status="active"))
        job = create_close_job(both.order_by("session_id")[:550], start=False)
        assert requested_ids(job) == ids_in_key_order(many)[:550]

    def test_intersection_of_different_annotations_makes_no_items(self, agent):
        ChatSessionFactory(agent=agent)
        sessions = ChatSession.objects.order_by()
        one, two = (sessions.annotate(x=Value(number)) for number in (1, 2))
        assert create_close_job(one.intersection(two), start=False).total == 0


class TestOtherDatabase:
    """The keys of another database may be those of other sessions here."""

    @pytest.fixture
    def other(self, tmp_path):
        """Open another, empty database."""
        name = str(tmp_path / "other.sqlite3")
        there = {**connections["default"].settings_dict, "NAME": name, "OPTIONS": {}}
        connections["other"] = DatabaseWrapper(there, alias="other")
        with connections["other"].schema_editor() as editor:
            editor.create_model(get_user_model())
            editor.create_model(ChatAgent)
            editor.create_model(ChatSession)
        yield
        connections["other"].close()
        del connections["other"]

    @pytest.fixture
    def elsewhere(self, agent, other):
        """Make three sessions in the other database, of which the first and third are here too."""
        ChatAgent.objects.using("other").create(pk=agent.pk)
        for name in "abc":
            ChatSession.objects.using("other").create(session_id=name, agent_id=agent.pk)
        ChatSessionFactory.create_batch(4, agent=agent)
        ChatSessionFactory(session_id="a", agent=agent)
        ChatSessionFactory(session_id="c", agent=agent)
        return ChatSession.objects.using("other")

    @pytest.mark.parametrize("order", [lambda each: each.reverse(), lambda each: each[:3], list])
    def test_sessions_of_another_database_are_matched_by_id(self, elsewhere, order):
        job = create_close_job(order(elsewhere.all()), start=False)
        found = job.items.values_list("requested_session_id", "outcome", "session__session_id")
        assert set(found) == {
            ("a", "waiting", "a"),
            ("b", "not_found", None),
            ("c", "waiting", "c"),
        }


class TestOtherIterables:
    @pytest.mark.parametrize(
        "wanted",
        [
            lambda sessions: sessions.values_list("session_id", flat=True),
            lambda sessions: sessions.values_list("session_id", flat=True).distinct().reverse(),
            lambda sessions: sessions.raw("SELECT * FROM osvi_django_chatsession"),
            lambda sessions: sessions.raw("SELECT id FROM osvi_django_chatsession LIMIT 20"),
            lambda sessions: sessions.iterator(),
            lambda sessions: (session for session in sessions.reverse()),
            set,
            lambda sessions: frozenset(session.session_id for session in sessions),
            lambda sessions: [*sessions, *sessions, *(each.session_id for each in sessions)],
            lambda sessions: [ChatSession(session_id=each.session_id) for each in sessions],
            lambda sessions: {each.session_id: None for each in sessions}.keys(),
        ],
    )
    def test_iterable_of_sessions_or_ids_makes_one_item_each(self, agent, wanted):
        ChatSession.objects.bulk_create(ChatSessionFactory.build_batch(20, agent=agent))
        job = create_close_job(wanted(ChatSession.objects.all()), start=False)
        assert sorted(requested_ids(job)) == sorted(ids_in_key_order(ChatSession.objects.all()))
        assert set(job.items.values_list("outcome", flat=True)) == {"waiting"}

    def test_unsaved_unknown_session_is_not_found(self, db):
        job = create_close_job([ChatSession(session_id="unknown")], start=False)
        assert list(job.items.values_list("outcome", flat=True)) == ["not_found"]

    @pytest.mark.parametrize(
        "wrong",
        [
            ChatSession.objects.values,
            lambda: ChatSession.objects.values("session_id"),
            lambda: ChatSession.objects.values_list("session_id"),
            lambda: ChatSession.objects.values_list("session_id", "customer_id", named=True),
            lambda: ChatSession.objects.values_list("pk", flat=True),
            lambda: ChatSession.objects.values_list("pk", flat=True)[:1],
            lambda: ChatSession.objects.values("agent").annotate(n=Count("pk")),
            lambda: ChatSession.objects.values("pk").union(ChatSession.objects.values("pk")),
            lambda: ChatSession.objects.datetimes("started_at", "day"),
            ChatAgent.objects.all,
            lambda: ChatAgent.objects.all()[:1],
            ChatAgent.objects.none,
            lambda: ChatAgent.objects.raw("SELECT * FROM osvi_django_chatagent"),
            lambda: ChatSession.objects,
            lambda: ChatSession,
            ChatSession.objects.get,
            ChatSession.objects.in_bulk,
            lambda: {ChatSession.objects.get().session_id: True},
            dict,
            lambda: "an id",
            lambda: "",
            lambda: b"an id",
            lambda: b"",
            lambda: bytearray(b"an id"),
            lambda: None,
            lambda: 7,
            lambda: [None],
            lambda: [7],
            lambda: [b"an id"],
            lambda: [["an id"]],
            lambda: [ChatSession()],
            lambda: [ChatAgent(uuid="an id")],
            lambda: islice(iter([ChatSession.objects.get(), None]), 2),
        ],
    )
    def test_anything_else_raises_invalid_input_before_any_insert(
        self, agent, wrong, django_assert_max_num_queries
    ):
        ChatSessionFactory(agent=agent, customer_id="a person")
        with pytest.raises(InvalidInput) as caught, django_assert_max_num_queries(8) as queries:
            create_close_job(wrong(), start=False)
        assert caught.value.field == "session_ids"
        assert "a person" not in str(caught.value)
        assert not [each for each in queries if each["sql"].startswith("INSERT")]

    def test_union_of_slices_on_sqlite_raises_invalid_input(self, many):
        halves = many.order_by("pk")[:3].union(many.order_by("-pk")[:3])
        if connection.vendor == "sqlite":
            with pytest.raises(InvalidInput, match="cannot run this queryset"):
                create_close_job(halves)
            assert not CloseJob.objects.exists()
        else:
            assert create_close_job(halves, start=False).total == 6


class HostSession(ChatSession):
    """A host's own proxy of sessions."""

    class Meta:
        app_label = "partners"
        proxy = True


class CustomerSevenBackend:
    """A backend that grants the permission on sessions of "customer 7" alone."""

    def authenticate(self, request, **credentials):
        return None

    def has_perm(self, user, permission, obj=None):
        wanted = permission == "osvi_django.close_chatsession"
        return wanted and obj is not None and obj.customer_id == "customer 7"


def _make_sessions(agent, number):
    """Make so many sessions, and return their queryset."""
    day = timezone.now() - timedelta(days=number)
    new = ChatSessionFactory.build_batch(number, agent=agent, started_at=day)
    ChatSession.objects.bulk_create(new, 500)
    return ChatSession.objects.filter(started_at=day).reverse()


def _peak_memory(sessions):
    """Return the peak of the memory used to create a job, in bytes."""
    tracemalloc.start()
    try:
        create_close_job(sessions, start=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_job_of_queryset_when_database_is_away_raises_its_error(many):
    gone = raise_on_queries(
        lambda sql, _params: "osvi_django_chatsession" in sql, OperationalError("gone")
    )
    with gone, pytest.raises(OperationalError):
        create_close_job(many, start=False)
    assert not CloseJob.objects.exists()
