"""Tests of narrowed access in the services: outside it, a session is like one that is unknown."""

from __future__ import annotations

from contextlib import suppress

import pytest
from django.db import OperationalError

from osvi_django.conf import InvalidSetting, access_function, check_access_function
from osvi_django.exceptions import (
    AlreadyOpen,
    InvalidInput,
    NotAllowed,
    OSVINotConfigured,
    SessionNotFound,
)
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services import (
    Purpose,
    cancel_close_job,
    close_session,
    close_session_by_id,
    create_close_job,
    export_sessions,
    inject_context,
    look_up_customer,
    recover_session,
    retry_close_job,
    run_close_job,
    search_sessions,
    start_session,
)
from osvi_django.services.access import is_narrowed
from osvi_django.services.by_id import create_close_job_by_id
from osvi_django.services.permissions import (
    may_close,
    readable_summaries,
    requester_of,
    require_close,
    visible_jobs,
)
from osvi_django.services.selectors import SessionFilter, select_matching
from osvi_django.testing import Status
from osvi_django.testing.factories import ChatAgentFactory, ClosedSessionFactory
from tests.helpers import tenants as functions
from tests.helpers.callers import TokenUser
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db(transaction=True)


def outcomes_of(job):
    rows = job.items.order_by("pk")
    return list(rows.values_list("requested_session_id", "outcome", "error_code", "session"))


class TestSettings:
    def test_access_not_set_costs_no_query(self, staff, chats, django_assert_num_queries):
        staff.get_all_permissions()
        with django_assert_num_queries(0):
            assert may_close(staff, chats.b)
            assert readable_summaries(staff, [chats.a, chats.b]) == {chats.a.pk, chats.b.pk}
        sessions = select_matching(SessionFilter(), requested_by=staff)
        assert str(sessions.query).count("SELECT") == 1

    def test_host_code_is_not_narrowed(self, chats, tenants):
        assert not is_narrowed(None)
        assert close_session(chats.b).session.status == "closed"
        assert functions.seen_purposes == []

    def test_function_itself_is_accepted(self, settings, ann, chats):
        settings.OSVI_SESSIONS_FOR = functions.sessions_for
        assert may_close(ann, chats.a)
        assert not may_close(ann, chats.b)

    @pytest.mark.parametrize("purpose", Purpose)
    def test_purpose_is_text(self, purpose):
        assert f"{purpose}" == purpose == purpose.value

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("nothing", "must return a QuerySet of ChatSession."),
            ("agents_for", "must return a QuerySet of ChatSession."),
            ("first_ten", "must return a QuerySet without a slice."),
            ("broken", "raised ValueError."),
            ("takes_no_purpose", "raised TypeError."),
        ],
    )
    def test_unusable_function_closes_nothing_and_is_logged(
        self, settings, ann, chats, osvi_sandbox, caplog, name, said
    ):
        settings.OSVI_SESSIONS_FOR = f"tests.helpers.tenants.{name}"
        with pytest.raises(OSVINotConfigured, match=f"OSVI_SESSIONS_FOR {said}") as caught:
            close_session(chats.a, requested_by=ann)
        assert "secret" not in str(caught.value)
        assert "OSVI_SESSIONS_FOR" in caplog.text
        assert osvi_sandbox.requests == []

    def test_unavailable_database_of_function_is_its_own_error(self, settings, ann, chats):
        def unavailable(_user, _purpose):
            raise OperationalError

        settings.OSVI_SESSIONS_FOR = unavailable
        with pytest.raises(OperationalError):
            close_session(chats.a, requested_by=ann)

    def test_setting_that_cannot_be_imported_closes_nothing(self, settings, ann, chats):
        settings.OSVI_SESSIONS_FOR = "no.such.function"
        with pytest.raises(OSVINotConfigured, match="OSVI_SESSIONS_FOR could not be imported"):
            close_session(chats.a, requested_by=ann)

    @pytest.mark.parametrize("name", ["OSVI_SESSIONS_FOR", "OSVI_AGENTS_FOR"])
    def test_check_function_names_what_is_wrong(self, settings, name):
        for value, said in (
            ("nowhere", "is not a dotted path"),
            ("no.such.function", "could not be imported"),
            ("tests.helpers.tenants.seen_purposes", "is not callable"),
            (functions.takes_no_purpose, "cannot be called with a user and a purpose"),
        ):
            setattr(settings, name, value)
            with pytest.raises(InvalidSetting, match=f"{name} {said}") as caught:
                check_access_function(name)
            assert caught.value.hint

    def test_check_function_accepts_what_can_be_called(self, settings):
        # One in C has no signature that Python knows.
        for value in (None, functions.broken, "tests.helpers.tenants.sessions_for", dict.get, max):
            settings.OSVI_SESSIONS_FOR = value
            check_access_function("OSVI_SESSIONS_FOR")
        settings.OSVI_SESSIONS_FOR = None
        assert access_function("OSVI_SESSIONS_FOR") is None


