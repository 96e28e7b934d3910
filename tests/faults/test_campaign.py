"""The short campaign, and the proof that its books can be found wrong.

The campaign has a PostgreSQL of its own, whatever database the suite runs on: it is part of the
suite's run on SQLite alone.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.books import Attempt, Books, Page, check, story
from tests.faults.clients import Told
from tests.faults.databases import NotHere, postgresql_binaries
from tests.faults.osvi import Ask
from tests.faults.plan import FAULTS, NO_FAULT, Plan, draw
from tests.faults.processes import Death
from tests.faults.table import report

BASE = Path(__file__).resolve().parent.parent.parent
SHORT = ("--closes", "60", "--kills", "8", "--outages", "2", "--limit", "240")
TEXT = "The customer was helped."
WORKER = 4711


def not_here():
    """Why the campaign cannot be run on this machine; "" where it can be."""
    wanted = [name for name in ("gunicorn", "psycopg") if not importlib.util.find_spec(name)]
    if wanted:
        return f"{' and '.join(wanted)} cannot be imported."
    if not Path("/proc/net/tcp").exists():
        return "There is no /proc to find out who owns a connection."
    try:
        postgresql_binaries()
    except NotHere as error:
        return str(error)
    return ""


@pytest.mark.skipif(
    not os.environ.get("DATABASE_URL", "sqlite").startswith("sqlite"),
    reason="The campaign brings a database of its own: it is run once, with the suite on SQLite.",
)
def test_nothing_is_lost_in_a_short_campaign():
    if problem := not_here():
        if os.environ.get("CI") == "true":
            pytest.fail(problem)
        pytest.skip(problem)
    code, output = run("-m", "tests.faults.campaign", *SHORT)
    assert code == 0, output
    assert "- unexplained: 0" in output


def run(*arguments):
    """Run a campaign as a process of its own; its exit code and what it wrote."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=BASE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as campaign:
        try:
            output, _ = campaign.communicate(timeout=280)
        except BaseException:  # Ctrl-C too: it ends what it started
            campaign.send_signal(signal.SIGTERM)
            raise
    return campaign.returncode, output


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


def ask(at=100.0, **changes):
    """A request whose answer was written 0.1 s later."""
    told = {"fault": NO_FAULT, "pid": WORKER, "answered_at": at + 0.1, "summary": TEXT}
    return Ask(at=at, **told | changes)


def attempt(started_at=99.9, **changes):
    written = {"kind": "close", "outcome": "closed", "kept": True, "finished_at": started_at + 0.3}
    return Attempt(started_at=started_at, **written | changes)


NO_ANSWER = {"outcome": "no_answer", "error_code": "unconfirmed", "kept": False}
GOOD = Page(
    plan=PLAN,
    status="closed",
    summary_status="stored",
    text=TEXT,
    osvi_status="closed",
    osvi_closes=1,
    asks=(ask(),),
    attempts=(attempt(),),
    told=(
        Told(
            session_id="chat-0",
            at=99.8,
            via="rest",
            status=200,
            words="",
            changed=True,
            summary=TEXT,
        ),
    ),
)
LOST = replace(GOOD, text=None, summary_status="lost", attempts=(attempt(**NO_ANSWER),), told=())
KILLED = Death(at=100.2, pid=WORKER, why="killed when it had answered")
RECLOSE = {"kind": "reclose", "started_at": 110.0}


def rules(page, **others):
    return {finding.rule for finding in check(Books(pages=(page,), **others))}


