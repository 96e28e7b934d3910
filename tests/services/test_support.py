"""Operating a session: what OSVI gets, what is written down, and what is refused."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction
from django.utils import timezone

from osvi_django.conf import InvalidSetting
from osvi_django.exceptions import (
    InsideTransaction,
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
    SentBefore,
    SessionClosed,
    SessionNotFound,
    UnknownStatus,
    WrongMode,
    message_for_code,
)
from osvi_django.models import ChatSession, SupportAction
from osvi_django.services import close_session
from osvi_django.services.mirroring import mirror_session
from osvi_django.services.support import (
    TEXT_MAX_LENGTH,
    context_of,
    forget_texts,
    hand_back,
    inject_context,
    receive_message,
    retention,
    send_message,
    take_over,
    tell,
    whisper,
)
from osvi_django.testing import Drop, Fault, Junk, Status
from osvi_django.testing.calls import REPLY
from osvi_django.testing.factories import ChatSessionFactory
from tests.helpers.database import call_after_queries, raise_on_queries
from tests.helpers.datetimes import rest_datetime
from tests.helpers.sandbox import CallThenAnswer, mirror

# Each function as a thing to do with a session, and what OSVI gets for it.
SUPPORT = "/v1/chat/session/{id}/support"
ACTS = {
    "takeover": (take_over, SUPPORT, {"command": "takeover"}),
    "end": (hand_back, SUPPORT, {"command": "end"}),
    "tell": (tell, SUPPORT, {"command": "tell", "message": "Offer 10%"}),
    "whisper": (whisper, SUPPORT, {"command": "whisper", "message": "Offer 10%"}),
    "message": (send_message, SUPPORT, {"message": "Offer 10%"}),
    "context": (inject_context, "/v1/chat/session/{id}/inject_context", {"context": "Offer 10%"}),
    "inbound": (receive_message, "/v1/chat/inbound", {"content": "Offer 10%"}),
}
WORDLESS = ("takeover", "end")
WITH_WORDS = [kind for kind in ACTS if kind not in WORDLESS]


@pytest.fixture(params=ACTS)
def kind(request):
    return request.param


@pytest.fixture
def session(osvi_sandbox, db):
    """A session that somebody has taken over, so that everything may be done in it."""
    made = mirror(osvi_sandbox, mode="support", customer_id="+1555")
    osvi_sandbox.sessions[made.session_id].mode = "support"
    return made


def act(kind, session, text="Offer 10%", **named):
    function = ACTS[kind][0]
    return function(session, **named) if kind in WORDLESS else function(session, text, **named)


def journal():
    return SupportAction.objects.get()


class TestEach:
    def test_what_osvi_gets_and_what_is_written_down(
        self, session, osvi_sandbox, kind, staff, grant
    ):
        user = grant(staff, "operate_chatsession")
        result = act(kind, session, "  Offer 10%\n", requested_by=user, via="admin")
        [request] = osvi_sandbox.requests
        _function, path, body = ACTS[kind]
        if kind == "inbound":
            who = {"agent_uuid": session.agent.uuid, "customer_id": "+1555"}
            body = {**body, **who, "session_id": session.session_id}
        assert (request.path, request.body) == (path.format(id=session.session_id), body)
        action = journal()
        assert result.action == action
        assert (action.kind, action.outcome, action.via) == (kind, "done", "admin")
        assert (action.requested_by, action.http_status) == (user, 200)
        assert action.text == ("" if kind in WORDLESS else "Offer 10%")
        assert '"success": true' in action.answer
        assert action.finished_at is not None
        assert action.reply == (result.reply or "") == (REPLY if kind == "tell" else "")

    @pytest.mark.django_db(transaction=True)
    def test_it_is_committed_before_it_is_sent(self, session, kind, osvi_sandbox):
        seen = []

        def look():
            seen.append((journal().outcome, journal().text))

        osvi_sandbox.script(session.session_id, CallThenAnswer(look))
        act(kind, session)
        assert seen == [("started", "" if kind in WORDLESS else "Offer 10%")]

    def test_it_takes_the_permission(self, session, kind, staff, osvi_sandbox):
        with pytest.raises(NotAllowed, match="to operate chat sessions"):
            act(kind, session, requested_by=staff)
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_inside_a_transaction_it_is_refused(self, session, kind, osvi_sandbox):
        with transaction.atomic(), pytest.raises(InsideTransaction, match="OSVI cannot be called"):
            act(kind, session)
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    @pytest.mark.parametrize("status", ["closed", "closing"])
    def test_nothing_is_done_in_a_closed_session(self, session, kind, status, osvi_sandbox):
        ChatSession.objects.update(status=status)
        with pytest.raises(SessionClosed, match="closed or is being closed"):
            act(kind, session)
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_a_session_that_was_deleted_is_not_found(self, session, kind, osvi_sandbox):
        ChatSession.objects.all().delete()
        with pytest.raises(SessionNotFound):
            act(kind, session)
        assert osvi_sandbox.requests == []

    def test_a_door_that_is_too_long_is_refused(self, session, kind, osvi_sandbox):
        with pytest.raises(InvalidInput) as caught:
            act(kind, session, via="x" * 33)
        assert caught.value.field == "via"
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("text", ["", "  \n", None, 7, "x" * (TEXT_MAX_LENGTH + 1)])
    def test_words_are_needed_and_not_too_many(self, session, kind, text, osvi_sandbox):
        if kind in WORDLESS:
            return
        with pytest.raises(InvalidInput) as caught:
            act(kind, session, text)
        assert caught.value.field == {"context": "context", "inbound": "content"}.get(
            kind, "message"
        )
        assert osvi_sandbox.requests == []

    def test_words_are_made_storable(self, session, kind, osvi_sandbox):
        act(kind, session, "a\x00b\ud83d")
        assert journal().text == ("" if kind in WORDLESS else "a\ufffdb\ufffd")

    def test_an_account_that_is_not_there_is_said(self, session, kind, settings):
        settings.OSVI = {"other": settings.OSVI["default"]}
        with pytest.raises(OSVINotConfigured):
            act(kind, session)
        assert not SupportAction.objects.exists()

    @pytest.mark.parametrize(
        ("fault", "error", "outcome", "words"),
        [
            (Status(401), OSVIUnauthorized, "rejected", "Nothing has changed"),
            (
                Status(404),
                OSVIRejected,
                "rejected",
                "OSVI refused the request. Nothing has changed",
            ),
            (Status(422, errors=["No such thing"]), OSVIRejected, "rejected", "No such thing"),
            (
                Status(429, retry_after=3),
                OSVIThrottled,
                "rejected",
                "did not accept the request. Try",
            ),
            (Status(500), OSVINoAnswer, "no_answer", "may or may not have been done"),
            (Drop(after_closing=True), OSVINoAnswer, "no_answer", "may or may not have been done"),
            (Junk(), OSVIBadAnswer, "bad_answer", "may or may not have been done"),
        ],
    )
    def test_what_goes_wrong_is_written_down_and_not_repeated(
        self, session, kind, osvi_sandbox, fault, error, outcome, words
    ):
        osvi_sandbox.script(session.session_id, fault)
        before = dict(session.metadata)
        with pytest.raises(error, match=words) as caught:
            act(kind, session)
        action = journal()
        assert caught.value.action == action
        assert (action.outcome, action.error_code) == (outcome, error.code)
        assert action.finished_at is not None
        assert len(osvi_sandbox.requests) == 1
        session.refresh_from_db()
        assert (session.mode, session.metadata) == ("support", before)
        said = message_for_code(action.error_code, action.error_reason, is_close=False)
        assert said == str(caught.value)
        assert "close" not in said

    def test_osvi_being_down_is_not_sent(self, session, kind, osvi_sandbox):
        osvi_sandbox.stop()
        with pytest.raises(OSVIUnreachable, match=r"Nothing was sent\. Try"):
            act(kind, session)
        assert journal().outcome == "not_sent"

    def test_what_is_said_is_in_no_log(self, session, kind, osvi_sandbox, caplog):
        caplog.set_level("DEBUG")
        act(kind, session, "a secret")
        osvi_sandbox.script(session.session_id, Status(422, errors=["x"]))
        with pytest.raises(OSVIRejected):
            act(kind, session, "a secret")
        ours = [each.getMessage() for each in caplog.records if "osvi" in each.name]
        assert "secret" not in "".join(ours)

    def test_in_a_session_of_an_unknown_status_nothing_is_sent(self, session, osvi_sandbox, kind):
        ChatSession.objects.update(status="archived")
        with pytest.raises(UnknownStatus, match="same version"):
            act(kind, session)
        assert osvi_sandbox.requests == []
        assert not SupportAction.objects.exists()


class TestSentBefore:
    """What nobody knows to have arrived is not sent once more by whoever does not know of it."""

    @pytest.fixture(params=WITH_WORDS)
    def kind(self, request):
        return request.param

    @pytest.fixture
    def lost(self, session, osvi_sandbox):
        """Something was said, and no answer came."""

        def _lost(kind, text="Offer 10%", fault=None):
            osvi_sandbox.script(session.session_id, fault or Drop(after_closing=True))
            with pytest.raises((OSVINoAnswer, OSVIBadAnswer)):
                act(kind, session, text)
            osvi_sandbox.requests.clear()
            return journal()

        return _lost

    @pytest.mark.parametrize("fault", [Drop(), Drop(after_closing=True), Status(500), Junk()])
    def test_it_is_refused_and_not_written_down(self, session, osvi_sandbox, kind, lost, fault):
        first = lost(kind, fault=fault)
        with pytest.raises(SentBefore, match="we do not know whether it arrived") as caught:
            act(kind, session, "\nOffer 10%  ")
        assert (caught.value.code, caught.value.retryable) == ("sent_before", False)
        assert caught.value.action == first
        assert (osvi_sandbox.requests, journal()) == ([], first)

    def test_so_is_what_is_under_way(self, session, osvi_sandbox, kind):
        SupportAction.objects.create(session=session, kind=kind, text="Offer 10%")
        with pytest.raises(SentBefore):
            act(kind, session)
        assert osvi_sandbox.requests == []

    def test_it_is_sent_again_on_purpose_and_then_is_known(self, session, osvi_sandbox, kind, lost):
        lost(kind)
        assert act(kind, session, resend=True).action.outcome == "done"
        assert act(kind, session).action.outcome == "done"
        assert len(osvi_sandbox.requests) == 2

    def test_what_was_lost_again_is_refused_again(self, session, osvi_sandbox, kind, lost):
        assert act(kind, session).action.outcome == "done"
        osvi_sandbox.script(session.session_id, Drop())
        with pytest.raises(OSVINoAnswer):
            act(kind, session)
        with pytest.raises(SentBefore):
            act(kind, session)
        assert len(osvi_sandbox.requests) == 2

    @pytest.mark.parametrize("outcome", ["done", "not_sent", "rejected"])
    def test_what_is_known_may_be_repeated_at_once(self, session, osvi_sandbox, kind, outcome):
        SupportAction.objects.create(session=session, kind=kind, text="Offer 10%", outcome=outcome)
        act(kind, session)
        assert len(osvi_sandbox.requests) == 1

    def test_what_osvi_refused_the_second_time_is_still_unknown(
        self, session, osvi_sandbox, kind, lost
    ):
        first = lost(kind)
        osvi_sandbox.script(session.session_id, Status(429))
        with pytest.raises(OSVIThrottled):
            act(kind, session, resend=True)
        with pytest.raises(SentBefore) as caught:
            act(kind, session)
        assert caught.value.action == first

    @pytest.mark.parametrize("text", ["offer 10%", "Offer 10", "Offer 1%%", "Óffer 10%", "10%"])
    def test_other_words_are_sent(self, session, osvi_sandbox, kind, lost, text):
        lost(kind)
        act(kind, session, text)
        assert len(osvi_sandbox.requests) == 1

    def test_so_are_the_same_words_elsewhere(self, session, osvi_sandbox, kind, lost):
        lost(kind)
        for other in WITH_WORDS:
            if other != kind:
                act(other, session)
        another = mirror(osvi_sandbox, mode="support")
        osvi_sandbox.sessions[another.session_id].mode = "support"
        act(kind, another)
        assert len(osvi_sandbox.requests) == len(WITH_WORDS)

    @pytest.mark.parametrize("character", ["x", "%", "\\", "\N{GRINNING FACE}"])
    def test_however_long_they_are(self, session, lost, character):
        lost("whisper", character * TEXT_MAX_LENGTH)
        with pytest.raises(SentBefore):
            whisper(session, character * TEXT_MAX_LENGTH)
        whisper(session, character * (TEXT_MAX_LENGTH - 1))

    def test_what_is_forgotten_refuses_nobody(self, session, osvi_sandbox, kind, lost, settings):
        settings.OSVI["default"]["TEXT_RETENTION_DAYS"] = 0
        lost(kind)
        assert forget_texts() == 1
        act(kind, session)
        assert len(osvi_sandbox.requests) == 1

    def test_nobody_learns_of_it_without_the_permission(self, session, kind, lost, staff):
        lost(kind)
        with pytest.raises(NotAllowed):
            act(kind, session, requested_by=staff)

    def test_to_take_over_and_to_hand_back_may_be_repeated(self, session, osvi_sandbox):
        for kind in WORDLESS:
            osvi_sandbox.script(session.session_id, Drop(after_closing=True))
            with pytest.raises(OSVINoAnswer):
                act(kind, session)
            act(kind, session)
        assert len(osvi_sandbox.requests) == 4


class TestFormKey:
    """One key sends once, whoever asks."""

    @pytest.fixture
    def key(self):
        return uuid.uuid4()

    def test_of_two_calls_one_is_sent(self, session, osvi_sandbox, kind, key):
        first = act(kind, session, form_key=key).action
        assert first.form_key == key
        resend = {} if kind in WORDLESS else {"resend": True}
        with pytest.raises(SentBefore, match="You already sent this form") as caught:
            act(kind, session, form_key=key, **resend)
        assert caught.value.action == first
        assert (len(osvi_sandbox.requests), journal()) == (1, first)

    def test_whatever_it_says(self, session, osvi_sandbox, kind, key):
        whisper(session, "Be kind", form_key=key)
        with pytest.raises(SentBefore):
            act(kind, session, form_key=key)
        assert len(osvi_sandbox.requests) == 1

    def test_nothing_is_said_of_another_session(self, session, mirrored, osvi_sandbox, key):
        whisper(session, "Be kind", form_key=key)
        with pytest.raises(SentBefore) as caught:
            whisper(mirrored(), "Be kind", form_key=key)
        assert caught.value.action is None
        assert len(osvi_sandbox.requests) == 1

    def test_other_keys_and_none_are_each_sent(self, session, osvi_sandbox, kind):
        for key in (uuid.uuid4(), uuid.uuid4(), None, None):
            act(kind, session, form_key=key)
        assert len(osvi_sandbox.requests) == 4

    @pytest.mark.parametrize("fault", [Drop(), Status(500), Junk()])
    def test_what_may_have_been_done_has_spent_it(self, session, osvi_sandbox, kind, key, fault):
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises((OSVINoAnswer, OSVIBadAnswer)):
            act(kind, session, form_key=key)
        with pytest.raises(SentBefore, match="You already sent this form") as caught:
            act(kind, session, form_key=key)
        assert caught.value.action.outcome in {"no_answer", "bad_answer"}
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize("fault", [Status(422), Status(429), Status(401)])
    def test_what_was_not_done_has_not(self, session, osvi_sandbox, kind, key, fault):
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVIRejected):
            act(kind, session, form_key=key)
        assert act(kind, session, form_key=key).action.outcome == "done"


@dataclass(frozen=True)
class Overtaken(Fault):
    """What was asked is done, and so is something else before that is answered."""

    do: Callable[[], object]

    def play(self, exchange):
        answer = exchange.carry_out()
        try:
            self.do()
        finally:
            connection.close()
        exchange.send(answer)


@pytest.mark.django_db(transaction=True)
class TestTwoWhoDecideWhoAnswers:
    """The answer to the first comes after all of the second: it is the second that counts."""

    @pytest.fixture
    def overtaken(self, session, osvi_sandbox):
        def back():
            hand_back(ChatSession.objects.get(pk=session.pk))

        osvi_sandbox.script(session.session_id, Overtaken(back))
        return session

    def test_osvi_is_asked_who_came_last(self, overtaken, osvi_sandbox):
        assert take_over(overtaken).session.mode == "ai"
        overtaken.refresh_from_db()
        assert (overtaken.mode, overtaken.active_human) == ("ai", "")
        assert osvi_sandbox.sessions[overtaken.session_id].mode == "ai"

    @pytest.mark.parametrize("fault", [None, Drop()])
    def test_where_it_does_not_tell_nothing_is_lost(self, overtaken, osvi_sandbox, fault, caplog):
        if fault:
            osvi_sandbox.script(None, *[fault] * 9)  # asking is tried again
        else:
            osvi_sandbox.sessions[overtaken.session_id].change(status="dormant")
        assert take_over(overtaken).session.mode == "support"
        assert {each.outcome for each in overtaken.actions.all()} == {"done"}
        assert ("whose turn it is" in caplog.text) == bool(fault)


@pytest.mark.django_db(transaction=True)
def test_of_many_at_the_same_moment_one_sends(mirrored, osvi_sandbox):
    session, errors, others_done = mirrored(), [], threading.Event()

    def say():
        try:
            whisper(ChatSession.objects.get(pk=session.pk), "Be kind")
        except SentBefore as error:
            errors.append(error)
            if len(errors) == 7:
                others_done.set()
        finally:
            connection.close()

    osvi_sandbox.script(session.session_id, *[CallThenAnswer(partial(others_done.wait, 10))] * 8)
    threads = [threading.Thread(target=say) for _number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(errors), len(osvi_sandbox.requests)) == (7, 1)
    assert journal().outcome == "done"


def changed(**changes):
    """The row changes while OSVI is asked."""
    return CallThenAnswer(partial(ChatSession.objects.update, **changes))


@pytest.mark.django_db(transaction=True)
class TestWhatItChanges:
    def test_to_take_over_and_to_hand_back(self, mirrored, osvi_sandbox):
        session = mirrored(help_requested=True)
        result = take_over(session)
        assert result.session is session
        assert (session.mode, session.active_human) == ("support", "Support operator")
        assert session.help_requested is False
        assert receive_message(session, "Hello?").reply is None
        assert send_message(session, "I am Sam.").reply is None
        hand_back(session)
        assert (session.mode, session.active_human) == ("ai", "")
        assert receive_message(session, "Hello?").reply == REPLY
        said = osvi_sandbox.sessions[session.session_id].messages
        assert said[:2] == [("customer", "Hello?"), ("operator", "I am Sam.")]

    def test_only_who_has_taken_over_writes_to_the_customer(self, mirrored, osvi_sandbox):
        with pytest.raises(WrongMode, match="Take over first"):
            send_message(mirrored(), "I am Sam.")
        assert osvi_sandbox.requests == []

    def test_the_last_five_facts_are_mirrored(self, mirrored, osvi_sandbox):
        session = mirrored(metadata={"id": "x", "metadata": {"state_fields": {"a": 1}}})
        for word in "abcdef":
            inject_context(session, word)
        kept = {"state_fields": {"a": 1}, "context": list("bcdef")}
        assert session.metadata == {"id": "x", "metadata": kept}

    def test_odd_metadata_does_not_matter(self, mirrored):
        session = mirrored(metadata={"metadata": "text"})
        inject_context(session, "a")
        assert session.metadata == {"metadata": {"context": ["a"]}}

    def test_news_that_come_meanwhile_are_kept(self, mirrored, osvi_sandbox):
        session = mirrored(metadata={"id": "x", "metadata": {"state_fields": {"step": 1}}})
        soon = timezone.now() + timedelta(minutes=5)
        osvi_sandbox.script(
            session.session_id, CallThenAnswer(partial(self.tell_of, session, soon))
        )
        assert context_of(inject_context(session, "a").session) == ["a"]
        assert session.metadata["metadata"]["state_fields"] == {"step": 2}
        assert (session.help_requested, session.osvi_updated_at) == (True, soon)

    @pytest.mark.parametrize(
        ("known", "added"), [([], ["b"]), (list("1234"), ["b"]), (list("12345"), ["b", "c"])]
    )
    def test_so_are_facts_that_others_add_meanwhile(self, mirrored, osvi_sandbox, known, added):
        session = mirrored(metadata={"metadata": {"context": known}})
        osvi_sandbox.sessions[session.session_id].change(context=known)
        after = [*known, "a", *added][-5:]
        soon = timezone.now() + timedelta(seconds=5)
        tell_of = partial(self.tell_of, session, soon, after)
        osvi_sandbox.script(session.session_id, CallThenAnswer(tell_of))
        assert context_of(inject_context(session, "a").session) == after

    def test_the_same_facts_in_turns_are_mirrored(self, mirrored):
        session = mirrored()
        for word in "xyxyxyxyx":
            inject_context(session, word)
        assert context_of(session) == list("xyxyx")

    def tell_of(self, session, moment, context=()):
        """Mirror what OSVI tells of a session at this moment."""
        told = {"state_fields": {"step": 2}, "context": list(context)}
        mirror_session(
            {
                "id": session.session_id,
                "status": "active",
                "customer_id": session.customer_id,
                "help_requested": True,
                "metadata": told,
                "updated_at": rest_datetime(moment),
            }
        )

    def test_no_act_makes_what_is_known_older(self, mirrored, osvi_sandbox):
        session = mirrored()
        soon = timezone.now() + timedelta(minutes=5)
        osvi_sandbox.script(session.session_id, changed(osvi_updated_at=soon))
        assert take_over(session).session.osvi_updated_at == soon

    def test_a_customer_wakes_a_dormant_session(self, mirrored):
        session = mirrored(status="dormant")
        receive_message(session, "Hello?")
        assert session.status == "active"

    def test_nobody_wakes_a_session_that_is_being_closed_by_now(self, mirrored, osvi_sandbox):
        session = mirrored(status="dormant")
        osvi_sandbox.script(session.session_id, changed(status="closing"))
        receive_message(session, "Hello?")
        assert session.status == "closing"

    def test_a_session_that_is_closed_by_now_stays_as_it_is(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, changed(status="closed"))
        assert take_over(session).action.outcome == "done"
        assert (session.status, session.mode) == ("closed", "ai")

    def test_an_older_object_that_arrives_late_does_not_undo_it(self, mirrored, osvi_sandbox):
        session = mirrored()
        old = osvi_sandbox.sessions[session.session_id].as_json()
        take_over(session)
        mirror_session(old)
        session.refresh_from_db()
        assert session.mode == "support"
        mirror_session(osvi_sandbox.sessions[session.session_id].as_json() | {"mode": "ai"})
        session.refresh_from_db()
        assert session.mode == "ai"

    def test_a_command_that_is_switched_off_is_refused_in_osvis_words(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.switched_off.add((session.agent.uuid, "whisper"))
        with pytest.raises(OSVIRejected) as caught:
            whisper(session, "Be kind")
        assert str(caught.value) == (
            "OSVI refused the request. Nothing has changed. OSVI said: “command whisper is "
            "switched off”"
        )
        assert journal().error_reason == "command whisper is switched off"

    @pytest.mark.parametrize("fields", [{"agent__uuid": None}, {"customer_id": ""}])
    def test_a_customers_message_needs_agent_and_customer(self, osvi_sandbox, fields):
        session = ChatSessionFactory(**fields)
        with pytest.raises(InvalidInput, match="Look up the customer first") as caught:
            receive_message(session, "Hello?")
        assert caught.value.field == "customer_id"
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_an_unconfirmed_session_may_be_spoken_in(self, mirrored):
        session = mirrored(status="unconfirmed")
        assert whisper(session, "Be kind").action.outcome == "done"

    def test_a_session_with_actions_closes_as_any_other(self, mirrored):
        session = mirrored()
        take_over(session)
        assert close_session(session).summary is not None
        assert str(SupportAction.objects.get()) == f"{session.session_id}: took over"


@pytest.mark.django_db(transaction=True)
class TestTheDatabaseGoesAway:
    @pytest.fixture(autouse=True)
    def little_patience(self, monkeypatch):
        monkeypatch.setattr("osvi_django.database.PATIENCE_BEFORE", 0.1)

    @pytest.fixture
    def broken(self, osvi_sandbox):
        """From OSVI's answer on, nothing can be written any more."""

        def is_late(sql, _params):
            return osvi_sandbox.requests and not sql.startswith("SELECT")

        with raise_on_queries(is_late, OperationalError("a secret")):
            yield

    @pytest.mark.parametrize("kind", ACTS)
    def test_what_was_done_is_returned_all_the_same(self, mirrored, broken, kind, caplog):
        session = mirrored(mode="support", customer_id="+1555")
        if kind == "message":
            kind = "takeover"
        result = act(kind, session)
        assert result.action.outcome == "done"
        assert journal().outcome == "started"
        assert "could not be written: OperationalError" in caplog.text
        assert "secret" not in caplog.text

    def test_a_refusal_is_raised_all_the_same(self, mirrored, broken, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(422, errors=["No"]))
        with pytest.raises(OSVIRejected):
            take_over(session)

    def test_one_that_is_deleted_meanwhile_is_logged(self, mirrored, osvi_sandbox, caplog):
        session = mirrored()
        osvi_sandbox.script(session.session_id, CallThenAnswer(ChatSession.objects.all().delete))
        assert take_over(session).action.outcome == "done"
        assert "could not be mirrored: SessionNotFound" in caplog.text

    @pytest.mark.parametrize("kind", ["takeover", "tell"])
    def test_one_that_is_deleted_before_it_is_written_down_is_not_found(
        self, mirrored, osvi_sandbox, kind
    ):
        session, looked = mirrored(), []

        def is_first_look(sql, _params):
            return "chatsession" in sql and not looked and not looked.append(sql)

        gone = call_after_queries(is_first_look, ChatSession.objects.all().delete)
        with gone, pytest.raises(SessionNotFound):
            act(kind, session)
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("form_key", [None, uuid.UUID(int=7)])
    def test_action_of_deleted_user_raises_and_sends_nothing(
        self, mirrored, osvi_sandbox, django_user_model, form_key
    ):
        user = django_user_model.objects.create_superuser("gone")
        django_user_model.objects.all().delete()
        with pytest.raises(IntegrityError):
            take_over(mirrored(), requested_by=user, form_key=form_key)
        assert osvi_sandbox.requests == []

    def test_before_anything_is_sent_it_is_an_error(self, mirrored, osvi_sandbox):
        session = mirrored()
        gone = raise_on_queries(lambda sql, _params: sql.startswith("INSERT"), OperationalError())
        with gone, pytest.raises(OperationalError):
            take_over(session)
        assert osvi_sandbox.requests == []