class TestOneSession:
    def test_session_outside_is_not_found(self, ann, chats, osvi_sandbox):
        for act in (
            lambda: close_session(chats.b, requested_by=ann),
            lambda: recover_session(chats.b, requested_by=ann),
            lambda: close_session_by_id(chats.b.session_id, requested_by=ann),
            lambda: inject_context(chats.b, "A fact", requested_by=ann),
        ):
            with pytest.raises(SessionNotFound):
                act()
        assert osvi_sandbox.requests == []
        assert close_session(chats.a, requested_by=ann).session.status == "closed"

    def test_session_outside_without_permission_is_not_allowed(self, user_of, tenants, chats):
        user = user_of("A", "view_chatsession")
        for session in (None, chats.b, chats.a):
            with pytest.raises(NotAllowed):
                require_close(user, session)

    def test_named_agent_of_session_outside_is_not_asked(self, ann, chats, osvi_sandbox):
        """It looks as if OSVI did not know it, and must not be closed with the user's agent."""
        errors = []
        for session_id in (chats.b.session_id, "unknown"):
            with pytest.raises(SessionNotFound) as caught:
                close_session_by_id(session_id, agent_uuid="agent_of_a", requested_by=ann)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
        assert not any(chats.b.session_id in each.path for each in osvi_sandbox.requests)
        chats.b.refresh_from_db()
        assert chats.b.status == "active"

    @pytest.mark.parametrize("only", ["OSVI_SESSIONS_FOR", "OSVI_AGENTS_FOR"])
    def test_unknown_session_is_not_closed_if_osvi_does_not_check_its_agent(
        self, ann, chats, osvi_sandbox, settings, only
    ):
        other = {"OSVI_SESSIONS_FOR", "OSVI_AGENTS_FOR"} - {only}
        setattr(settings, other.pop(), None)
        settings.OSVI["default"]["CLOSE_WITH"] = "v1"
        foreign = chats.b.session_id
        ChatSession.objects.filter(pk=chats.b.pk).delete()
        for act in (close_session_by_id, create_close_job_by_id):
            with suppress(SessionNotFound):
                act(foreign, agent_uuid="agent_of_a", requested_by=ann)
        assert osvi_sandbox.requests == []
        assert osvi_sandbox.sessions[foreign].status == "active"
        assert not ChatSession.objects.filter(session_id=foreign).exists()
        # The host's own code is not narrowed.
        assert close_session_by_id(foreign, agent_uuid="agent_of_b").session.status == "closed"

    def test_unknown_session_needs_agent_inside(self, ann, chats, osvi_sandbox):
        for agent in ("agent_of_b", "agent_of_nobody"):
            with pytest.raises(InvalidInput, match="no such agent") as caught:
                close_session_by_id("unknown", agent_uuid=agent, requested_by=ann)
            assert caught.value.field == "agent_uuid"
        assert osvi_sandbox.requests == []
        assert not ChatAgent.objects.filter(uuid="agent_of_nobody").exists()

    def test_unsafe_id_of_session_outside_is_invalid_as_if_unknown(self, ann, chats):
        ChatSession.objects.filter(pk=chats.b.pk).update(session_id="b/../1")
        for session_id in ("b/../1", "x/../1"):
            with pytest.raises(InvalidInput, match="not safe in a URL"):
                close_session_by_id(session_id, agent_uuid="agent_of_a", requested_by=ann)

    def test_agent_of_known_session_is_not_moved_outside(self, ann, osvi_sandbox, chats):
        named = mirror(osvi_sandbox, agent=chats.a.agent, customer_id="")
        with pytest.raises(InvalidInput, match="no such agent"):
            close_session_by_id(named.session_id, agent_uuid="agent_of_b", requested_by=ann)

    def test_caller_that_cannot_be_loaded_is_asked_for_by_its_names(self, tenants, chats):
        requester = requester_of(TokenUser("A"))
        require_close(requester, chats.a)
        with pytest.raises(SessionNotFound):
            require_close(requester, chats.b)