class TestBooks:
    def test_good_ones_have_nothing_to_find(self):
        assert rules(GOOD) == set()

    def test_a_lost_summary_is_found(self):
        assert "no summary is lost" in rules(LOST)

    def test_a_kept_answer_is_lost_whoever_died(self):
        page = replace(LOST, attempts=(attempt(),))
        assert "no summary is lost" in rules(page, deaths=(KILLED,))

    def test_a_death_excuses_only_in_its_instant(self):
        for at in (99.0, 103.0):
            late = replace(KILLED, at=at)
            assert "no summary is lost" in rules(LOST, deaths=(late,))

    def test_another_process_excuses_nothing(self):
        other = replace(KILLED, pid=WORKER + 1)
        assert "no summary is lost" in rules(LOST, deaths=(other,))

    def test_an_answer_into_a_killed_process_must_be_fetched_where_osvi_tells_again(self):
        assert rules(LOST, deaths=(KILLED,)) == {"a missing summary is explained"}

    def test_it_may_be_lost_where_osvi_does_not_tell_again(self):
        page = replace(LOST, plan=replace(PLAN, when_closed=409))
        assert rules(page, deaths=(KILLED,)) == set()

    def test_it_may_be_lost_where_the_fetch_met_a_fault(self):
        asks = (ask(), ask(110.1, fault="drop", found_closed=True, answered_at=None, summary=None))
        attempts = (attempt(**NO_ANSWER), attempt(**RECLOSE | NO_ANSWER))
        page = replace(LOST, asks=asks, attempts=attempts)
        assert rules(page, deaths=(KILLED,)) == set()

    @pytest.mark.parametrize(("waited", "found"), [(1.5, set()), (0.5, {"no summary is lost"})])
    def test_an_answer_may_come_too_late(self, waited, found):
        hung_up = attempt(**NO_ANSWER | {"finished_at": 100 + waited})
        late = (ask(answered_at=100 + waited),)
        page = replace(LOST, plan=replace(PLAN, when_closed=409), asks=late, attempts=(hung_up,))
        assert rules(page) == found

    def test_it_may_be_lost_where_a_recovery_was_killed_before_it_asked(self):
        page = replace(LOST, attempts=(attempt(**NO_ANSWER), attempt(**RECLOSE | NO_ANSWER)))
        recovery = Death(at=110.1, pid=1, why="a recovery was killed")
        assert rules(page, deaths=(KILLED, recovery)) == set()
        worker = replace(recovery, why="killed at any time")
        assert rules(page, deaths=(KILLED, worker)) == {"a missing summary is explained"}

    def test_a_session_closed_twice_is_found(self):
        assert rules(replace(GOOD, osvi_closes=2)) == {"nothing is closed twice"}

    def test_a_blind_close_of_a_closed_session_is_found(self):
        page = replace(
            GOOD,
            asks=(ask(), ask(110.1, found_closed=True)),
            attempts=(attempt(), attempt(110.0)),
        )
        assert rules(page) == {"nothing is closed twice"}

    def test_a_fetch_is_no_blind_close(self):
        asks = (ask(fault="drop, closed", summary=None), ask(110.1, found_closed=True))
        attempts = (attempt(**NO_ANSWER), attempt(**RECLOSE))
        assert rules(replace(GOOD, asks=asks, attempts=attempts)) == set()

    def test_a_second_fetch_is_found(self):
        asks = (ask(), ask(110.1, found_closed=True), ask(120.1, found_closed=True))
        attempts = (attempt(), attempt(**RECLOSE), attempt(**RECLOSE | {"started_at": 120.0}))
        page = replace(GOOD, asks=asks, attempts=attempts)
        assert rules(page) == {"each request has its attempt"}

    def test_a_request_without_an_attempt_is_found(self):
        page = replace(GOOD, asks=(ask(), ask(100.2)))
        assert rules(page) == {"each request has its attempt"}

    @pytest.mark.parametrize("status", ["closing", "unconfirmed"])
    def test_a_session_that_is_left_is_found(self, status):
        assert "nothing is left on the way" in rules(replace(GOOD, status=status))

    def test_one_of_an_unknown_customer_may_be_left_unconfirmed(self):
        page = replace(LOST, plan=replace(PLAN, customer_id=""), status="unconfirmed")
        assert rules(replace(page, summary_status="pending"), deaths=(KILLED,)) == set()

    @pytest.mark.parametrize("outcome", ["started", "answered"])
    def test_an_attempt_that_is_left_is_found(self, outcome):
        page = replace(GOOD, attempts=(attempt(outcome=outcome),))
        assert rules(page) == {"nothing is left on the way"}

    def test_a_wrong_text_is_found(self):
        assert "each text is OSVI's" in rules(replace(GOOD, text="Another customer."))

    def test_a_text_that_nobody_was_given_is_found(self):
        told = replace(GOOD.told[0], summary="Another customer.")
        assert rules(replace(GOOD, told=(told,))) == {"each text is OSVI's"}

    def test_a_summary_status_that_is_not_true_is_found(self):
        assert rules(replace(GOOD, summary_status="lost")) == {"each text is OSVI's"}

    def test_states_that_differ_are_found(self):
        assert rules(replace(GOOD, osvi_status="active")) == {"both say the same"}

    def test_a_session_that_stayed_open_is_found(self):
        page = replace(LOST, status="active", summary_status="pending", osvi_status="active")
        assert "both say the same" in rules(replace(page, asks=(), attempts=()))

    def test_a_summary_that_was_not_asked_for_is_found(self):
        page = replace(LOST, summary_status="not_provided", asks=(ask(summary=None),))
        assert rules(page) == {"a missing summary is explained"}

    def test_one_that_osvi_did_not_provide_is_explained(self):
        asks = (ask(fault="summary null", summary=None),)
        assert rules(replace(LOST, summary_status="not_provided", asks=asks)) == set()

    def test_two_who_were_told_that_they_closed_it_are_found(self):
        assert rules(replace(GOOD, told=GOOD.told * 2)) == {"one caller closed it"}

    def test_an_error_page_is_found_but_in_an_outage(self):
        broken = replace(GOOD.told[0], status=500, changed=False, summary=None, until=100.5)
        page = replace(GOOD, told=(broken,))
        assert rules(page) == {"no page breaks"}
        assert rules(page, outages=((100.1, 104.0),)) == set()
        assert rules(page, outages=((110.0, 114.0),)) == {"no page breaks"}

    def test_a_story_tells_everything_in_order(self):
        books = Books(pages=(LOST,), deaths=(KILLED,), outages=((99.95, 104.0),))
        [_plan, state, *events] = story(LOST, books).splitlines()
        assert "here closed, lost" in state
        assert [event.split()[1] for event in events] == ["attempt", "the", "OSVI", "4711"]

    def test_the_table_counts_what_was_lost(self):
        words = report(Books(pages=(GOOD, LOST)), command="", seconds=1)
        assert words.splitlines()[-1] == "| **all** | 2 |  | 2 | 1 | 0 | 0 | 0 | 1 | 0 |"


class TestPlans:
    NUMBERS = {"closes": 200, "kills": 20, "outages": 5, "patience": 6}

    def test_a_seed_plays_the_same_again(self):
        assert draw(7, **self.NUMBERS) == draw(7, **self.NUMBERS)
        assert draw(7, **self.NUMBERS) != draw(8, **self.NUMBERS)

    def test_there_is_as_much_trouble_as_was_asked_for(self):
        plans = draw(7, **self.NUMBERS)
        assert sum(plan.kill is not None for plan in plans) >= 20
        outages = [plan.outage.seconds for plan in plans if plan.outage]
        assert len(outages) == 5
        assert max(outages) > self.NUMBERS["patience"] > min(outages)
        assert {fault for plan in plans for fault in plan.faults} >= set(FAULTS)
