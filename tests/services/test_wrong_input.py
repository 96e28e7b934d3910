"""Test that each public function refuses values of wrong types, and names the argument."""

from __future__ import annotations

import inspect
import threading
import uuid
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta

import pytest

from osvi_django import services
from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ChatAgent, ChatSession, DataExport, WebhookReceiver
from osvi_django.services import SessionFilter, export_sessions, send_message, start_session
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
    CloseJobFactory,
)
from tests.services.helpers import STARTED, session_object

pytestmark = pytest.mark.django_db

# PostgreSQL cannot store the first, and no database the second.
UNSTORABLE = ["a\x00b", "\ud800"]
_TEXT = {"valid": "Hello", "wrong": [None, 5, b"x", ["x"], *UNSTORABLE]}
_ID = {"valid": "id-1", "wrong": [5, b"x", ["x"], ".", *UNSTORABLE]}
_FLAG = {"valid": False, "wrong": [None, "no", 0, 1, []]}
_DAY = {"valid": None, "wrong": ["2026-01-01", 0, datetime(2026, 1, 1, tzinfo=UTC)]}
_CALL = {"wrong": ["x", 5]}
# By the names of the arguments, which mean the same in each function.
ARGUMENTS = {
    "account": {"valid": None, "wrong": [5, b"x", [], ["default"], *UNSTORABLE]},
    "agent_uuid": _ID,
    "attempt": {"wrong": [None, 5, "x"]},
    "close_reason": _TEXT,
    "context": {"valid": None, "wrong": ["", "x", 5, {}, [5], [None], *map(list, UNSTORABLE)]},
    "customer_id": _ID,
    "deliveries": {"valid": [], "wrong": [None, 5, "x", [5], ["x"]]},
    "draft": _FLAG,
    "dry_run": _FLAG,
    "file_format": {"valid": "csv", "wrong": [None, 5, "pdf", ["csv"], *UNSTORABLE]},
    "first": _DAY,
    "form_key": {"valid": None, "wrong": [5, "x", b"x"]},
    "goodbye": _TEXT | {"valid": ""},
    "include_cancelled": _FLAG,
    "include_help_requested": _FLAG,
    "include_taken_over": _FLAG,
    "input_fields": {"valid": None, "wrong": ["", " ", "x", 5, True, [], [1]]},
    "job": {"wrong": [None, 5, "x"]},
    "job_id": {"valid": uuid.uuid4(), "wrong": [None, "x", 1.5, [], True, 10**30, -1]},
    "join": _FLAG,
    "last": _DAY,
    "lines": {"valid": [], "wrong": [None, 5, "x", [5], [None], *map(list, UNSTORABLE)]},
    "note": _TEXT,
    "older_than": {"valid": None, "wrong": [5, "x", timedelta.max]},
    "on_left": _CALL,
    "on_progress": _CALL,
    "on_trouble": _CALL,
    "only": {"valid": ["texts"], "wrong": [None, 5, "texts", [5], [[]], ["x", 5], UNSTORABLE]},
    "payload": {"wrong": [None, 5, "x", []]},
    "receiver": {"wrong": [None, 5, "x"]},
    "replace": _FLAG,
    "requested_by": {"valid": None, "wrong": ["sam", 5]},
    "resend": _FLAG,
    "retry_of": {"valid": None, "wrong": [5, "x"]},
    "search": {"valid": None, "wrong": [5, b"x", ["x"], *UNSTORABLE]},
    "seconds": {"valid": 1, "wrong": [None, "x", 0, float("nan"), True]},
    "selection": _TEXT,
    "session": {"wrong": [None, 5, "x"]},
    "session_id": _ID | {"wrong": [None, *_ID["wrong"]]},
    "sessions": {"wrong": [None, 5, "x", [5]]},
    "start": _FLAG,
    "stop": _CALL,
    "taken_over_at": {"valid": None, "wrong": ["x", 5, date(2026, 1, 1)]},
    "text": _TEXT,
    "top": {"valid": 5, "wrong": [None, "5", 1.5, True]},
    "until": {"valid": None, "wrong": ["2099-01-01", 5]},
    "via": {"valid": "code", "wrong": [None, 5, *UNSTORABLE]},
}
# The keywords of the functions that act on a session, which share one type of options.
OPTIONS = ("requested_by", "via", "form_key", "resend")
# What errors call an argument if not by its own name.
NAMED = {("create_close_job", "sessions"): "session_ids"}
# Any text can be looked for, and is not found.
ANY_TEXT = {("find_session", "session_id"), ("search_sessions", "text")}


def parameters(name):
    """Return the names of the arguments of a public function."""
    for each, parameter in inspect.signature(getattr(services, name)).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            yield each
        elif name == "hand_back":
            yield from ("requested_by", "via", "form_key", "taken_over_at")
        else:
            yield from OPTIONS


# An asynchronous twin calls the function that it is named after.
FUNCTIONS = [
    name
    for name in services.__all__
    if inspect.isfunction(getattr(services, name)) and name[1:] not in services.__all__
]