class TestCustomers:
    def test_look_up_returns_and_counts_what_is_inside(self, ann, chats, osvi_sandbox):
        customer = "+15550001"
        mine = mirror(osvi_sandbox, agent=chats.a.agent, customer_id=customer)
        mirror(osvi_sandbox, agent=chats.b.agent, customer_id=customer)
        found = look_up_customer(customer, requested_by=ann)
        assert [each.pk for each in found.sessions] == [mine.pk]
        assert (found.listed, found.dormant, found.unknown) == (1, 0, 0)
        assert look_up_customer(customer).listed == 2

    def test_start_with_agent_outside_is_refused_as_unknown(self, ann, chats, osvi_sandbox):
        errors = set()
        for agent, account in (
            ("agent_of_b", None),
            ("agent_of_b", "default"),
            ("agent_of_nobody", None),
        ):
            with pytest.raises(InvalidInput) as caught:
                start_session(agent_uuid=agent, customer_id="+1", account=account, requested_by=ann)
            errors.add((str(caught.value), caught.value.field))
        assert len(errors) == 1
        assert osvi_sandbox.requests == []

    def test_start_does_not_name_open_session_outside(self, ann, chats, settings):
        settings.OSVI_SESSIONS_FOR = lambda _user, _purpose: ChatSession.objects.none()
        wanted = {"agent_uuid": "agent_of_a", "customer_id": chats.a.customer_id}
        for replace in (False, True):
            with pytest.raises(AlreadyOpen) as caught:
                start_session(**wanted, replace=replace, requested_by=ann)
            assert caught.value.session is None
            assert chats.a.session_id not in str(caught.value)

    def test_account_is_chosen_among_agents_inside(self, ann, chats, settings, osvi_sandbox):
        settings.OSVI["eu"] = {**settings.OSVI["default"]}
        ChatAgentFactory(name="B two", uuid="agent_of_a", account="eu", number=7)
        session = start_session(agent_uuid="agent_of_a", customer_id="+2", requested_by=ann)
        assert session.agent.account == "default"

    def test_summaries_outside_are_not_shared(self, ann, chats, settings, osvi_sandbox):
        settings.OSVI["default"]["SHARE_SUMMARIES"] = 2
        for agent, text in ((chats.a.agent, "Of A."), (chats.b.agent, "Of B.")):
            ClosedSessionFactory(agent=agent, customer_id="+3", summary__text=text)
        start_session(agent_uuid="agent_of_a", customer_id="+3", requested_by=ann)
        assert osvi_sandbox.requests[-1].body["context"] == ["Of A."]


class TestSearch:
    def test_search_finds_only_what_is_inside(self, ann, bob, chats):
        for chat, word in ((chats.a, "tenant"), (chats.b, "tenant")):
            ClosedSessionFactory(agent=chat.agent, summary__text=f"The {word} called.")
        for user, own in ((ann, chats.a), (bob, chats.b)):
            for text in ("tenant", chats.a.customer_id, chats.b.session_id):
                found = search_sessions(text, requested_by=user).sessions
                assert {each.agent_id for each in found} <= {own.agent_id}
            assert search_sessions("tenant", requested_by=user).sessions.count() == 1

    def test_summary_that_may_not_be_read_is_not_searched(self, ann, chats, settings):
        ClosedSessionFactory(agent=chats.a.agent, summary__text="A parrot.")
        assert search_sessions("parrot", requested_by=ann).keys

        def no_summaries(user, purpose):
            sessions = functions.sessions_for(user, purpose)
            return sessions.none() if purpose == "view_summary" else sessions

        settings.OSVI_SESSIONS_FOR = no_summaries
        assert not search_sessions("parrot", requested_by=ann).keys


class TestExports:
    def test_export_has_only_what_is_inside(self, user_of, tenants, chats):
        names = ("view_chatsession", "export_chatsession", "view_sessionsummary")
        user = user_of("A", *names)
        exported = export_sessions(SessionFilter(), file_format="csv", requested_by=user)
        text = b"".join(exported).decode()
        assert chats.a.session_id in text
        assert chats.b.session_id not in text
        assert {"view", "export", "view_summary"} <= set(functions.seen_purposes)


