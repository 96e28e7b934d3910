"""A first close of a session that is not known here, and that was not closed: nothing is left."""

from __future__ import annotations

import threading

import pytest
from django.db import connection

from osvi_django.client import throttle
from osvi_django.exceptions import (
    Busy,
    CloseInProgress,
    InvalidInput,
    NotAllowed,
    OSVIError,
    OSVINotConfigured,
    OSVIRejected,
    SessionNotFound,
)
from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, CloseJob
from osvi_django.services import close_again, close_session_by_id
from osvi_django.services.by_id import create_close_job_by_id
from osvi_django.services.jobs import cancel_close_job, create_close_job, run_close_job
from osvi_django.services.mirroring import (
    mirror_by_id,
    mirror_session,
    mirror_started,
    remove_unknown,
)
from osvi_django.signals import session_close_failed
from osvi_django.testing import Drop, Junk, Status
from osvi_django.testing.factories import ChatAgentFactory, SupportActionFactory
from tests.helpers.callers import PermittedCaller, RevokingBackend
from tests.helpers.database import call_after_queries
from tests.helpers.sandbox import CallThenAnswer, mirror
from tests.helpers.waiting import run_in_thread

pytestmark = pytest.mark.django_db

CLOSE = "/api/osvi/sessions/s-1/close/"
BODY = {"agent_uuid": "agent_1"}
STARTED = {"session_id": "s-1", "started_at": "2026-06-04T11:40:25", "agent_name": "Maya"}
SESSION = {
    "id": "s-1",
    "chat_agent_id": 42,
    "account_id": 7,
    "customer_id": "+1555",
    "mode": "ai",
    "help_requested": False,
    "status": "active",
    "current_state": None,
    "metadata": {},
    "active_human": None,
    "created_at": "2026-06-04T11:40:25.690486Z",
    "updated_at": "2026-06-04T11:40:25.690486Z",
}
ASYNC = {"Prefer": "respond-async"}
PATIENCE = 60  # seconds


def in_thread(key):
    """Run a job, and leave no connection to its thread."""
    try:
        run_close_job(key)
    finally:
        connection.close()


def answered(fault):
    """Return what has OSVI answer so, each time."""
    return lambda osvi, _account: osvi.script("s-1", *[fault] * 9)


def unreachable(_osvi, account):
    account["BASE_URL"] = "http://127.0.0.1:9"


def no_token(_osvi, account):
    account["API_TOKEN"] = ""


def failing_token(_osvi, account):
    def token():
        raise RuntimeError

    account["API_TOKEN"] = token


PAGE = b"<html>No</html>"
# What ends a job, and what pauses it: by name, what goes wrong, the code of the error, and what the
# item of a job says.
FOR_GOOD = {
    "400": (answered(Status(400, errors=["No"])), "rejected", "rejected"),
    "403": (answered(Status(403, errors=["Not yours"])), "rejected", "rejected"),
    "404": (answered(Status(404, errors=["None"])), "not_found", "not_found"),
    "409": (answered(Status(409, errors=["Not active"])), "rejected", "rejected"),
    "422": (answered(Status(422, errors=["Wrong agent"])), "rejected", "rejected"),
    "proxy 403": (answered(Status(403, body=PAGE)), "gateway_refused", "not_sent"),
    "proxy 404": (answered(Status(404, body=PAGE)), "gateway_refused", "not_sent"),
}
FOR_NOW = {
    "401": (answered(Status(401)), "unauthorized"),
    "429": (answered(Status(429, retry_after=90)), "throttled"),
    "503": (answered(Status(503, retry_after=90)), "throttled"),
    "unreachable": (unreachable, "unreachable"),
    "a token cannot": (no_token, "not_configured"),
    "failing token": (failing_token, "not_configured"),
}
IN_DOUBT = {
    "500": Status(500),
    "502": Status(502, body=PAGE),
    "drop": Drop(),
    "junk": Junk(),
    "drop, closed": Drop(after_closing=True),
}
NOT_CLOSED = {**{name: each[:2] for name, each in FOR_GOOD.items()}, **FOR_NOW}


def table(faults):
    """Return these as arguments of ``parametrize``."""
    return [pytest.param(*each, id=name) for name, each in faults.items()]


def close(**named):
    return close_session_by_id("s-1", agent_uuid="agent_1", **named)