@pytest.fixture
def valid(two_accounts):
    """Return an argument of each name that can be used."""
    session, stop = ChatSessionFactory(), threading.Event()
    stop.set()
    rows = {
        "session": session,
        "sessions": ChatSession.objects.all(),
        "job": CloseJobFactory(),
        "attempt": CloseAttemptFactory(session=session),
        "receiver": WebhookReceiver(key="x"),
        "stop": stop,
        "payload": session_object() | STARTED,
    }
    return rows | {name: values["valid"] for name, values in ARGUMENTS.items() if "valid" in values}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_service_refuses_wrong_types_and_names_argument(valid, function):
    known = [*parameters(function)]
    given = {name: valid[name] for name in known if name in valid}
    for argument in known:
        for wrong in ARGUMENTS[argument]["wrong"]:
            if isinstance(wrong, str) and (function, argument) in ANY_TEXT:
                continue
            with pytest.raises((InvalidInput, NotAllowed)) as caught:
                list_if_lazy(getattr(services, function)(**{**given, argument: wrong}))
            named = getattr(caught.value, "field", "requested_by")
            assert named == NAMED.get((function, argument), argument), (argument, wrong)


def test_any_text_can_be_looked_for():
    ChatSessionFactory()
    for text in ["", " ", "x" * 10_000, *UNSTORABLE]:
        assert services.find_session(text) is None
        assert not services.search_sessions(text).kinds


def test_message_names_type_as_the_caller_knows_it(osvi_sandbox):
    session = ChatSessionFactory()
    wrong = {
        "customer_id must be a text, but its type is bytes.": {"customer_id": b"x"},
        "input_fields must be a dictionary, but its type is list.": {"input_fields": []},
        "context must be a list, but its type is dict.": {"context": {}},
        "note must be a text, but its type is bytes.": {"note": b"x"},
    }
    for said, given in wrong.items():
        with pytest.raises(InvalidInput) as caught:
            start_session(**{"agent_uuid": "a", "customer_id": "+1", **given})
        assert str(caught.value) == said
    with pytest.raises(InvalidInput, match="text must be a text, but its type is bytes"):
        send_message(session, b"x")
    assert osvi_sandbox.requests == []


def list_if_lazy(found):
    """Run what a function does while it is iterated over."""
    if isinstance(found, Iterator):
        list(found)


NO_MOMENTS = [
    "2026-01-01",
    0,
    date(2026, 1, 1),
    datetime(2026, 1, 1),  # noqa: DTZ001  # it is about this
    datetime(1, 1, 1, tzinfo=UTC),
]
NO_IDS = [5, "", ["x"], *UNSTORABLE]
FILTERS = {
    "status": [5, "bogus", "active,", "", [], [5], [["active"]], b"active", *UNSTORABLE],
    "mode": [5, "bogus", ["ai"], *UNSTORABLE],
    "summary_status": [5, "bogus", ["stored"], *UNSTORABLE],
    "open": ["yes", 0, 1],
    "help_requested": ["no", 0],
    "close_reason": [5, ["x"], "x" * 256, *UNSTORABLE],
    "close_job": ["x", "5", True, 1.5, 0, -1, 2**63],
    "exclude_agents": [5, [5], [["x"]], [""], *UNSTORABLE, UNSTORABLE],
    "account": NO_IDS,
    "agent_uuid": NO_IDS,
    "customer_id": NO_IDS,
    "closed_by": NO_IDS,
    "idle_since": NO_MOMENTS,
    "started_after": NO_MOMENTS,
    "started_before": NO_MOMENTS,
    "closed_after": NO_MOMENTS,
    "closed_before": NO_MOMENTS,
    "updated_after": NO_MOMENTS,
    "updated_before": NO_MOMENTS,
}


def test_wrong_values_of_each_filter_are_known():
    assert set(FILTERS) == {each.name for each in fields(SessionFilter)}


@pytest.mark.parametrize("name", FILTERS)
def test_filter_refuses_wrong_values_and_names_field(name):
    for wrong in FILTERS[name]:
        with pytest.raises(InvalidInput, match=f"^{name}") as caught:
            SessionFilter(**{name: wrong})
        assert caught.value.field == name, wrong


@pytest.mark.parametrize(
    "choose",
    [
        lambda sessions: [*sessions],
        lambda sessions: sessions[:1],
        lambda sessions: sessions.values(),
        lambda sessions: sessions.values_list("pk", flat=True),
        lambda sessions: sessions.union(sessions),
        lambda _sessions: ChatSession.objects,
        lambda _sessions: ChatAgent.objects.all(),
    ],
)
def test_export_refuses_what_cannot_be_filtered_further(choose):
    ClosedSessionFactory()
    with pytest.raises(InvalidInput, match="without values") as caught:
        export_sessions(choose(ChatSession.objects.all()), file_format="csv")
    assert caught.value.field == "sessions"
    assert not DataExport.objects.exists()


def test_export_refuses_unusable_search_and_via():
    for field, wrong in {"search": "!!!", "via": "x" * 33}.items():
        with pytest.raises(InvalidInput) as caught:
            export_sessions(SessionFilter(), file_format="csv", **{field: wrong})
        assert caught.value.field == field
    assert not DataExport.objects.exists()
