"""The comparison of a campaign's records finds what is wrong, and nothing that is explained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chaos.clients import ClientResponse
from chaos.osvi import CloseRequest
from chaos.plan import NO_FAULT, Plan
from chaos.processes import Death
from chaos.records import Attempt, Records, SessionRecord, check, history
from chaos.table import report

TEXT = "The customer was helped."
WORKER = 4711
PLAN = Plan(
    number=0,
    session_id="chat-0",
    customer_id="+15550000000",
    status="active",
    summary=TEXT,
    when_closed="again",
    latency=0.0,
    faults=(NO_FAULT,),
    entry_points=("rest",),
)


def close_request(at=100.0, **changes):
    """Return a request whose answer was sent 0.1 s later."""
    sent = {"fault": NO_FAULT, "pid": WORKER, "answered_at": at + 0.1, "summary": TEXT}
    return CloseRequest(at=at, **sent | changes)


def attempt(started_at=99.9, **changes):
    written = {
        "kind": "close",
        "outcome": "closed",
        "has_answer": True,
        "finished_at": started_at + 0.3,
    }
    return Attempt(started_at=started_at, **written | changes)


NO_ANSWER = {"outcome": "no_answer", "error_code": "unconfirmed", "has_answer": False}
GOOD = SessionRecord(
    plan=PLAN,
    status="closed",
    summary_status="stored",
    text=TEXT,
    osvi_status="closed",
    osvi_closes=1,
    close_requests=(close_request(),),
    attempts=(attempt(),),
    responses=(
        ClientResponse(
            session_id="chat-0",
            at=99.8,
            via="rest",
            status=200,
            error="",
            changed=True,
            summary=TEXT,
        ),
    ),
)
LOST = replace(
    GOOD, text=None, summary_status="lost", attempts=(attempt(**NO_ANSWER),), responses=()
)
KILLED = Death(at=100.2, pid=WORKER, reason="killed when it had answered")
RECLOSE = {"kind": "reclose", "started_at": 110.0}


def rules(session, **others):
    return {finding.rule for finding in check(Records(sessions=(session,), **others))}


class TestRecords:
    def test_records_that_agree_have_no_findings(self):
        assert rules(GOOD) == set()

    def test_lost_summary_is_found(self):
        assert "no summary is lost" in rules(LOST)

    def test_lost_summary_whose_answer_was_stored_is_found_despite_a_kill(self):
        session = replace(LOST, attempts=(attempt(),))
        assert "no summary is lost" in rules(session, deaths=(KILLED,))

    def test_lost_summary_with_a_kill_at_another_time_is_found(self):
        for at in (99.0, 103.0):
            late = replace(KILLED, at=at)
            assert "no summary is lost" in rules(LOST, deaths=(late,))

    def test_lost_summary_with_a_kill_of_another_process_is_found(self):
        other = replace(KILLED, pid=WORKER + 1)
        assert "no summary is lost" in rules(LOST, deaths=(other,))

    def test_lost_summary_that_osvi_returns_again_must_be_fetched(self):
        assert rules(LOST, deaths=(KILLED,)) == {"a missing summary is explained"}

    def test_lost_summary_that_osvi_returns_once_is_explained_by_a_kill(self):
        session = replace(LOST, plan=replace(PLAN, when_closed=409))
        assert rules(session, deaths=(KILLED,)) == set()

    def test_lost_summary_whose_fetch_met_a_fault_is_explained(self):
        close_requests = (
            close_request(),
            close_request(110.1, fault="drop", found_closed=True, answered_at=None, summary=None),
        )
        attempts = (attempt(**NO_ANSWER), attempt(**RECLOSE | NO_ANSWER))
        session = replace(LOST, close_requests=close_requests, attempts=attempts)
        assert rules(session, deaths=(KILLED,)) == set()

    @pytest.mark.parametrize(("waited", "found"), [(1.5, set()), (0.5, {"no summary is lost"})])
    def test_lost_summary_is_explained_if_the_answer_came_too_late(self, waited, found):
        hung_up = attempt(**NO_ANSWER | {"finished_at": 100 + waited})
        late = (close_request(answered_at=100 + waited),)
        session = replace(
            LOST, plan=replace(PLAN, when_closed=409), close_requests=late, attempts=(hung_up,)
        )
        assert rules(session) == found

    def test_lost_summary_is_explained_if_the_recovery_was_killed(self):
        session = replace(LOST, attempts=(attempt(**NO_ANSWER), attempt(**RECLOSE | NO_ANSWER)))
        recovery = Death(at=110.1, pid=1, reason="a recovery was killed")
        assert rules(session, deaths=(KILLED, recovery)) == set()
        worker = replace(recovery, reason="killed at any time")
        assert rules(session, deaths=(KILLED, worker)) == {"a missing summary is explained"}

    def test_session_closed_twice_is_found(self):
        assert rules(replace(GOOD, osvi_closes=2)) == {"nothing is closed twice"}

    def test_blind_close_of_a_closed_session_is_found(self):
        session = replace(
            GOOD,
            close_requests=(close_request(), close_request(110.1, found_closed=True)),
            attempts=(attempt(), attempt(110.0)),
        )
        assert rules(session) == {"nothing is closed twice"}

    def test_fetch_after_a_lost_answer_is_no_finding(self):
        close_requests = (
            close_request(fault="drop, closed", summary=None),
            close_request(110.1, found_closed=True),
        )
        attempts = (attempt(**NO_ANSWER), attempt(**RECLOSE))
        assert rules(replace(GOOD, close_requests=close_requests, attempts=attempts)) == set()

    def test_second_fetch_is_found(self):
        close_requests = (
            close_request(),
            close_request(110.1, found_closed=True),
            close_request(120.1, found_closed=True),
        )
        attempts = (attempt(), attempt(**RECLOSE), attempt(**RECLOSE | {"started_at": 120.0}))
        session = replace(GOOD, close_requests=close_requests, attempts=attempts)
        assert rules(session) == {"each request has its attempt"}

    def test_request_without_an_attempt_is_found(self):
        session = replace(GOOD, close_requests=(close_request(), close_request(100.2)))
        assert rules(session) == {"each request has its attempt"}

    @pytest.mark.parametrize("status", ["closing", "unconfirmed"])
    def test_session_that_is_unsettled_is_found(self, status):
        assert "nothing is left unsettled" in rules(replace(GOOD, status=status))

    def test_unconfirmed_session_of_an_unknown_customer_is_no_finding(self):
        session = replace(LOST, plan=replace(PLAN, customer_id=""), status="unconfirmed")
        assert rules(replace(session, summary_status="pending"), deaths=(KILLED,)) == set()

    @pytest.mark.parametrize("outcome", ["started", "answered"])
    def test_attempt_that_is_unfinished_is_found(self, outcome):
        session = replace(GOOD, attempts=(attempt(outcome=outcome),))
        assert rules(session) == {"nothing is left unsettled"}

    def test_stored_text_that_is_not_osvis_is_found(self):
        assert "each text is OSVI's" in rules(replace(GOOD, text="Another customer."))

    def test_shown_text_that_is_not_osvis_is_found(self):
        wrong = replace(GOOD.responses[0], summary="Another customer.")
        assert rules(replace(GOOD, responses=(wrong,))) == {"each text is OSVI's"}

    def test_summary_status_that_is_wrong_is_found(self):
        assert rules(replace(GOOD, summary_status="lost")) == {"each text is OSVI's"}

    def test_states_that_differ_are_found(self):
        assert rules(replace(GOOD, osvi_status="active")) == {"both states agree"}

    def test_session_that_stayed_open_is_found(self):
        session = replace(LOST, status="active", summary_status="pending", osvi_status="active")
        assert "both states agree" in rules(replace(session, close_requests=(), attempts=()))

    def test_missing_summary_without_a_reason_is_found(self):
        session = replace(
            LOST, summary_status="not_provided", close_requests=(close_request(summary=None),)
        )
        assert rules(session) == {"a missing summary is explained"}

    def test_missing_summary_that_osvi_did_not_provide_is_explained(self):
        close_requests = (close_request(fault="summary null", summary=None),)
        assert (
            rules(replace(LOST, summary_status="not_provided", close_requests=close_requests))
            == set()
        )

    def test_two_callers_who_closed_one_session_are_found(self):
        assert rules(replace(GOOD, responses=GOOD.responses * 2)) == {"one caller closed it"}

    def test_error_page_is_found_except_in_an_outage(self):
        broken = replace(GOOD.responses[0], status=500, changed=False, summary=None, until=100.5)
        session = replace(GOOD, responses=(broken,))
        assert rules(session) == {"no page fails"}
        assert rules(session, outages=((100.1, 104.0),)) == set()
        assert rules(session, outages=((110.0, 114.0),)) == {"no page fails"}

    def test_history_lists_events_in_order(self):
        records = Records(sessions=(LOST,), deaths=(KILLED,), outages=((99.95, 104.0),))
        [_plan, state, *events] = history(LOST, records).splitlines()
        assert "here closed, lost" in state
        assert [event.split()[1] for event in events] == ["attempt", "the", "OSVI", "4711"]

    def test_table_counts_lost_summaries(self):
        words = report(Records(sessions=(GOOD, LOST)), command="", seconds=1)
        assert words.splitlines()[-1] == "| **all** | 2 |  | 2 | 1 | 0 | 0 | 0 | 1 | 0 |"