def nothing_is_left():
    return not any(each.objects.exists() for each in (ChatSession, ChatAgent, CloseAttempt))


@pytest.fixture
def at_first_sight(settings):
    """Let whoever asks be allowed to close once, and not when it is asked again."""
    settings.AUTHENTICATION_BACKENDS = [f"{RevokingBackend.__module__}.{RevokingBackend.__name__}"]
    yield lambda: RevokingBackend.once.append("osvi_django.close_chatsession")
    RevokingBackend.once.clear()


@pytest.fixture
def go_wrong(osvi_sandbox, settings):
    return lambda fault: fault(osvi_sandbox, settings.OSVI["default"])


class TestAlone:
    @pytest.mark.parametrize(("fault", "code"), table(NOT_CLOSED))
    def test_nothing_is_left(self, go_wrong, fault, code):
        go_wrong(fault)
        with pytest.raises((OSVIError, OSVINotConfigured)) as caught:
            close()
        assert caught.value.code == code
        assert caught.value.attempt is None
        assert nothing_is_left()

    @pytest.mark.parametrize(("fault", "code"), table(NOT_CLOSED))
    def test_over_rest(self, api, go_wrong, fault, code):
        go_wrong(fault)
        response = api.post(CLOSE, BODY, format="json")
        assert response.json()["code"] == code
        assert nothing_is_left()

    @pytest.mark.parametrize(("fault", "code"), table(NOT_CLOSED))
    @pytest.mark.parametrize("dialect", ["legacy", "v1"])
    def test_one_that_was_here_before_stays_as_it_was(
        self, go_wrong, settings, fault, code, dialect
    ):
        settings.OSVI["default"]["CLOSE_WITH"] = dialect
        mirror_by_id("s-1", agent_uuid="agent_1", account="default")
        go_wrong(fault)
        with pytest.raises((OSVIError, OSVINotConfigured)) as caught:
            close()
        assert caught.value.code == ("rejected" if code == "not_found" else code)
        assert ChatSession.objects.get().status == "active"

    @pytest.mark.parametrize("fault", IN_DOUBT.values(), ids=IN_DOUBT)
    def test_one_that_may_be_closed_stays(self, osvi_sandbox, fault):
        osvi_sandbox.script("s-1", fault)
        with pytest.raises(OSVIError):
            close()
        assert ChatSession.objects.get().status == "unconfirmed"

    def test_one_that_was_only_refused_in_the_end_stays(self, osvi_sandbox):
        osvi_sandbox.script("s-1", Drop(), Status(403, errors=["Not yours"]))
        for _time in range(2):
            with pytest.raises(OSVIError):
                close()
        assert ChatSession.objects.get().status == "unconfirmed"
        with pytest.raises(OSVIError):
            close_again(ChatSession.objects.get())
        assert ChatSession.objects.exists()

    def test_an_agent_that_was_here_stays(self, go_wrong):
        agent = ChatAgentFactory(uuid="agent_1")
        go_wrong(unreachable)
        with pytest.raises(OSVIError):
            close()
        assert ChatAgent.objects.get() == agent
        assert not ChatSession.objects.exists()

    def test_it_can_be_closed_when_all_is_well(self, osvi_sandbox):
        osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
        osvi_sandbox.script("s-1", Status(401))
        with pytest.raises(OSVIRejected):
            close()
        assert close().summary.text == "Fine."

    @pytest.mark.parametrize("note", ["x" * 1001, 5])
    def test_a_note_that_cannot_be_used(self, osvi_sandbox, note):
        with pytest.raises(InvalidInput) as caught:
            close(note=note)
        assert caught.value.field == "note"
        assert nothing_is_left()
        assert osvi_sandbox.requests == []

    def test_whoever_asked_to_wait(self, osvi_sandbox):
        osvi_sandbox.script("other", Status(429, retry_after=90))
        mirror_by_id("other", agent_uuid="agent_2", account="default")
        with pytest.raises(OSVIRejected):
            close_session_by_id("other")
        with pytest.raises(OSVIRejected):
            close()
        assert osvi_sandbox.close_requests("s-1") == 0
        assert not ChatSession.objects.filter(session_id="s-1").exists()

    @pytest.mark.django_db(transaction=True)
    def test_where_too_many_wait(self, osvi_sandbox, settings):
        """A web request finds no place while another waits for OSVI."""
        settings.OSVI_MAX_SYNC_CALLS = 1
        errors = []

        def close_too():
            with pytest.raises(Busy) as caught:
                close(via="rest")
            errors.append(caught.value)

        mirror(osvi_sandbox, session_id="other")
        osvi_sandbox.script("other", CallThenAnswer(close_too))
        assert close_session_by_id("other", via="rest").changed
        assert len(errors) == 1
        assert not ChatSession.objects.filter(session_id="s-1").exists()

    def test_whoever_may_not_close_it_any_more(self, staff, osvi_sandbox, at_first_sight):
        at_first_sight()
        with pytest.raises(NotAllowed):
            close(requested_by=staff)
        assert nothing_is_left()
        assert osvi_sandbox.requests == []

    def test_settings_that_cannot_be_used(self, osvi_sandbox, settings):
        settings.OSVI["default"]["LEASE_TIMEOUT"] = "long"
        with pytest.raises(OSVINotConfigured):
            close()
        assert nothing_is_left()

    def test_whoever_listens_is_told_all_the_same(self, go_wrong):
        heard = []

        def hear(session, error, attempt, **_named):
            heard.append((session.session_id, error.code, attempt.pk is not None))

        go_wrong(unreachable)
        session_close_failed.connect(hear)
        try:
            with pytest.raises(OSVIError):
                close()
        finally:
            session_close_failed.disconnect(hear)
        assert heard == [("s-1", "unreachable", True)]