@pytest.mark.django_db
class TestForget:
    @pytest.fixture(autouse=True)
    def _few_at_a_time(self, monkeypatch, osvi_sandbox):
        monkeypatch.setattr(retention, "_CHUNK", 2)

    def add(self, days, *, number=1, **fields):
        session = ChatSessionFactory(**{f"agent__{k}": v for k, v in fields.items()})
        ago = timezone.now() - timedelta(days=days)
        words = {"text": "said", "reply": "answered", "answer": "{}"}
        for _number in range(number):
            SupportAction.objects.create(
                session=session, kind="tell", started_at=ago, finished_at=ago, **words
            )
        return session

    def left(self):
        return SupportAction.objects.exclude(text="").count()

    def test_old_texts_are_removed_and_the_journal_stays(self):
        self.add(91, number=5)
        self.add(89, number=2)
        assert forget_texts() == 5
        assert forget_texts() == 0
        assert self.left() == 2
        gone = SupportAction.objects.filter(redacted_at__isnull=False)
        assert set(gone.values_list("text", "reply", "answer", "kind")) == {("", "", "", "tell")}

    def test_each_account_has_its_own_time(self, settings):
        account = settings.OSVI["default"]
        settings.OSVI = {
            "default": {**account, "TEXT_RETENTION_DAYS": None},
            "short": {**account, "TEXT_RETENTION_DAYS": 0.5},
        }
        self.add(1_000, account="default")
        self.add(1, account="short")
        self.add(0.1, account="short")
        self.add(91, account="no_more")
        self.add(89, account="no_more")
        assert forget_texts() == 2
        assert self.left() == 3

    def test_what_is_under_way_keeps_its_text(self, settings):
        settings.OSVI["default"]["TEXT_RETENTION_DAYS"] = 0
        for days in (0.001, 3):
            ago = timezone.now() - timedelta(days=days)
            action = SupportAction(session=ChatSessionFactory(), kind="tell", started_at=ago)
            action.text = "said"
            action.save()
        assert forget_texts() == 1
        assert self.left() == 1

    def test_a_setting_that_cannot_be_used_forgets_nothing(self, settings):
        settings.OSVI["default"]["TEXT_RETENTION_DAYS"] = "90"
        self.add(1_000)
        with pytest.raises(InvalidSetting):
            forget_texts()
        assert self.left() == 1


