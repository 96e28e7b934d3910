"""A start ends no chat that is open: it is refused, or the open one is closed first."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    AlreadyOpen,
    CloseInProgress,
    NotAllowed,
    OSVIBadAnswer,
    OSVINoAnswer,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
)
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary, StartLock
from osvi_django.services import close_session
from osvi_django.services.starting import start_session
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory
from tests.helpers.database import call_after_queries, raise_on_queries
from tests.helpers.sandbox import CallThenAnswer, mirror, script_next_starts

pytestmark = pytest.mark.django_db

NAMED = {"agent_uuid": "agent_1", "customer_id": "+1555"}
LOCK = "osvi_django_startlock"


@pytest.fixture
def operator(staff, grant):
    return grant(staff, "operate_chatsession")


@pytest.fixture
def old(osvi_sandbox):
    """A chat that is open with this agent, here and at OSVI."""
    return mirror(
        osvi_sandbox, agent__uuid="agent_1", customer_id="+1555", summary="What was said before."
    )


def starts(osvi):
    return [each for each in osvi.requests if each.path == "/v1/chat/session"]


class TestAlreadyOpen:
    def test_it_names_the_open_one_and_ends_nothing(self, old, osvi_sandbox):
        with pytest.raises(AlreadyOpen, match=old.session_id) as caught:
            start_session(**NAMED)
        assert caught.value.session == old
        assert not starts(osvi_sandbox)
        assert not osvi_sandbox.sessions[old.session_id].is_closed
        assert not CloseAttempt.objects.exists()

    def test_one_that_only_osvi_knows_counts(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(**NAMED)
        with pytest.raises(AlreadyOpen) as caught:
            start_session(**NAMED)
        assert caught.value.session == ChatSession.objects.get(session_id=chat.id)
        assert not chat.is_closed

    def test_a_quiet_one_counts_if_osvi_has_it_open(self, osvi_sandbox):
        osvi_sandbox.dormant_counts_as_active = True
        chat = osvi_sandbox.add_session(**NAMED, status="dormant")
        with pytest.raises(AlreadyOpen, match=chat.id):
            start_session(**NAMED)

    def test_those_of_other_agents_and_customers_do_not(self, osvi_sandbox):
        others = [
            osvi_sandbox.add_session(agent_uuid="agent_2", customer_id="+1555"),
            osvi_sandbox.add_session(agent_uuid="agent_1", customer_id="+1666"),
            osvi_sandbox.add_session(**NAMED, status="dormant"),
            osvi_sandbox.add_session(**NAMED, status="closed"),
        ]
        before = [each.status for each in others]
        assert start_session(**NAMED).status == "active"
        assert [each.status for each in others] == before

    @pytest.mark.parametrize(("status", "after"), [("closed", "closed"), ("dormant", "dormant")])
    def test_one_that_osvi_does_not_have_open_is_no_longer_so_here(
        self, old, osvi_sandbox, status, after
    ):
        osvi_sandbox.sessions[old.session_id].change(status=status)
        assert start_session(**NAMED).status == "active"
        old.refresh_from_db()
        assert old.status == after
        if status == "dormant":  # its summary is still to be had
            assert close_session(old).summary.text == "What was said before."

    def test_one_of_which_osvi_does_not_tell_stays_as_it_is(self, old, osvi_sandbox):
        osvi_sandbox.sessions[old.session_id].change(status="closed")
        osvi_sandbox.script(old.session_id, Status(500))
        assert start_session(**NAMED).status == "active"
        old.refresh_from_db()
        assert old.status == "active"

    @pytest.mark.parametrize("status", ["unconfirmed", "closing", "dormant", "closed"])
    def test_what_this_site_holds_of_it_does_not_matter(self, old, osvi_sandbox, status):
        ChatSession.objects.update(status=status)
        with pytest.raises(AlreadyOpen, match=old.session_id):
            start_session(**NAMED)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            (Drop(), OSVINoAnswer),
            (Status(500), OSVINoAnswer),
            (Junk(), OSVIBadAnswer),
            (Status(401), OSVIUnauthorized),
            (Status(422), OSVIRejected),
            (Status(503), OSVIThrottled),
        ],
    )
    @pytest.mark.parametrize("replace", [True, False])
    def test_if_osvi_cannot_be_asked_nothing_is_started(
        self, old, osvi_sandbox, fault, error, replace
    ):
        osvi_sandbox.script(None, fault)
        with pytest.raises(error) as caught:
            start_session(**NAMED, replace=replace)
        assert caught.value.asks_only
        if error in {OSVINoAnswer, OSVIBadAnswer}:
            assert "so no chat was started. Try again in a moment." in str(caught.value)
        assert not starts(osvi_sandbox)
        assert not osvi_sandbox.sessions[old.session_id].is_closed

    def test_no_osvi_is_nothing_started(self, old, settings):
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:9"
        with pytest.raises(OSVIUnreachable, match="Nothing was sent"):
            start_session(**NAMED)


class TestReplace:
    def test_the_open_one_is_closed_first_and_its_summary_kept(self, old, osvi_sandbox, operator):
        new = start_session(**NAMED, replace=True, requested_by=operator, via="desk")
        old.refresh_from_db()
        assert (old.status, old.summary.text) == ("closed", "What was said before.")
        attempt = CloseAttempt.objects.get()
        assert (attempt.kind, attempt.outcome) == ("close", "closed")
        assert (attempt.requested_by, attempt.via) == (operator, "desk")
        assert (new.status, new.actions.get().requested_by) == ("active", operator)

    def test_one_that_only_osvi_knows_is_closed_too(self, osvi_sandbox):
        chat = osvi_sandbox.add_session(**NAMED, summary="Of a stranger.")
        start_session(**NAMED, replace=True)
        assert SessionSummary.objects.get(session__session_id=chat.id).text == "Of a stranger."

    def test_where_nothing_is_open_it_is_a_start(self, osvi_sandbox, django_user_model, grant):
        user = grant(django_user_model.objects.create_user("jo"), "operate_chatsession")
        assert start_session(**NAMED, replace=True, requested_by=user).status == "active"

    def test_it_takes_the_permission_to_close(self, old, osvi_sandbox, django_user_model, grant):
        user = grant(django_user_model.objects.create_user("jo"), "operate_chatsession")
        with pytest.raises(NotAllowed, match="to close this chat session"):
            start_session(**NAMED, replace=True, requested_by=user)
        assert not starts(osvi_sandbox)
        assert not osvi_sandbox.sessions[old.session_id].is_closed

    @pytest.mark.parametrize(
        ("fault", "error", "status"),
        [
            (Status(422, errors=["Not now"]), OSVIRejected, "active"),
            (Status(429, retry_after=5), OSVIThrottled, "active"),
            (Drop(), OSVINoAnswer, "unconfirmed"),
            (Drop(after_closing=True), OSVINoAnswer, "unconfirmed"),
            (Junk(), OSVIBadAnswer, "unconfirmed"),
        ],
    )
    def test_if_that_fails_nothing_is_started(self, old, osvi_sandbox, fault, error, status):
        osvi_sandbox.script(old.session_id, fault)
        with pytest.raises(error) as caught:
            start_session(**NAMED, replace=True)
        assert caught.value.attempt == CloseAttempt.objects.get()
        assert not starts(osvi_sandbox)
        old.refresh_from_db()
        assert old.status == status

    def test_nor_if_its_close_is_not_settled(self, old, osvi_sandbox):
        later = DatabaseNow() + timedelta(minutes=5)
        ChatSession.objects.update(status="closing", claim=uuid.uuid4(), lease_until=later)
        with pytest.raises(CloseInProgress):
            start_session(**NAMED, replace=True)
        assert not starts(osvi_sandbox)

    def test_unconfirmed_one_is_closed_after_asking_osvi(self, old, osvi_sandbox):
        ChatSession.objects.update(status="unconfirmed")
        assert start_session(**NAMED, replace=True).status == "active"
        old.refresh_from_db()
        assert (old.status, osvi_sandbox.closes(old.session_id)) == ("closed", 1)

    def test_one_that_is_closed_here_cannot_be_closed_further(self, old, osvi_sandbox):
        ChatSession.objects.update(status="closed")
        assert start_session(**NAMED, replace=True).status == "active"

    def test_another_that_began_meanwhile_is_named(self, old, osvi_sandbox):
        added = []

        def meanwhile():
            added.append(osvi_sandbox.add_session(**NAMED))

        osvi_sandbox.script(old.session_id, CallThenAnswer(meanwhile))
        with pytest.raises(AlreadyOpen) as caught:
            start_session(**NAMED, replace=True)
        assert caught.value.session.session_id == added[0].id
        assert SessionSummary.objects.get().session == old

    def test_if_the_start_fails_the_summary_is_kept_all_the_same(self, old, osvi_sandbox):
        script_next_starts(osvi_sandbox)
        between = CallThenAnswer(lambda: None)
        osvi_sandbox.script(None, between, between, Status(422))
        with pytest.raises(OSVIRejected):
            start_session(**NAMED, replace=True)
        assert SessionSummary.objects.get().text == "What was said before."


class TestLock:
    def test_while_one_is_started_no_other_is(self, osvi_sandbox):
        told = []

        def meanwhile():
            with pytest.raises(AlreadyOpen, match="is being started,") as caught:
                start_session(**NAMED, replace=True)
            told.append(caught.value.session)

        with refused_by_nobody(osvi_sandbox, meanwhile):
            start_session(**NAMED)
        assert told == [None]
        assert len(starts(osvi_sandbox)) == 1
        assert not StartLock.objects.exists()

    def test_one_of_a_process_that_died_is_taken_over(self, osvi_sandbox):
        hold(DatabaseNow() - timedelta(seconds=1))
        assert start_session(**NAMED).status == "active"
        assert not StartLock.objects.exists()

    def test_until_then_it_is_held(self, osvi_sandbox):
        hold(DatabaseNow() + timedelta(seconds=60))
        with pytest.raises(AlreadyOpen, match="is being started,"):
            start_session(**NAMED)
        assert osvi_sandbox.requests == []
        assert StartLock.objects.exists()

    def test_others_are_started_meanwhile(self, osvi_sandbox):
        hold(DatabaseNow() + timedelta(seconds=60))
        for other in ({"agent_uuid": "agent_2"}, {"customer_id": "+1"}):
            assert start_session(**NAMED | other).status == "active"

    def test_one_that_was_taken_over_starts_nothing(self, osvi_sandbox):
        def taken():
            StartLock.objects.update(claim=uuid.uuid4())

        with refused_by_nobody(osvi_sandbox, taken), pytest.raises(AlreadyOpen):
            start_session(**NAMED)
        assert not starts(osvi_sandbox)

    def test_where_it_cannot_be_removed_it_runs_out(self, osvi_sandbox, caplog):
        from django.db import OperationalError  # noqa: PLC0415

        def is_delete(sql, params):
            return sql.startswith("DELETE") and LOCK in sql

        with raise_on_queries(is_delete, OperationalError("gone")):
            assert start_session(**NAMED).status == "active"
        assert "the lock of a start could not be removed" in caplog.text

    def test_start_while_lock_is_removed_raises_already_open(self, osvi_sandbox):
        """The other start ended between the two statements with which the lock is found."""

        def is_insert(sql, _params):
            return sql.startswith("INSERT") and LOCK in sql

        ended = call_after_queries(is_insert, StartLock.objects.all().delete)
        with ended, pytest.raises(AlreadyOpen, match="is being started,"):
            start_session(**NAMED)
        assert osvi_sandbox.requests == []


def refused_by_nobody(osvi, do):
    """Something is done on this thread's connection as soon as OSVI was asked what is open."""
    done = []

    def is_time(sql, params):
        asked = bool(osvi.requests) and not done
        if asked:
            done.append(None)
        return asked

    return call_after_queries(is_time, do)


def hold(until):
    """Hold the lock of a start, as a process does that is gone."""
    from osvi_django.services.attempts.leases import Terms  # noqa: PLC0415
    from osvi_django.services.start_locks import held_start  # noqa: PLC0415

    terms = Terms(seconds=60, longest=60, is_renewed=False)
    with held_start("default", *NAMED.values(), terms=terms):
        rows = list(StartLock.objects.all())
    for row in rows:
        row.claim, row.lease_until = uuid.uuid4(), until
    StartLock.objects.bulk_create(rows)


def test_agents_of_two_accounts_are_two(osvi_sandbox, settings):
    settings.OSVI["other"] = dict(settings.OSVI["default"])
    ChatAgentFactory(account="other", uuid="agent_1")
    ChatSessionFactory(agent__account="default", agent__uuid="agent_1", customer_id="+1555")
    assert start_session(**NAMED, account="other").agent.account == "other"
