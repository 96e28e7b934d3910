"""Test that a close of an unknown session leaves no rows if the session is not closed."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial

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
from tests.services.helpers import STARTED, run_at_once, run_together, session_object

pytestmark = pytest.mark.django_db

CLOSE = "/api/osvi/sessions/s-1/close/"
BODY = {"agent_uuid": "agent_1"}
ASYNC = {"Prefer": "respond-async"}
PATIENCE = 60  # seconds


def answering(fault):
    """Return a function that lets OSVI answer each request like this."""
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
# What ends a job, and what pauses it. By name: the fault, the code of the error, and the outcome of
# the job's item.
FOR_GOOD = {
    "400": (answering(Status(400, errors=["No"])), "rejected", "rejected"),
    "403": (answering(Status(403, errors=["Not yours"])), "rejected", "rejected"),
    "404": (answering(Status(404, errors=["None"])), "not_found", "not_found"),
    "409": (answering(Status(409, errors=["Not active"])), "rejected", "rejected"),
    "422": (answering(Status(422, errors=["Wrong agent"])), "rejected", "rejected"),
    "proxy 403": (answering(Status(403, body=PAGE)), "gateway_refused", "not_sent"),
    "proxy 404": (answering(Status(404, body=PAGE)), "gateway_refused", "not_sent"),
}
FOR_NOW = {
    "401": (answering(Status(401)), "unauthorized"),
    "429": (answering(Status(429, retry_after=90)), "busy_at_osvi"),
    "503": (answering(Status(503, retry_after=90)), "busy_at_osvi"),
    "unreachable": (unreachable, "unreachable"),
    "no token": (no_token, "not_configured"),
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


def parameters(faults):
    """Return these faults as arguments of ``parametrize``."""
    return [pytest.param(*each, id=name) for name, each in faults.items()]


def close(**named):
    return close_session_by_id("s-1", agent_uuid="agent_1", **named)


def is_database_empty():
    return not any(each.objects.exists() for each in (ChatSession, ChatAgent, CloseAttempt))


@pytest.fixture
def allow_once(settings):
    """Return a function that grants the permission to close for one check only."""
    settings.AUTHENTICATION_BACKENDS = [f"{RevokingBackend.__module__}.{RevokingBackend.__name__}"]
    yield lambda: RevokingBackend.once.append("osvi_django.close_chatsession")
    RevokingBackend.once.clear()


@pytest.fixture
def break_osvi(osvi_sandbox, settings):
    return lambda fault: fault(osvi_sandbox, settings.OSVI["default"])


class TestCloseById:
    @pytest.mark.parametrize(("fault", "code"), parameters(NOT_CLOSED))
    def test_close_by_id_when_not_closed_leaves_no_rows(self, break_osvi, fault, code):
        break_osvi(fault)
        with pytest.raises((OSVIError, OSVINotConfigured)) as caught:
            close()
        assert caught.value.code == code
        assert caught.value.attempt is None
        assert is_database_empty()

    @pytest.mark.parametrize(("fault", "code"), parameters(NOT_CLOSED))
    def test_rest_close_when_not_closed_leaves_no_rows(self, api, break_osvi, fault, code):
        break_osvi(fault)
        response = api.post(CLOSE, BODY, format="json")
        assert response.json()["code"] == code
        assert is_database_empty()

    @pytest.mark.parametrize(("fault", "code"), parameters(NOT_CLOSED))
    @pytest.mark.parametrize("dialect", ["legacy", "v1"])
    def test_close_by_id_when_not_closed_keeps_known_session(
        self, break_osvi, settings, fault, code, dialect
    ):
        settings.OSVI["default"]["CLOSE_WITH"] = dialect
        mirror_by_id("s-1", agent_uuid="agent_1", account="default")
        break_osvi(fault)
        with pytest.raises((OSVIError, OSVINotConfigured)) as caught:
            close()
        assert caught.value.code == ("unknown_at_osvi" if code == "not_found" else code)
        assert ChatSession.objects.get().status == "active"

    @pytest.mark.parametrize("fault", IN_DOUBT.values(), ids=IN_DOUBT)
    def test_close_by_id_without_usable_answer_keeps_session(self, osvi_sandbox, fault):
        osvi_sandbox.script("s-1", fault)
        with pytest.raises(OSVIError):
            close()
        assert ChatSession.objects.get().status == "unconfirmed"

    def test_close_by_id_when_refused_after_lost_answer_keeps_session(self, osvi_sandbox):
        osvi_sandbox.script("s-1", Drop(), Status(403, errors=["Not yours"]))
        for _time in range(2):
            with pytest.raises(OSVIError):
                close()
        assert ChatSession.objects.get().status == "unconfirmed"
        with pytest.raises(OSVIError):
            close_again(ChatSession.objects.get())
        assert ChatSession.objects.exists()

    def test_close_by_id_when_not_closed_keeps_known_agent(self, break_osvi):
        agent = ChatAgentFactory(uuid="agent_1")
        break_osvi(unreachable)
        with pytest.raises(OSVIError):
            close()
        assert ChatAgent.objects.get() == agent
        assert not ChatSession.objects.exists()

    def test_close_by_id_after_failure_can_be_repeated(self, osvi_sandbox):
        osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
        osvi_sandbox.script("s-1", Status(401))
        with pytest.raises(OSVIRejected):
            close()
        assert close().summary.text == "Fine."

    @pytest.mark.parametrize("note", ["x" * 1001, 5])
    def test_close_by_id_with_invalid_note_leaves_no_rows(self, osvi_sandbox, note):
        with pytest.raises(InvalidInput) as caught:
            close(note=note)
        assert caught.value.field == "note"
        assert is_database_empty()
        assert osvi_sandbox.requests == []

    def test_close_by_id_when_throttled_leaves_no_session(self, osvi_sandbox):
        osvi_sandbox.script("other", Status(429, retry_after=90))
        mirror_by_id("other", agent_uuid="agent_2", account="default")
        with pytest.raises(OSVIRejected):
            close_session_by_id("other")
        with pytest.raises(OSVIRejected):
            close()
        assert osvi_sandbox.close_requests("s-1") == 0
        assert not ChatSession.objects.filter(session_id="s-1").exists()

    @pytest.mark.django_db(transaction=True)
    def test_close_by_id_when_busy_leaves_no_session(self, osvi_sandbox, settings):
        """Refuse a web request while another one waits for OSVI."""
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

    def test_close_by_id_when_permission_is_lost_leaves_no_rows(
        self, staff, osvi_sandbox, allow_once
    ):
        allow_once()
        with pytest.raises(NotAllowed):
            close(requested_by=staff)
        assert is_database_empty()
        assert osvi_sandbox.requests == []

    def test_close_by_id_with_invalid_setting_leaves_no_rows(self, osvi_sandbox, settings):
        settings.OSVI["default"]["LEASE_TIMEOUT"] = "long"
        with pytest.raises(OSVINotConfigured):
            close()
        assert is_database_empty()

    def test_close_by_id_when_not_closed_sends_close_failed_signal(self, break_osvi):
        heard = []

        def hear(session, error, attempt, **_named):
            heard.append((session.session_id, error.code, attempt.pk is not None))

        break_osvi(unreachable)
        session_close_failed.connect(hear)
        try:
            with pytest.raises(OSVIError):
                close()
        finally:
            session_close_failed.disconnect(hear)
        assert heard == [("s-1", "unreachable", True)]


def close_in_job():
    run_close_job(create_close_job_by_id("s-1", agent_uuid="agent_1").pk)


@pytest.mark.parametrize("close_it", [close, close_in_job])
@pytest.mark.parametrize(
    ("is_known", "code", "message"),
    [
        (False, "not_found", "OSVI does not know this chat session either, so nothing was closed."),
        (True, "unknown_at_osvi", "OSVI does not know a chat session with this id and agent, so "),
    ],
)
def test_close_failed_signal_of_session_unknown_to_osvi_says_that(
    break_osvi, close_it, is_known, code, message
):
    if is_known:
        mirror_by_id("s-1", agent_uuid="agent_1", account="default")
    heard = []

    def hear(error, **_named):
        heard.append((error.code, str(error)))

    break_osvi(answering(Status(404, errors=["None"])))
    session_close_failed.connect(hear)
    try:
        with suppress(OSVIError):
            close_it()
    finally:
        session_close_failed.disconnect(hear)
    [(heard_code, sentence)] = heard
    assert (heard_code, sentence.startswith(message)) == (code, True)
    assert sentence.endswith("OSVI said: “None”")


class DeletesSession(PermittedCaller):
    """Delete the session when the permission is checked, which is after the row was found."""

    def has_perm(self, permission, obj=None):
        ChatSession.objects.all().delete()
        return super().has_perm(permission, obj)


@pytest.mark.django_db(transaction=True)
class TestConcurrentUse:
    """Test changes of the session while OSVI is called."""

    REFUSED = Status(403, errors=["Not yours"])

    @pytest.mark.parametrize(
        "use",
        [
            lambda session: SupportActionFactory(session=session),
            lambda session: create_close_job([session], start=False),
            lambda _session: mirror_started(STARTED, agent_uuid="agent_1"),
            lambda _session: mirror_started(STARTED, agent_uuid="agent_1", customer_id="+1555"),
            lambda _session: mirror_session(session_object(), agent_uuid="agent_1"),
        ],
    )
    def test_close_by_id_when_session_is_used_meanwhile_keeps_it(self, osvi_sandbox, use):
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
    def test_close_by_id_when_session_is_deleted_before_claim_raises(
        self, osvi_sandbox, known, ids, error
    ):
        """Delete the session as another caller does whose close was refused."""
        mirror_by_id("s-1", agent_uuid="agent_1", account="default", **known)
        with pytest.raises(error):
            close_session_by_id("s-1", requested_by=DeletesSession(), **ids)
        assert osvi_sandbox.requests == []
        if ids:  # and it looks again
            with pytest.raises(SessionNotFound):
                close()

    @pytest.mark.parametrize(
        "tell",
        [
            lambda: mirror_started(STARTED, agent_uuid="agent_1"),
            lambda: mirror_started(STARTED, agent_uuid="agent_1", customer_id="+1555"),
            lambda: mirror_session(session_object(), agent_uuid="agent_1"),
        ],
    )
    def test_mirroring_when_session_is_deleted_meanwhile_creates_it_again(self, tell):
        """Delete the row after it was found and before it is updated."""
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

    def test_close_by_id_by_two_callers_is_refused_once_and_closed_once(self, osvi_sandbox):
        osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
        osvi_sandbox.script("s-1", self.REFUSED)
        ends, start = [], threading.Barrier(2, timeout=PATIENCE)

        def close_until_result():
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

        run_at_once(close_until_result, 2)
        assert sorted(ends) == ["Fine.", "rejected"]
        session = ChatSession.objects.get()
        assert (session.status, session.summary.text) == ("closed", "Fine.")


class TestCloseJob:
    @pytest.fixture(autouse=True)
    def no_executor(self, settings, monkeypatch):
        settings.OSVI_EXECUTOR = None
        monkeypatch.setattr(throttle, "PAUSES", (0.05, 0.05, 0.05))

    @staticmethod
    def accepted(api):
        response = api.post(CLOSE, BODY, format="json", headers=ASYNC)
        assert response.status_code == 202
        return CloseJob.objects.latest("pk")

    @pytest.mark.parametrize(("fault", "code", "outcome"), parameters(FOR_GOOD))
    def test_job_when_not_closed_leaves_no_rows(self, api, break_osvi, fault, code, outcome):
        job = self.accepted(api)
        break_osvi(fault)
        job = run_close_job(job.pk)
        item = job.items.get()
        assert (item.outcome, item.error_code, item.requested_session_id) == (outcome, code, "s-1")
        assert (item.session, item.attempt) == (None, None)
        assert (job.status, job.failed) == ("completed_with_errors", 1)
        assert is_database_empty()

    @pytest.mark.parametrize(("fault", "code"), parameters(FOR_NOW))
    def test_job_when_paused_keeps_session_until_cancelled(
        self, api, break_osvi, osvi_sandbox, fault, code
    ):
        job = self.accepted(api)
        break_osvi(fault)
        job = run_close_job(job.pk)
        assert (job.status, job.paused_by) == ("paused", code)
        assert ChatSession.objects.get().status == "active"
        job = cancel_close_job(job)
        assert (job.status, job.items.get().outcome) == ("cancelled", "cancelled")
        assert is_database_empty()

    def test_job_when_refused_after_pause_leaves_no_rows(self, api, osvi_sandbox, settings):
        job = self.accepted(api)
        there = settings.OSVI["default"]["BASE_URL"]
        settings.OSVI["default"]["BASE_URL"] = "http://127.0.0.1:9"
        assert run_close_job(job.pk).status == "paused"
        assert CloseAttempt.objects.filter(outcome="not_sent").exists()
        settings.OSVI["default"]["BASE_URL"] = there
        osvi_sandbox.script("s-1", Status(403, errors=["Not yours"]))
        assert run_close_job(job.pk).items.get().outcome == "rejected"
        assert is_database_empty()

    def test_job_after_failed_single_close_leaves_no_rows(self, api, osvi_sandbox):
        job = self.accepted(api)
        osvi_sandbox.script("s-1", *[Status(403, errors=["Not yours"])] * 2)
        with pytest.raises(OSVIRejected):
            close(via="command")
        assert ChatSession.objects.get().attempts.count() == 1  # a job still needs it
        assert run_close_job(job.pk).items.get().outcome == "rejected"
        assert is_database_empty()

    def test_last_of_several_jobs_leaves_no_rows(self, api, osvi_sandbox):
        jobs = [self.accepted(api) for _number in range(2)]
        jobs.append(create_close_job(["s-1"], start=False))
        for job in jobs:
            assert ChatSession.objects.exists()
            assert run_close_job(job.pk).items.get().outcome == "not_found"
        assert is_database_empty()

    @pytest.mark.django_db(transaction=True)
    def test_several_jobs_at_once_leave_no_rows(self, api, osvi_sandbox):
        jobs = [self.accepted(api) for _number in range(3)]
        assert run_together(*[partial(run_close_job, job.pk) for job in jobs]) == []
        assert {job.items.get().outcome for job in jobs} == {"not_found"}
        assert is_database_empty()

    def test_job_for_session_with_failed_actions_leaves_no_rows(self, api, osvi_sandbox):
        job = self.accepted(api)
        for outcome in ("not_sent", "rejected"):
            SupportActionFactory(session=ChatSession.objects.get(), outcome=outcome)
        assert run_close_job(job.pk).items.get().outcome == "not_found"
        assert is_database_empty()

    def test_job_for_session_with_unconfirmed_action_keeps_session(self, api, osvi_sandbox):
        job = self.accepted(api)
        SupportActionFactory(session=ChatSession.objects.get(), outcome="no_answer")
        assert run_close_job(job.pk).items.get().outcome == "not_found"
        assert ChatSession.objects.get().status == "active"

    def test_job_when_cancelled_before_start_leaves_no_rows(self, api, osvi_sandbox):
        cancel_close_job(self.accepted(api))
        assert is_database_empty()
        assert osvi_sandbox.requests == []

    def test_job_for_session_that_is_mirrored_meanwhile_keeps_it(self, api, osvi_sandbox):
        job = self.accepted(api)
        mirror_started(STARTED, agent_uuid="agent_1")
        osvi_sandbox.script("s-1", Status(403, errors=["Not yours"]))
        assert run_close_job(job.pk).items.get().outcome == "rejected"
        cancel_close_job(job)
        assert ChatSession.objects.get().status == "active"

    def test_job_when_permission_is_lost_leaves_no_rows(self, api, staff, osvi_sandbox):
        job = self.accepted(api)
        staff.user_permissions.clear()
        assert run_close_job(job.pk).items.get().outcome == "not_allowed"
        assert is_database_empty()
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("fault", IN_DOUBT.values(), ids=IN_DOUBT)
    def test_job_without_usable_answer_keeps_session(self, api, osvi_sandbox, fault):
        job = self.accepted(api)
        osvi_sandbox.script("s-1", fault)
        assert run_close_job(job.pk).items.get().outcome == "unconfirmed"
        assert ChatSession.objects.get().status == "unconfirmed"

    def test_job_when_closed_keeps_session(self, api, osvi_sandbox):
        osvi_sandbox.add_session(session_id="s-1", agent_uuid="agent_1", summary="Fine.")
        job = run_close_job(self.accepted(api).pk)
        cancel_close_job(job)
        assert ChatSession.objects.get().summary.text == "Fine."

    @pytest.mark.django_db(transaction=True)
    def test_async_close_with_too_long_note_leaves_no_rows(self, api):
        response = api.post(CLOSE, BODY | {"note": "x" * 1001}, format="json", headers=ASYNC)
        assert (response.status_code, response.json()["code"]) == (400, "invalid")
        assert is_database_empty()

    @pytest.mark.django_db(transaction=True)
    def test_async_close_with_invalid_setting_leaves_no_rows(self, api, osvi_sandbox, settings):
        settings.OSVI["default"]["LEASE_TIMEOUT"] = "long"
        response = api.post(CLOSE, BODY, format="json", headers=ASYNC)
        assert (response.status_code, response.json()["code"]) == (503, "not_configured")
        assert is_database_empty()

    def test_create_job_when_permission_is_lost_leaves_no_rows(self, staff, allow_once):
        allow_once()
        with pytest.raises(NotAllowed):
            create_close_job_by_id("s-1", agent_uuid="agent_1", requested_by=staff)
        assert is_database_empty()


@pytest.mark.django_db(transaction=True)
def test_create_job_when_session_is_deleted_meanwhile_does_not_find_it():
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
def test_create_job_keeps_session_from_being_deleted_by_other_request():
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