@pytest.mark.django_db
class TestForgetContext:
    """Context is in the session as well as in the journal."""

    @pytest.fixture
    def session(self, mirrored):
        known = {"state_fields": {"step": 2}, "context": ["told by OSVI"]}
        return mirrored(metadata={"id": "x", "metadata": known})

    @pytest.fixture
    def add(self, session):
        def _add(text, days, outcome="done"):
            ago = timezone.now() - timedelta(days=days)
            metadata = session.metadata["metadata"]
            metadata["context"] = [*metadata["context"], text]
            session.save()
            SupportAction.objects.create(
                session=session,
                kind="context",
                text=text,
                outcome=outcome,
                started_at=ago,
                finished_at=ago,
            )

        return _add

    def test_what_is_old_is_removed_and_nothing_else(self, session, add):
        add("a", 91)
        add("b", 100, "no_answer")
        add("refused, and told by OSVI", 91, "rejected")
        add("A", 89)
        updated_at = session.updated_at
        other = ChatSessionFactory(metadata={"metadata": {"context": ["a"]}})
        assert forget_texts() == 3
        session.refresh_from_db()
        left = ["told by OSVI", "refused, and told by OSVI", "A"]
        known = {"state_fields": {"step": 2}, "context": left}
        assert session.metadata == {"id": "x", "metadata": known}
        assert session.updated_at == updated_at
        other.refresh_from_db()
        assert context_of(other) == ["a"]

    def test_what_was_added_once_more_stays_until_that_is_old(self, session, add, settings):
        add("a", 91)
        add("a", 10)
        assert forget_texts() == 1
        session.refresh_from_db()
        assert context_of(session) == ["told by OSVI", "a", "a"]
        settings.OSVI["default"]["TEXT_RETENTION_DAYS"] = 5
        assert forget_texts() == 1
        session.refresh_from_db()
        assert context_of(session) == ["told by OSVI"]

    def test_what_osvi_keeps_no_more_is_gone_already(self, session, add):
        add("a", 91)
        ChatSession.objects.update(metadata={"metadata": {"context": ["z"]}})
        assert forget_texts() == 1
        session.refresh_from_db()
        assert session.metadata == {"metadata": {"context": ["z"]}}

    def test_each_session_is_read_alone_however_many_they_are(
        self, mirrored, monkeypatch, django_assert_max_num_queries
    ):
        monkeypatch.setattr(retention, "_CHUNK", 10)
        sessions = [mirrored(customer_id=f"+{number}") for number in range(25)]
        for session in sessions:
            inject_context(session, "a")
        ago = timezone.now() - timedelta(days=91)
        SupportAction.objects.update(started_at=ago)
        with django_assert_max_num_queries(25 * 9 + 20):
            assert forget_texts() == 25
        assert [context_of(each) for each in ChatSession.objects.all()] == [[]] * 25


@pytest.mark.django_db(transaction=True)
def test_news_that_come_while_context_is_forgotten_are_kept(mirrored):
    session = mirrored()
    inject_context(session, "a")
    SupportAction.objects.update(started_at=timezone.now() - timedelta(days=91))
    news = {"id": session.session_id, "status": "active", "customer_id": session.customer_id}
    news |= {"metadata": {"state_fields": {"step": 2}, "context": ["b"]}}

    def tell():
        try:
            mirror_session(news)
        finally:
            connection.close()

    def tell_meanwhile():
        thread.start()
        thread.join(0.3)  # which waits for the commit

    def is_look(sql, _params):
        return sql.startswith("SELECT") and "metadata" in sql.partition("FROM")[0]

    thread = threading.Thread(target=tell)
    with call_after_queries(is_look, tell_meanwhile):
        assert forget_texts() == 1
    thread.join()
    session.refresh_from_db()
    assert session.metadata == news


class TestContextOf:
    @pytest.mark.parametrize(
        "metadata",
        [[], "x", {}, {"metadata": None}, {"metadata": {"context": "x"}}, {"metadata": []}],
    )
    def test_odd_metadata_has_no_context(self, metadata):
        assert context_of(ChatSession(metadata=metadata)) == []