class TestJobs:
    def test_unknown_id_with_agent_inside_ends_as_one_outside(self, ann, chats, osvi_sandbox):
        """OSVI is asked about the unknown one only, so its words would tell which one is known."""
        results = []
        for session_id in (chats.b.session_id, "unknown"):
            job = create_close_job_by_id(session_id, agent_uuid="agent_of_a", requested_by=ann)
            run_close_job(job.pk)
            item = job.items.get()
            results.append((item.outcome, item.error_code, item.error_reason))
        assert results == [("not_found", "not_found", "")] * 2

    def test_ids_outside_are_as_unknown(self, ann, chats):
        job = create_close_job(
            [chats.a.session_id, chats.b.session_id, "unknown"], requested_by=ann
        )
        run_close_job(job.pk)
        assert outcomes_of(job) == [
            (chats.a.session_id, "closed", "", chats.a.pk),
            (chats.b.session_id, "not_found", "not_found", None),
            ("unknown", "not_found", "not_found", None),
        ]
        assert set(job.items.exclude(outcome="closed").values_list("account", flat=True)) == {""}
        chats.b.refresh_from_db()
        assert chats.b.status == "active"

    def test_filter_chooses_only_inside(self, ann, chats):
        job = create_close_job(SessionFilter(), requested_by=ann)
        assert [each[0] for each in outcomes_of(job)] == [chats.a.session_id]
        assert job.total == 1

    def test_filter_of_user_who_sees_none_chooses_none(self, ann, chats, settings):
        settings.OSVI_SESSIONS_FOR = functions.only_close
        assert create_close_job(SessionFilter(), requested_by=ann).total == 0

    def test_access_withdrawn_since_is_obeyed(self, ann, chats):
        job = create_close_job([chats.a], requested_by=ann)
        type(ann).objects.filter(pk=ann.pk).update(first_name="B")
        run_close_job(job.pk)
        ((_id, outcome, code, _session),) = outcomes_of(job)
        assert (outcome, code) == ("not_found", "not_found")
        chats.a.refresh_from_db()
        assert chats.a.status == "active"

    def test_access_withdrawn_since_is_obeyed_with_goodbye(self, ann, chats, osvi_sandbox):
        job = create_close_job([chats.a], requested_by=ann, goodbye="Bye")
        type(ann).objects.filter(pk=ann.pk).update(first_name="B")
        run_close_job(job.pk)
        assert outcomes_of(job)[0][1] == "not_found"
        assert osvi_sandbox.requests == []

    def test_job_of_caller_that_cannot_be_loaded_is_narrowed(self, tenants, chats):
        job = create_close_job([chats.a, chats.b], requested_by=TokenUser("A"))
        run_close_job(job.pk)
        assert [each[1] for each in outcomes_of(job)] == ["closed", "not_found"]

    def test_failing_function_closes_nothing(self, ann, chats, settings, osvi_sandbox):
        job = create_close_job([chats.a], requested_by=ann)
        settings.OSVI_SESSIONS_FOR = functions.broken
        run_close_job(job.pk)
        assert outcomes_of(job)[0][1:3] == ("not_sent", "not_configured")
        assert osvi_sandbox.requests == []

    def test_job_of_another_is_visible_if_all_of_it_is_inside(self, ann, bob, chats):
        jobs = [
            create_close_job(wanted, requested_by=bob)
            for wanted in ([chats.a], [chats.b], [chats.a, chats.b], ["unknown"])
        ]
        assert set(visible_jobs(bob)) == set(jobs)
        # B's user could not reach the session of A.
        assert set(visible_jobs(ann)) == set()
        mine = create_close_job([chats.a], requested_by=ann)
        also_mine = create_close_job([chats.a])
        mixed = create_close_job([chats.a, chats.b])
        create_close_job(SessionFilter(customer_id="+0"))
        assert set(visible_jobs(ann)) == {mine, also_mine}
        with pytest.raises(NotAllowed):
            cancel_close_job(mixed, requested_by=ann)

    def test_retry_has_only_what_is_inside(self, ann, chats, osvi_sandbox):
        osvi_sandbox.script(chats.a.session_id, Status(422))
        job = create_close_job([chats.a.session_id, chats.b.session_id], requested_by=ann)
        run_close_job(job.pk)
        retry = retry_close_job(job, requested_by=ann)
        assert [each[0] for each in outcomes_of(retry)] == [chats.a.session_id]

    def test_retry_of_only_ids_outside_is_refused_as_of_unknown(self, ann, chats):
        errors = []
        for session_id in (chats.b.session_id, "unknown"):
            job = create_close_job([session_id], requested_by=ann)
            with pytest.raises(InvalidInput) as caught:
                retry_close_job(job, requested_by=ann)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]

    def test_user_with_grants_and_without_access_may_close_none(self, user_of, tenants, chats):
        user = user_of("A", "view_chatsession")
        for session in (chats.a, chats.b):
            with pytest.raises(NotAllowed):
                create_close_job([session], requested_by=user)
