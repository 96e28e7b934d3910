"""Test two accounts at once: no call carries the other's token or goes to the other's address."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection, connections

from osvi_django.exceptions import InvalidInput, OSVIError, OSVINoAnswer, OSVINotConfigured
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services import close_again, close_session, close_session_by_id
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.mirroring import mirror_by_id, mirror_session, sync_customer
from osvi_django.services.mirroring.sync import sync_open
from osvi_django.services.recovery import recover_all, recover_session
from osvi_django.services.starting import start_session
from osvi_django.services.support import (
    hand_back,
    inject_context,
    receive_message,
    send_message,
    take_over,
    tell,
    whisper,
)
from osvi_django.testing import Drop, OSVISandbox, Status
from osvi_django.testing.factories import ChatAgentFactory, ChatSessionFactory, CloseAttemptFactory
from tests.helpers.sandbox import mirror

pytestmark = pytest.mark.django_db(transaction=True)

TOKENS = {"default": "token-of-default", "other": "token-of-another"}


@pytest.fixture
def sandboxes(settings, transactional_db):
    """Start a sandbox for each account, and check whom each request went to."""
    with OSVISandbox(token=TOKENS["default"]) as here, OSVISandbox(token=TOKENS["other"]) as there:
        both = {"default": here, "other": there}
        settings.OSVI = {
            alias: {"API_TOKEN": TOKENS[alias], "BASE_URL": osvi.url, "CONCURRENCY": 4}
            for alias, osvi in both.items()
        }
        yield both
        for alias, osvi in both.items():
            assert osvi.requests, "each account is used"
            sent = {request.headers["API-Token"] for request in osvi.requests}
            assert sent == {TOKENS[alias]}
            # Whatever is asked for is the account's own.
            for request in osvi.requests:
                assert request.session_id is None or request.session_id in osvi.sessions
                customer = request.query.get("customer_id") or (request.body or {}).get(
                    "customer_id"
                )
                assert customer is None or customer.startswith(alias)


@pytest.fixture
def agents(sandboxes):
    """Create an agent in each account; both have the same UUID, which is allowed."""
    return {alias: ChatAgentFactory(account=alias, uuid="agent_1") for alias in sandboxes}


@pytest.fixture
def make_sessions(sandboxes, agents):
    """Return a function that creates sessions of each account in turn."""

    def _chats(number, **fields):
        return [
            mirror(
                sandboxes[alias],
                agent=agents[alias],
                customer_id=f"{alias}-{index}",
                summary=f"Of {alias}.",
                **fields,
            )
            for index in range(number)
            for alias in sandboxes
        ]

    return _chats


def run_all(works, threads=8):
    """Run all of these in a few threads; raise the error of the first that fails."""

    def run(work):
        try:
            return work()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, works))


def assert_summaries_match_accounts():
    for session in ChatSession.objects.select_related("agent", "summary"):
        assert session.summary.text == f"Of {session.agent.account}."


def test_close_session_in_one_thread_uses_account_of_each_session(make_sessions):
    for session in make_sessions(5):
        assert close_session(session).changed
    assert_summaries_match_accounts()


def test_close_session_in_many_threads_uses_account_of_each_session(make_sessions):
    run_all([lambda each=each: close_session(each) for each in make_sessions(20)])
    assert_summaries_match_accounts()


def test_close_by_id_with_account_uses_that_account(sandboxes, agents):
    for alias, osvi in sandboxes.items():
        chat = osvi.add_session(agent_uuid="agent_1", summary=f"Of {alias}.")
        close_session_by_id(chat.id, agent_uuid="agent_1", account=alias)
    assert_summaries_match_accounts()


def test_close_job_uses_account_of_each_session(make_sessions):
    make_sessions(40)
    job = run_close_job(create_close_job(ChatSession.objects.all(), start=False).pk)
    assert (job.status, job.succeeded) == ("completed", 80)
    assert_summaries_match_accounts()


def test_close_job_when_closes_are_refused_checks_in_account_of_each_session(
    make_sessions, sandboxes
):
    for session in make_sessions(5):
        osvi = sandboxes[session.agent.account]
        osvi.sessions[session.session_id].change(status="closed")
        osvi.when_closed = 409
    job = run_close_job(create_close_job(ChatSession.objects.all(), start=False).pk)
    assert job.succeeded == 10


@pytest.mark.parametrize("again", [recover_session, close_again])
def test_recovery_uses_account_of_each_session(make_sessions, sandboxes, again):
    sessions = make_sessions(3)
    for index, session in enumerate(sessions):
        fault = Drop(after_closing=index % 2 == 0)
        sandboxes[session.agent.account].script(session.session_id, fault)
        with pytest.raises(OSVINoAnswer):
            close_session(session)
    run_all([lambda each=each: again(each) for each in sessions])
    list(recover_all())
    assert not ChatSession.objects.filter(status="unconfirmed").exists()


def test_sync_uses_account_of_each_customer(make_sessions, sandboxes):
    make_sessions(20)
    assert sync_open().looked_up == 40
    works = [
        lambda alias=alias, index=index: sync_customer(f"{alias}-{index}", account=alias)
        for index in range(10)
        for alias in sandboxes
    ]
    for found in run_all(works):
        assert len(found) == 1


def test_support_actions_use_account_of_each_session(sandboxes, agents):
    def talk(alias, index):
        session = start_session(agent_uuid="agent_1", customer_id=f"{alias}-{index}", account=alias)
        assert session.agent.account == alias
        receive_message(session, "Hello?")
        whisper(session, "Be kind")
        tell(session, "Offer 10%")
        inject_context(session, f"{alias} knows")
        take_over(session)
        send_message(session, "I am Sam.")
        hand_back(session)
        assert sandboxes[alias].sessions[session.session_id].context == [f"{alias} knows"]

    run_all([lambda a=alias, i=index: talk(a, i) for index in range(5) for alias in sandboxes])


def test_different_calls_at_once_use_account_of_each_session(make_sessions, sandboxes):
    make_sessions(10)
    job = create_close_job(ChatSession.objects.filter(customer_id__endswith="-1"), start=False)
    others = list(ChatSession.objects.exclude(customer_id__endswith="-1"))
    works = [lambda: run_close_job(job.pk), sync_open]
    for number, session in enumerate(others):
        act = (close_session, take_over, lambda each: whisper(each, "x"))[number % 3]
        works.append(lambda act=act, each=session: act(each))
    named = {"agent_uuid": "agent_1"}
    works += [
        lambda alias=alias: start_session(**named, customer_id=f"{alias}-new", account=alias)
        for alias in sandboxes
    ]
    run_all(works)
    for session in ChatSession.objects.select_related("agent"):
        assert session.session_id in sandboxes[session.agent.account].sessions


def test_sync_open_with_trouble_in_one_account_completes_the_other(make_sessions, sandboxes):
    make_sessions(10)
    sandboxes["other"].script(None, *[Status(401)] * 50)
    progress = sync_open()
    assert (progress.looked_up, progress.troubles) == (10, {"other": "unauthorized"})


def test_callable_token_is_read_once_for_each_close_of_its_account(make_sessions, settings):
    lock, asked = threading.Lock(), []

    def token_of(alias):
        def read():
            with lock:
                asked.append(alias)
            return TOKENS[alias]

        return read

    for alias in TOKENS:
        settings.OSVI[alias]["API_TOKEN"] = token_of(alias)
    run_all([lambda each=each: close_session(each) for each in make_sessions(10)])
    assert sorted(asked) == ["default"] * 10 + ["other"] * 10


class TestAccountOfKnownAgent:
    """Test that the sessions of an agent use the account that knows the agent."""

    @pytest.fixture(autouse=True)
    def agent_of_other_account(self, sandboxes):
        self.sandboxes = sandboxes
        self.agent = ChatAgentFactory(account="other", uuid="agent_b")
        yield
        sync_customer("default-1")  # as each is asked for something
        sync_customer("other-1", account="other")

    @pytest.fixture
    def chat(self):
        return self.sandboxes["other"].add_session(agent_uuid="agent_b", summary="Of other.")

    def assert_refused(self, ask, words):
        with pytest.raises(InvalidInput, match=words) as caught:
            ask()
        assert caught.value.field == "account"
        assert all(osvi.requests == [] for osvi in self.sandboxes.values())

    @pytest.mark.parametrize("named", [{}, {"account": "other"}])
    def test_close_by_id_uses_account_of_agent(self, chat, named):
        assert close_session_by_id(chat.id, agent_uuid="agent_b", **named).changed
        assert ChatAgent.objects.get() == self.agent
        assert_summaries_match_accounts()

    @pytest.mark.parametrize("named", [{}, {"account": "other"}])
    def test_start_session_uses_account_of_agent(self, named):
        started = start_session(agent_uuid="agent_b", customer_id="other-1", **named)
        assert started.agent == self.agent

    def test_other_account_for_known_agent_uuid_creates_agent_in_that_account(self):
        started = start_session(agent_uuid="agent_b", customer_id="default-1", account="default")
        ours = self.sandboxes["default"].add_session(agent_uuid="agent_b", summary="Of default.")
        closed = close_session_by_id(ours.id, agent_uuid="agent_b", account="default")
        assert started.agent.account == closed.session.agent.account == "default"
        assert self.sandboxes["other"].requests == []

    def test_close_by_id_with_other_account_than_the_sessions_raises_invalid_input(self, chat):
        mirror(self.sandboxes["default"], session_id="known", agent__uuid="agent_a")
        for named in ({}, {"agent_uuid": "agent_a"}):
            self.assert_refused(
                lambda named=named: close_session_by_id("known", account="other", **named),
                "account is not the account",
            )

    @pytest.mark.parametrize("removed", [[], ["third"]])
    def test_close_by_id_with_agent_in_two_accounts_requires_account(self, chat, removed):
        for account in ("default", *removed):
            ChatAgentFactory(account=account, uuid="agent_b")
        names = "in account: “default”, “other”[.]$"
        self.assert_refused(lambda: close_session_by_id(chat.id, agent_uuid="agent_b"), names)
        assert close_session_by_id(chat.id, agent_uuid="agent_b", account="other").changed
        assert_summaries_match_accounts()

    def test_close_by_id_with_agent_that_a_removed_account_had_uses_the_other_account(self, chat):
        ChatAgentFactory(account="third", uuid="agent_b")
        assert close_session_by_id(chat.id, agent_uuid="agent_b").changed
        assert_summaries_match_accounts()

    def test_agent_created_in_wrong_account_does_not_make_account_ambiguous(self, chat):
        """Ignore an agent that a call with the wrong account created."""
        mistaken = ChatAgentFactory(account="default", uuid="agent_b", name="", number=None)
        ChatSessionFactory(agent=mistaken, customer_id="")
        started = start_session(agent_uuid="agent_b", customer_id="other-1")
        assert started.agent == self.agent
        result = close_session_by_id(chat.id, agent_uuid="agent_b")
        assert (result.changed, result.summary.text) == (True, "Of other.")

    def test_close_by_id_with_agent_uuid_in_other_case_creates_agent(self):
        ours = self.sandboxes["default"].add_session(agent_uuid="AGENT_B", summary="Of default.")
        assert close_session_by_id(ours.id, agent_uuid="AGENT_B").changed
        assert_summaries_match_accounts()

    def test_close_by_id_with_right_account_corrects_wrong_account(self, chat):
        mistaken = ChatAgentFactory(account="default", uuid="agent_b")
        session = ChatSessionFactory(session_id=chat.id, agent=mistaken, customer_id="")
        CloseAttemptFactory(session=session, outcome="rejected")
        named = {"agent_uuid": "agent_b", "account": "other"}
        assert close_session_by_id(chat.id, **named).session.agent == self.agent
        assert_summaries_match_accounts()

    def test_close_by_id_with_corrected_agent_keeps_account_given_before(self, chat):
        mirror_by_id(chat.id, agent_uuid="mistyped", account="other")
        self.sandboxes["other"].script(chat.id, Status(422))
        with pytest.raises(OSVIError, match="did not close"):
            close_session_by_id(chat.id, agent_uuid="mistyped", account="other")
        ChatAgent.objects.filter(uuid="agent_b").delete()
        assert close_session_by_id(chat.id, agent_uuid="agent_b").changed
        assert_summaries_match_accounts()


class TestUnknownAccount:
    @pytest.fixture(autouse=True)
    def only_default_account(self, osvi_sandbox, transactional_db):
        self.osvi = osvi_sandbox
        yield
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize(
        "call",
        [
            lambda: start_session(agent_uuid="a", customer_id="+1", account="nobody"),
            lambda: sync_customer("+1", account="nobody"),
            lambda: close_session_by_id("s-1", agent_uuid="a", account="nobody"),
            lambda: mirror_session(
                {"id": "s-1", "status": "active", "customer_id": "+1"}, account="nobody"
            ),
        ],
    )
    def test_call_with_unknown_account_raises_not_configured(self, call):
        with pytest.raises(OSVINotConfigured, match='no account "nobody"'):
            call()
        assert not ChatAgent.objects.exists()

    @pytest.mark.parametrize("act", [close_session, take_over, recover_session])
    def test_call_for_session_of_unknown_account_raises_not_configured(self, act):
        session = ChatSessionFactory(agent__account="nobody")
        with pytest.raises(OSVINotConfigured, match='no account "nobody"'):
            act(session)
        session.refresh_from_db()
        assert session.status == "active"

    def test_session_of_unknown_account_is_not_sent_to_another_account(self):
        ChatSessionFactory(agent__account="nobody")
        assert sync_open().troubles == {"nobody": "not_configured"}
        job = run_close_job(create_close_job(ChatSession.objects.all(), start=False).pk)
        assert (job.status, job.paused_by) == ("paused", "not_configured")
        assert [each.detail for each in recover_all()] == []

    def test_mirror_session_with_other_account_raises_invalid_input(self, settings):
        settings.OSVI["other"] = settings.OSVI["default"]
        session = ChatSessionFactory(agent__uuid="a")
        payload = {"id": session.session_id, "status": "active", "customer_id": "+1"}
        with pytest.raises(InvalidInput, match="account is not the account"):
            mirror_session(payload, account="other")

    @pytest.mark.parametrize("token", [None, "", "two words"])
    def test_sync_customer_without_usable_token_sends_nothing(self, settings, token):
        settings.OSVI["other"] = {**settings.OSVI["default"], "API_TOKEN": token}
        with pytest.raises((OSVINotConfigured, OSVIError), match="API_TOKEN"):
            sync_customer("+1", account="other")
        connection.close()