class WhileItIsRemoved(PermittedCaller):
    """A caller who asks at that moment: what they may do is looked at after the row was found."""

    def has_perm(self, permission, obj=None):
        ChatSession.objects.all().delete()
        return super().has_perm(permission, obj)


@pytest.mark.django_db(transaction=True)
class TestMeanwhile:
    """What is heard of it, or done with it, while OSVI is asked."""

    REFUSED = Status(403, errors=["Not yours"])

    @pytest.mark.parametrize(
        "use",
        [
            lambda session: SupportActionFactory(session=session),
            lambda session: create_close_job([session], start=False),
            lambda _session: mirror_started(STARTED, agent_uuid="agent_1"),
            lambda _session: mirror_started(STARTED, agent_uuid="agent_1", customer_id="+1555"),
            lambda _session: mirror_session(SESSION, agent_uuid="agent_1"),
        ],
    )
    def test_one_that_others_use_by_now_stays(self, osvi_sandbox, use):
        osvi_sandbox.script("s-1", CallThenAnswer(lambda: use(ChatSession.objects.get())))
        with pytest.raises((SessionNotFound, OSVIRejected)):
            close()
        session = ChatSession.objects.get()
        assert (session.status, session.attempts.get().outcome) == ("active", "rejected")

    @pytest.mark.parametrize(
        ("known", "ids", "error"),
        [
            ({}, {"agent_uuid": "agent_1"}, CloseInProgress),
            ({}, {}, SessionNotFound),
            ({"customer_id": "+1555"}, {"agent_uuid": "agent_1"}, SessionNotFound),
        ],
    )
    def test_one_that_is_removed_before_it_is_claimed(self, osvi_sandbox, known, ids, error):
        """As another caller removes it, who had begun before and was refused."""
        mirror_by_id("s-1", agent_uuid="agent_1", account="default", **known)
        with pytest.raises(error):
            close_session_by_id("s-1", requested_by=WhileItIsRemoved(), **ids)
        assert osvi_sandbox.requests == []
        if ids:  # and it looks again
            with pytest.raises(SessionNotFound):
                close()

    @pytest.mark.parametrize(
        "tell",
        [
            lambda: mirror_started(STARTED, agent_uuid="agent_1"),
            lambda: mirror_started(STARTED, agent_uuid="agent_1", customer_id="+1555"),
            lambda: mirror_session(SESSION, agent_uuid="agent_1"),
        ],
    )
    def test_one_that_is_removed_while_it_is_told_of_is_mirrored(self, tell):
        """The row was found, and is gone when what is known of it is to be written."""
        mirror_by_id("s-1", agent_uuid="agent_1", account="default")

        def remove(execute, sql, params, many, context):
            if sql.startswith("UPDATE") and "chatsession" in sql and not removed:
                removed.append(None)
                ChatSession.objects.filter(session_id="s-1").delete()
            return execute(sql, params, many, context)

        removed = []
        with connection.execute_wrapper(remove):
            session = tell()
        assert removed
        assert ChatSession.objects.get() == session

    def test_of_two_callers_one_is_refused_and_one_closes(self, osvi_sandbox):
        osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
        osvi_sandbox.script("s-1", self.REFUSED)
        ends, start = [], threading.Barrier(2, timeout=PATIENCE)

        def close_until_told():
            try:
                start.wait()
                while True:
                    try:
                        ends.append(close().summary.text)
                    except CloseInProgress:
                        continue
                    except OSVIRejected as error:
                        ends.append(error.code)
                    return
            finally:
                connection.close()

        threads = [threading.Thread(target=close_until_told) for _each in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ends) == ["Fine.", "rejected"]
        session = ChatSession.objects.get()
        assert (session.status, session.summary.text) == ("closed", "Fine.")


