"""Test support actions: what OSVI gets, what is stored, and what is refused."""

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
    OSVIUnknown,
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
from osvi_django.services.privacy.texts import redact_texts
from osvi_django.services.support import (
    TEXT_MAX_LENGTH,
    context_of,
    hand_back,
    inject_context,
    receive_message,
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
from tests.services.helpers import run_at_once

# By kind: the function, and what OSVI gets.
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
    """Create a session that is taken over, so that every action is allowed."""
    made = mirror(osvi_sandbox, mode="support", customer_id="+1555")
    osvi_sandbox.sessions[made.session_id].mode = "support"
    return made


def act(kind, session, text="Offer 10%", **named):
    function = ACTS[kind][0]
    return function(session, **named) if kind in WORDLESS else function(session, text, **named)


def stored_action():
    return SupportAction.objects.get()


class TestEachAction:
    def test_action_is_sent_and_stored(self, session, osvi_sandbox, kind, staff, grant):
        user = grant(staff, "operate_chatsession")
        result = act(kind, session, "  Offer 10%\n", requested_by=user, via="admin")
        [request] = osvi_sandbox.requests
        _function, path, body = ACTS[kind]
        if kind == "inbound":
            who = {"agent_uuid": session.agent.uuid, "customer_id": "+1555"}
            body = {**body, **who, "session_id": session.session_id}
        assert (request.path, request.body) == (path.format(id=session.session_id), body)
        action = stored_action()
        assert result.action == action
        assert (action.kind, action.outcome, action.via) == (kind, "done", "admin")
        assert (action.requested_by, action.http_status) == (user, 200)
        assert action.text == ("" if kind in WORDLESS else "Offer 10%")
        assert '"success": true' in action.answer
        assert action.finished_at is not None
        assert action.reply == (result.reply or "") == (REPLY if kind == "tell" else "")

    @pytest.mark.django_db(transaction=True)
    def test_action_is_committed_before_it_is_sent(self, session, kind, osvi_sandbox):
        seen = []

        def look():
            seen.append((stored_action().outcome, stored_action().text))

        osvi_sandbox.script(session.session_id, CallThenAnswer(look))
        act(kind, session)
        assert seen == [("started", "" if kind in WORDLESS else "Offer 10%")]

    def test_action_without_permission_raises_not_allowed(self, session, kind, staff, osvi_sandbox):
        with pytest.raises(NotAllowed, match="to operate chat sessions"):
            act(kind, session, requested_by=staff)
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_action_inside_transaction_raises(self, session, kind, osvi_sandbox):
        with transaction.atomic(), pytest.raises(InsideTransaction, match="OSVI cannot be called"):
            act(kind, session)
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_action_in_unconfirmed_session_raises_session_closed(self, session, osvi_sandbox, kind):
        ChatSession.objects.update(status="unconfirmed")
        with pytest.raises(
            SessionClosed, match=r"may be closed already.*Check with OSVI"
        ) as caught:
            act(kind, session)
        assert (caught.value.was_sent, caught.value.retryable) == (False, False)
        assert osvi_sandbox.requests == []
        assert not SupportAction.objects.exists()

    @pytest.mark.parametrize("status", ["closed", "closing"])
    def test_action_in_closed_session_raises_session_closed(
        self, session, kind, status, osvi_sandbox
    ):
        ChatSession.objects.update(status=status)
        with pytest.raises(SessionClosed, match="closed or is being closed"):
            act(kind, session)
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_action_in_deleted_session_raises_not_found(self, session, kind, osvi_sandbox):
        ChatSession.objects.all().delete()
        with pytest.raises(SessionNotFound):
            act(kind, session)
        assert osvi_sandbox.requests == []

    def test_action_with_too_long_via_raises_invalid_input(self, session, kind, osvi_sandbox):
        with pytest.raises(InvalidInput) as caught:
            act(kind, session, via="x" * 33)
        assert caught.value.field == "via"
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("text", ["", "  \n", "x" * (TEXT_MAX_LENGTH + 1)])
    def test_action_with_empty_or_too_long_text_raises_invalid_input(
        self, session, kind, text, osvi_sandbox
    ):
        if kind in WORDLESS:
            return
        with pytest.raises(InvalidInput) as caught:
            act(kind, session, text)
        assert caught.value.field == {"context": "context", "inbound": "content"}.get(
            kind, "message"
        )
        assert osvi_sandbox.requests == []

    @pytest.mark.parametrize("text", ["a\x00b", "\ud83d"])
    def test_action_with_unstorable_text_raises_invalid_input(
        self, session, kind, text, osvi_sandbox
    ):
        if kind in WORDLESS:
            return
        with pytest.raises(InvalidInput, match="cannot be stored"):
            act(kind, session, text)
        assert osvi_sandbox.requests == []

    def test_action_with_unknown_account_raises_not_configured(self, session, kind, settings):
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
                OSVIUnknown,
                "rejected",
                "so nothing has changed. Check the ids in OSVI's dashboard",
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
    def test_action_when_osvi_fails_is_stored_and_not_repeated(
        self, session, kind, osvi_sandbox, fault, error, outcome, words
    ):
        osvi_sandbox.script(session.session_id, fault)
        before = dict(session.metadata)
        with pytest.raises(error, match=words) as caught:
            act(kind, session)
        action = stored_action()
        assert caught.value.action == action
        assert (action.outcome, action.error_code) == (outcome, error.code)
        assert action.finished_at is not None
        assert len(osvi_sandbox.requests) == 1
        session.refresh_from_db()
        assert (session.mode, session.metadata) == ("support", before)
        said = message_for_code(action.error_code, action.error_reason, is_close=False)
        assert said == str(caught.value)
        assert "close" not in said

    def test_action_when_osvi_is_down_is_not_sent(self, session, kind, osvi_sandbox):
        osvi_sandbox.stop()
        with pytest.raises(OSVIUnreachable, match=r"Nothing was sent\. Try"):
            act(kind, session)
        assert stored_action().outcome == "not_sent"

    def test_action_logs_no_text(self, session, kind, osvi_sandbox, caplog):
        caplog.set_level("DEBUG")
        act(kind, session, "a secret")
        osvi_sandbox.script(session.session_id, Status(422, errors=["x"]))
        with pytest.raises(OSVIRejected):
            act(kind, session, "a secret")
        ours = [each.getMessage() for each in caplog.records if "osvi" in each.name]
        assert "secret" not in "".join(ours)

    def test_action_in_session_with_unknown_status_raises(self, session, osvi_sandbox, kind):
        ChatSession.objects.update(status="archived")
        with pytest.raises(UnknownStatus, match="same version"):
            act(kind, session)
        assert osvi_sandbox.requests == []
        assert not SupportAction.objects.exists()


class TestSentBefore:
    """Test that a text is not sent again while it is unknown whether it arrived."""

    @pytest.fixture(params=WITH_WORDS)
    def kind(self, request):
        return request.param

    @pytest.fixture
    def make_lost_action(self, session, osvi_sandbox):
        """Return a function that sends a text to which no answer arrives."""

        def _lost(kind, text="Offer 10%", fault=None):
            osvi_sandbox.script(session.session_id, fault or Drop(after_closing=True))
            with pytest.raises((OSVINoAnswer, OSVIBadAnswer)):
                act(kind, session, text)
            osvi_sandbox.requests.clear()
            return stored_action()

        return _lost

    @pytest.mark.parametrize("fault", [Drop(), Drop(after_closing=True), Status(500), Junk()])
    def test_same_text_after_lost_answer_raises_sent_before(
        self, session, osvi_sandbox, kind, make_lost_action, fault
    ):
        first = make_lost_action(kind, fault=fault)
        with pytest.raises(SentBefore, match="we do not know whether it arrived") as caught:
            act(kind, session, "\nOffer 10%  ")
        assert str(caught.value).endswith("If the text is missing, send it with resend=True.")
        assert (caught.value.code, caught.value.retryable) == ("sent_before", False)
        assert caught.value.action == first
        assert (osvi_sandbox.requests, stored_action()) == ([], first)

    def test_same_text_while_first_is_in_progress_raises_sent_before(
        self, session, osvi_sandbox, kind
    ):
        SupportAction.objects.create(session=session, kind=kind, text="Offer 10%")
        with pytest.raises(SentBefore):
            act(kind, session)
        assert osvi_sandbox.requests == []

    def test_same_text_with_resend_is_sent(self, session, osvi_sandbox, kind, make_lost_action):
        make_lost_action(kind)
        assert act(kind, session, resend=True).action.outcome == "done"
        assert act(kind, session).action.outcome == "done"
        assert len(osvi_sandbox.requests) == 2

    def test_same_text_after_second_lost_answer_raises_sent_before(
        self, session, osvi_sandbox, kind, make_lost_action
    ):
        assert act(kind, session).action.outcome == "done"
        osvi_sandbox.script(session.session_id, Drop())
        with pytest.raises(OSVINoAnswer):
            act(kind, session)
        with pytest.raises(SentBefore):
            act(kind, session)
        assert len(osvi_sandbox.requests) == 2

    @pytest.mark.parametrize("outcome", ["done", "not_sent", "rejected"])
    def test_same_text_after_known_outcome_is_sent(self, session, osvi_sandbox, kind, outcome):
        SupportAction.objects.create(session=session, kind=kind, text="Offer 10%", outcome=outcome)
        act(kind, session)
        assert len(osvi_sandbox.requests) == 1

    def test_same_text_after_refused_repetition_raises_sent_before(
        self, session, osvi_sandbox, kind, make_lost_action
    ):
        first = make_lost_action(kind)
        osvi_sandbox.script(session.session_id, Status(429))
        with pytest.raises(OSVIThrottled):
            act(kind, session, resend=True)
        with pytest.raises(SentBefore) as caught:
            act(kind, session)
        assert caught.value.action == first

    @pytest.mark.parametrize("text", ["offer 10%", "Offer 10", "Offer 1%%", "Óffer 10%", "10%"])
    def test_other_text_after_lost_answer_is_sent(
        self, session, osvi_sandbox, kind, make_lost_action, text
    ):
        make_lost_action(kind)
        act(kind, session, text)
        assert len(osvi_sandbox.requests) == 1

    def test_same_text_of_other_kind_or_session_is_sent(
        self, session, osvi_sandbox, kind, make_lost_action
    ):
        make_lost_action(kind)
        for other in WITH_WORDS:
            if other != kind:
                act(other, session)
        another = mirror(osvi_sandbox, mode="support")
        osvi_sandbox.sessions[another.session_id].mode = "support"
        act(kind, another)
        assert len(osvi_sandbox.requests) == len(WITH_WORDS)

    @pytest.mark.parametrize("character", ["x", "%", "\\", "\N{GRINNING FACE}"])
    def test_long_text_after_lost_answer_raises_sent_before(
        self, session, make_lost_action, character
    ):
        make_lost_action("whisper", character * TEXT_MAX_LENGTH)
        with pytest.raises(SentBefore):
            whisper(session, character * TEXT_MAX_LENGTH)
        whisper(session, character * (TEXT_MAX_LENGTH - 1))

    def test_same_text_after_retention_is_sent(
        self, session, osvi_sandbox, kind, make_lost_action, settings
    ):
        settings.OSVI["default"]["RETENTION"] = {"texts": 0}
        make_lost_action(kind)
        assert sum(redact_texts()) == 1
        act(kind, session)
        assert len(osvi_sandbox.requests) == 1

    def test_same_text_without_permission_raises_not_allowed(
        self, session, kind, make_lost_action, staff
    ):
        make_lost_action(kind)
        with pytest.raises(NotAllowed):
            act(kind, session, requested_by=staff)

    def test_take_over_and_hand_back_after_lost_answer_are_sent(self, session, osvi_sandbox):
        for kind in WORDLESS:
            osvi_sandbox.script(session.session_id, Drop(after_closing=True))
            with pytest.raises(OSVINoAnswer):
                act(kind, session)
            act(kind, session)
        assert len(osvi_sandbox.requests) == 4


class TestFormKey:
    """Test that a form key is accepted once."""

    @pytest.fixture
    def key(self):
        return uuid.uuid4()

    def test_same_form_key_raises_sent_before(self, session, osvi_sandbox, kind, key):
        first = act(kind, session, form_key=key).action
        assert first.form_key == key
        resend = {} if kind in WORDLESS else {"resend": True}
        with pytest.raises(SentBefore, match=r"already sent this form.* new form_key") as caught:
            act(kind, session, form_key=key, **resend)
        assert caught.value.action == first
        assert (len(osvi_sandbox.requests), stored_action()) == (1, first)

    @pytest.mark.parametrize("odd", ["abc", "", 5, b"x", True, ["a"], {}])
    def test_form_key_that_is_no_uuid_raises_invalid_input(self, session, osvi_sandbox, kind, odd):
        with pytest.raises(InvalidInput, match="form_key is not a UUID") as caught:
            act(kind, session, form_key=odd)
        assert caught.value.field == "form_key"
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_form_key_as_text_is_the_same_uuid(self, session, osvi_sandbox, kind, key):
        assert act(kind, session, form_key=str(key)).action.form_key == key
        with pytest.raises(SentBefore):
            act(kind, session, form_key=key)
        assert len(osvi_sandbox.requests) == 1

    def test_same_form_key_with_other_text_raises_sent_before(
        self, session, osvi_sandbox, kind, key
    ):
        whisper(session, "Be kind", form_key=key)
        with pytest.raises(SentBefore):
            act(kind, session, form_key=key)
        assert len(osvi_sandbox.requests) == 1

    def test_same_form_key_in_other_session_does_not_return_action(
        self, session, mirrored, osvi_sandbox, key
    ):
        whisper(session, "Be kind", form_key=key)
        with pytest.raises(SentBefore) as caught:
            whisper(mirrored(), "Be kind", form_key=key)
        assert caught.value.action is None
        assert len(osvi_sandbox.requests) == 1

    def test_other_form_keys_and_none_are_sent(self, session, osvi_sandbox, kind):
        for key in (uuid.uuid4(), uuid.uuid4(), None, None):
            act(kind, session, form_key=key)
        assert len(osvi_sandbox.requests) == 4

    @pytest.mark.parametrize("fault", [Drop(), Status(500), Junk()])
    def test_form_key_after_unknown_outcome_is_used_up(
        self, session, osvi_sandbox, kind, key, fault
    ):
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises((OSVINoAnswer, OSVIBadAnswer)):
            act(kind, session, form_key=key)
        with pytest.raises(SentBefore, match="You already sent this form") as caught:
            act(kind, session, form_key=key)
        assert caught.value.action.outcome in {"no_answer", "bad_answer"}
        assert len(osvi_sandbox.requests) == 1

    @pytest.mark.parametrize("fault", [Status(422), Status(429), Status(401)])
    def test_form_key_after_refusal_can_be_used_again(
        self, session, osvi_sandbox, kind, key, fault
    ):
        osvi_sandbox.script(session.session_id, fault)
        with pytest.raises(OSVIRejected):
            act(kind, session, form_key=key)
        assert act(kind, session, form_key=key).action.outcome == "done"


@dataclass(frozen=True)
class Overtaken(Fault):
    """Carry out the request, and do something else before the answer is sent."""

    do: Callable[[], object]

    def play(self, exchange):
        answer = exchange.carry_out()
        try:
            self.do()
        finally:
            connection.close()
        exchange.send(answer)


@pytest.mark.django_db(transaction=True)
class TestConcurrentModeChange:
    """Test two changes of the mode of which the second overtakes the answer to the first."""

    @pytest.fixture
    def overtaken_session(self, session, osvi_sandbox):
        def back():
            hand_back(ChatSession.objects.get(pk=session.pk))

        osvi_sandbox.script(session.session_id, Overtaken(back))
        return session

    def test_take_over_during_hand_back_asks_osvi_for_mode(self, overtaken_session, osvi_sandbox):
        assert take_over(overtaken_session).session.mode == "ai"
        overtaken_session.refresh_from_db()
        assert (overtaken_session.mode, overtaken_session.active_human) == ("ai", "")
        assert osvi_sandbox.sessions[overtaken_session.session_id].mode == "ai"

    @pytest.mark.parametrize("fault", [None, Drop()])
    def test_take_over_during_hand_back_when_osvi_does_not_say_is_stored(
        self, overtaken_session, osvi_sandbox, fault, caplog
    ):
        if fault:
            osvi_sandbox.script(None, *[fault] * 9)  # asking is tried again
        else:
            osvi_sandbox.sessions[overtaken_session.session_id].change(status="dormant")
        assert take_over(overtaken_session).session.mode == "support"
        assert {each.outcome for each in overtaken_session.actions.all()} == {"done"}
        assert ("whose turn it is" in caplog.text) == bool(fault)


@pytest.mark.django_db(transaction=True)
def test_same_text_by_many_threads_is_sent_once(mirrored, osvi_sandbox):
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
    run_at_once(say, 8)
    assert (len(errors), len(osvi_sandbox.requests)) == (7, 1)
    assert stored_action().outcome == "done"


def change_meanwhile(**changes):
    """Return a fault that changes the row while OSVI is called."""
    return CallThenAnswer(partial(ChatSession.objects.update, **changes))


@pytest.mark.django_db(transaction=True)
class TestActionEffects:
    def test_take_over_and_hand_back_change_mode(self, mirrored, osvi_sandbox):
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

    def test_send_message_without_takeover_raises_wrong_mode(self, mirrored, osvi_sandbox):
        with pytest.raises(WrongMode, match="Take over first"):
            send_message(mirrored(), "I am Sam.")
        assert osvi_sandbox.requests == []

    def test_inject_context_keeps_last_five_facts(self, mirrored, osvi_sandbox):
        session = mirrored(metadata={"id": "x", "metadata": {"state_fields": {"a": 1}}})
        for word in "abcdef":
            inject_context(session, word)
        kept = {"state_fields": {"a": 1}, "context": list("bcdef")}
        assert session.metadata == {"id": "x", "metadata": kept}

    def test_inject_context_with_odd_metadata_replaces_it(self, mirrored):
        session = mirrored(metadata={"metadata": "text"})
        inject_context(session, "a")
        assert session.metadata == {"metadata": {"context": ["a"]}}

    def test_inject_context_keeps_values_mirrored_meanwhile(self, mirrored, osvi_sandbox):
        session = mirrored(metadata={"id": "x", "metadata": {"state_fields": {"step": 1}}})
        soon = timezone.now() + timedelta(minutes=5)
        osvi_sandbox.script(
            session.session_id, CallThenAnswer(partial(self.mirror_news, session, soon))
        )
        assert context_of(inject_context(session, "a").session) == ["a"]
        assert session.metadata["metadata"]["state_fields"] == {"step": 2}
        assert (session.help_requested, session.osvi_updated_at) == (True, soon)

    @pytest.mark.parametrize(
        ("known", "added"), [([], ["b"]), (list("1234"), ["b"]), (list("12345"), ["b", "c"])]
    )
    def test_inject_context_keeps_facts_added_meanwhile(self, mirrored, osvi_sandbox, known, added):
        session = mirrored(metadata={"metadata": {"context": known}})
        osvi_sandbox.sessions[session.session_id].change(context=known)
        after = [*known, "a", *added][-5:]
        soon = timezone.now() + timedelta(seconds=5)
        mirror_news = partial(self.mirror_news, session, soon, after)
        osvi_sandbox.script(session.session_id, CallThenAnswer(mirror_news))
        assert context_of(inject_context(session, "a").session) == after

    def test_inject_context_with_repeated_facts_keeps_order(self, mirrored):
        session = mirrored()
        for word in "xyxyxyxyx":
            inject_context(session, word)
        assert context_of(session) == list("xyxyx")

    def mirror_news(self, session, moment, context=()):
        """Mirror newer values of OSVI for a session."""
        facts = {"state_fields": {"step": 2}, "context": list(context)}
        mirror_session(
            {
                "id": session.session_id,
                "status": "active",
                "customer_id": session.customer_id,
                "help_requested": True,
                "metadata": facts,
                "updated_at": rest_datetime(moment),
            }
        )

    def test_action_keeps_newer_update_time(self, mirrored, osvi_sandbox):
        session = mirrored()
        soon = timezone.now() + timedelta(minutes=5)
        osvi_sandbox.script(session.session_id, change_meanwhile(osvi_updated_at=soon))
        assert take_over(session).session.osvi_updated_at == soon

    def test_receive_message_in_dormant_session_makes_it_active(self, mirrored):
        session = mirrored(status="dormant")
        receive_message(session, "Hello?")
        assert session.status == "active"

    def test_receive_message_when_close_begins_meanwhile_keeps_status(self, mirrored, osvi_sandbox):
        session = mirrored(status="dormant")
        osvi_sandbox.script(session.session_id, change_meanwhile(status="closing"))
        receive_message(session, "Hello?")
        assert session.status == "closing"

    def test_take_over_when_session_is_closed_meanwhile_keeps_status(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.script(session.session_id, change_meanwhile(status="closed"))
        assert take_over(session).action.outcome == "done"
        assert (session.status, session.mode) == ("closed", "ai")

    def test_take_over_is_not_undone_by_older_object(self, mirrored, osvi_sandbox):
        session = mirrored()
        old = osvi_sandbox.sessions[session.session_id].as_json()
        take_over(session)
        mirror_session(old)
        session.refresh_from_db()
        assert session.mode == "support"
        mirror_session(osvi_sandbox.sessions[session.session_id].as_json() | {"mode": "ai"})
        session.refresh_from_db()
        assert session.mode == "ai"

    def test_command_that_is_switched_off_raises_rejected_with_reason(self, mirrored, osvi_sandbox):
        session = mirrored()
        osvi_sandbox.switched_off.add((session.agent.uuid, "whisper"))
        with pytest.raises(OSVIRejected) as caught:
            whisper(session, "Be kind")
        assert str(caught.value) == (
            "OSVI refused the request. Nothing has changed. OSVI said: “command whisper is "
            "switched off”"
        )
        assert stored_action().error_reason == "command whisper is switched off"

    @pytest.mark.parametrize("fields", [{"agent__uuid": None}, {"customer_id": ""}])
    def test_receive_message_without_agent_or_customer_raises_invalid_input(
        self, osvi_sandbox, fields
    ):
        session = ChatSessionFactory(**fields)
        with pytest.raises(InvalidInput, match="Look up the customer first") as caught:
            receive_message(session, "Hello?")
        assert caught.value.field == "customer_id"
        assert (osvi_sandbox.requests, SupportAction.objects.count()) == ([], 0)

    def test_close_session_with_actions_stores_summary(self, mirrored):
        session = mirrored()
        take_over(session)
        assert close_session(session).summary is not None
        action = SupportAction.objects.select_related("session").get()
        assert str(action) == f"Action {action.pk}: took over"


@pytest.mark.django_db(transaction=True)
class TestDatabaseOutage:
    @pytest.fixture(autouse=True)
    def short_retries(self, monkeypatch):
        monkeypatch.setattr("osvi_django.database.PATIENCE_BEFORE", 0.1)

    @pytest.fixture
    def failing_writes(self, osvi_sandbox):
        """Let all writes fail from OSVI's answer on."""

        def is_late(sql, _params):
            return osvi_sandbox.requests and not sql.startswith("SELECT")

        with raise_on_queries(is_late, OperationalError("a secret")):
            yield

    @pytest.mark.parametrize("kind", ACTS)
    def test_action_when_outcome_cannot_be_stored_returns_it(
        self, mirrored, failing_writes, kind, caplog
    ):
        session = mirrored(mode="support", customer_id="+1555")
        if kind == "message":
            kind = "takeover"
        result = act(kind, session)
        assert result.action.outcome == "done"
        assert stored_action().outcome == "started"
        assert "could not be written: OperationalError" in caplog.text
        assert "secret" not in caplog.text

    def test_refusal_when_outcome_cannot_be_stored_is_raised(
        self, mirrored, failing_writes, osvi_sandbox
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, Status(422, errors=["No"]))
        with pytest.raises(OSVIRejected):
            take_over(session)

    def test_take_over_when_session_is_deleted_meanwhile_logs_it(
        self, mirrored, osvi_sandbox, caplog
    ):
        session = mirrored()
        osvi_sandbox.script(session.session_id, CallThenAnswer(ChatSession.objects.all().delete))
        assert take_over(session).action.outcome == "done"
        assert "could not be mirrored: SessionNotFound" in caplog.text

    @pytest.mark.parametrize("kind", ["takeover", "tell"])
    def test_action_when_session_is_deleted_before_sending_raises_not_found(
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

    def test_action_when_it_cannot_be_stored_sends_nothing(self, mirrored, osvi_sandbox):
        session = mirrored()
        gone = raise_on_queries(lambda sql, _params: sql.startswith("INSERT"), OperationalError())
        with gone, pytest.raises(OperationalError):
            take_over(session)
        assert osvi_sandbox.requests == []