class TestAsJob:
    @pytest.fixture(autouse=True)
    def waiting(self, settings, monkeypatch):
        settings.OSVI_EXECUTOR = None
        monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.05, 0.05))

    @staticmethod
    def accepted(api):
        response = api.post(CLOSE, BODY, format="json", headers=ASYNC)
        assert response.status_code == 202
        return CloseJob.objects.latest("pk")

    @pytest.mark.parametrize(("fault", "code", "outcome"), table(FOR_GOOD))
    def test_nothing_is_left(self, api, go_wrong, fault, code, outcome):
        job = self.accepted(api)
        go_wrong(fault)
        job = run_close_job(job.pk)
        item = job.items.get()
        assert (item.outcome, item.error_code, item.requested_session_id) == (outcome, code, "s-1")
        assert (item.session, item.attempt) == (None, None)
        assert (job.status, job.failed) == ("completed_with_errors", 1)
        assert nothing_is_left()

    @pytest.mark.parametrize(("fault", "code"), table(FOR_NOW))
    def test_one_that_waits_stays_until_the_end(self, api, go_wrong, osvi_sandbox, fault, code):
        job = self.accepted(api)
        go_wrong(fault)
        job = run_close_job(job.pk)
        assert (job.status, job.paused_by) == ("paused", code)
        assert ChatSession.objects.get().status == "active"
        job = cancel_close_job(job)
        assert (job.status, job.items.get().outcome) == ("cancelled", "cancelled")
        assert nothing_is_left()

    def test_one_that_waited_and_is_refused_then(self, api, osvi_sandbox, settings):
        job = self.accepted(api)
        there = settings.OSVI["default"]["BASE_URL"]
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:9"
        assert run_close_job(job.pk).status == "paused"
        assert CloseAttempt.objects.filter(outcome="not_sent").exists()
        settings.OSVI["default"]["BASE_URL"] = there
        osvi_sandbox.script("s-1", Status(403, errors=["Not yours"]))
        assert run_close_job(job.pk).items.get().outcome == "rejected"
        assert nothing_is_left()

    def test_session_that_another_has_tried_meanwhile_goes_with_the_last(self, api, osvi_sandbox):
        job = self.accepted(api)
        osvi_sandbox.script("s-1", *[Status(403, errors=["Not yours"])] * 2)
        with pytest.raises(OSVIRejected):
            close(via="command")
        assert ChatSession.objects.get().attempts.count() == 1  # the job's turn is still to come
        assert run_close_job(job.pk).items.get().outcome == "rejected"
        assert nothing_is_left()

    def test_session_of_several_jobs_goes_with_the_last(self, api, osvi_sandbox):
        jobs = [self.accepted(api) for _number in range(2)]
        jobs.append(create_close_job(["s-1"], start=False))
        for job in jobs:
            assert ChatSession.objects.exists()
            assert run_close_job(job.pk).items.get().outcome == "not_found"
        assert nothing_is_left()

    @pytest.mark.django_db(transaction=True)
    def test_session_of_several_jobs_at_once_goes_with_the_last(self, api, osvi_sandbox):
        jobs = [self.accepted(api) for _number in range(3)]
        threads = [threading.Thread(target=in_thread, args=[job.pk]) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {job.items.get().outcome for job in jobs} == {"not_found"}
        assert nothing_is_left()

    def test_session_in_which_nothing_could_be_done_goes_all_the_same(self, api, osvi_sandbox):
        job = self.accepted(api)
        for outcome in ("not_sent", "rejected"):
            SupportActionFactory(session=ChatSession.objects.get(), outcome=outcome)
        assert run_close_job(job.pk).items.get().outcome == "not_found"
        assert nothing_is_left()

    def test_session_in_which_something_may_have_been_done_stays(self, api, osvi_sandbox):
        job = self.accepted(api)
        SupportActionFactory(session=ChatSession.objects.get(), outcome="no_answer")
        assert run_close_job(job.pk).items.get().outcome == "not_found"
        assert ChatSession.objects.get().status == "active"

    def test_one_that_is_cancelled_before_it_begins(self, api, osvi_sandbox):
        cancel_close_job(self.accepted(api))
        assert nothing_is_left()
        assert osvi_sandbox.requests == []

    def test_one_that_was_heard_of_before_the_end_stays(self, api, osvi_sandbox):
        job = self.accepted(api)
        mirror_started(STARTED, agent_uuid="agent_1")
        osvi_sandbox.script("s-1", Status(403, errors=["Not yours"]))
        assert run_close_job(job.pk).items.get().outcome == "rejected"
        cancel_close_job(job)
        assert ChatSession.objects.get().status == "active"

    def test_one_whose_asker_may_not_close_any_more(self, api, staff, osvi_sandbox):
        job = self.accepted(api)
        staff.user_permissions.clear()
        assert run_close_job(job.pk).items.get().outcome == "not_allowed"
        assert nothing_is_left()
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("fault", IN_DOUBT.values(), ids=IN_DOUBT)
    def test_one_that_may_be_closed_stays(self, api, osvi_sandbox, fault):
        job = self.accepted(api)
        osvi_sandbox.script("s-1", fault)
        assert run_close_job(job.pk).items.get().outcome == "unconfirmed"
        assert ChatSession.objects.get().status == "unconfirmed"

    def test_one_that_is_closed_stays(self, api, osvi_sandbox):
        osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
        job = run_close_job(self.accepted(api).pk)
        cancel_close_job(job)
        assert ChatSession.objects.get().summary.text == "Fine."

    @pytest.mark.django_db(transaction=True)
    def test_a_note_that_cannot_be_used(self, api):
        response = api.post(CLOSE, BODY | {"note": "x" * 1001}, format="json", headers=ASYNC)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert nothing_is_left()

    @pytest.mark.django_db(transaction=True)
    def test_settings_that_cannot_be_used(self, api, osvi_sandbox, settings):
        settings.OSVI["default"]["LEASE_TIMEOUT"] = "long"
        response = api.post(CLOSE, BODY, format="json", headers=ASYNC)
        assert (response.status_code, response.json()["code"]) == (503, "not_configured")
        assert nothing_is_left()

    def test_whoever_may_not_close_it_any_more(self, staff, at_first_sight):
        at_first_sight()
        with pytest.raises(NotAllowed):
            create_close_job_by_id("s-1", agent_uuid="agent_1", requested_by=staff)
        assert nothing_is_left()


@pytest.mark.django_db(transaction=True)
def test_job_of_a_session_that_another_request_removes_meanwhile_does_not_find_it():
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer: nothing is removed while the job is written")
    mirror_by_id("s-1", agent_uuid="agent_1", account="default", is_unverified=True)
    session, removed = ChatSession.objects.get(), []

    def is_look(sql, _params):
        return not removed and "chatsession" in sql and " IN " in sql

    def remove():
        removed.append(True)
        run_in_thread(lambda: removed.append(remove_unknown(session)))

    with call_after_queries(is_look, remove):
        job = create_close_job([session], start=False)
    assert removed == [True, True]
    assert (job.items.get().outcome, job.items.get().session, job.failed) == ("not_found", None, 1)


@pytest.mark.django_db(transaction=True)
def test_session_of_a_new_job_is_not_removed_by_another_request():
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer: nothing is removed while the job is written")
    mirror_by_id("s-1", agent_uuid="agent_1", account="default", is_unverified=True)
    session, removed = ChatSession.objects.get(), []
    another = threading.Thread(
        target=run_in_thread, args=[lambda: removed.append(remove_unknown(session))]
    )

    def is_item(sql, _params):
        return not another.ident and sql.startswith("INSERT") and "closejobitem" in sql

    with call_after_queries(is_item, another.start):
        job = create_close_job([session], start=False)
    another.join()
    assert removed == [False]
    assert job.items.get().session == session
