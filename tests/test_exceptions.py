"""Test the tree of errors: codes, messages, translation and pickling."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.utils import translation
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy

from osvi_django import exceptions
from osvi_django.exceptions import (
    Busy,
    CloseInProgress,
    CustomerBusy,
    InsideTransaction,
    InvalidInput,
    OSVIBadAnswer,
    OSVIError,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
    WrongMode,
    error_for_code,
    generic_messages,
    message_for_code,
)

ERROR_CLASSES = [
    value
    for value in vars(exceptions).values()
    if inspect.isclass(value) and value.__module__ == exceptions.__name__
]
TREE = [kind for kind in ERROR_CLASSES if issubclass(kind, OSVIError)]
NODE = re.compile(r"^    ([ │]*)[├└]── (\w+) +(\w+)  ", re.MULTILINE)
# The same call can be repeated safely, and may succeed.
RETRYABLE = {
    Busy,
    CustomerBusy,
    OSVIUnreachable,
    OSVIGatewayRefused,
    OSVIThrottled,
    CloseInProgress,
}


def classes_in_docstring():
    """Yield name, code and parent of each class below the root in the docstring."""
    parents = ["OSVIError"]
    for indent, name, code in NODE.findall(exceptions.__doc__):
        depth = len(indent) // 4 + 1
        parents[depth:] = [name]
        yield name, code, parents[depth - 1]


def test_docstring_contains_every_class_with_code_and_parent():
    classes = [(kind.__name__, kind.code, kind.__bases__[0].__name__) for kind in TREE[1:]]
    assert sorted(classes_in_docstring()) == sorted(classes)
    assert "\n    OSVIError\n" in exceptions.__doc__


def test_not_configured_is_outside_the_tree_of_osvi_error():
    assert set(ERROR_CLASSES) - set(TREE) == {OSVINotConfigured}
    assert f"\n    OSVINotConfigured           {OSVINotConfigured.code} " in exceptions.__doc__
    assert issubclass(OSVINotConfigured, ImproperlyConfigured)
    assert not issubclass(OSVINotConfigured, OSVIError)


def test_codes_of_errors_are_stable():
    assert {kind.__name__: kind.code for kind in ERROR_CLASSES}.items() >= {
        "OSVIError": "error",
        "InvalidInput": "invalid",
        "InsideTransaction": "inside_transaction",
        "NotAllowed": "permission_denied",
        "SessionNotFound": "not_found",
        "CloseInProgress": "close_in_progress",
        "UnknownStatus": "unknown_status",
        "SentBefore": "sent_before",
        "AlreadyOpen": "already_open",
        "Busy": "busy",
        "OSVIUnreachable": "unreachable",
        "OSVIGatewayRefused": "gateway_refused",
        "OSVIRejected": "rejected",
        "OSVIUnauthorized": "unauthorized",
        "OSVIThrottled": "busy_at_osvi",
        "OSVIBadAnswer": "bad_answer",
        "OSVINoAnswer": "unconfirmed",
        "OSVINotConfigured": "not_configured",
    }.items()


def test_code_shared_by_classes_belongs_to_subclass_of_first():
    """A subclass may share the code of its parent if callers need not distinguish them."""
    first = {}
    for kind in ERROR_CLASSES:
        assert issubclass(kind, first.setdefault(kind.code, kind))


@pytest.mark.parametrize("kind", ERROR_CLASSES)
def test_retryable_is_true_only_for_errors_that_are_safe_to_repeat(kind):
    assert kind.retryable is (kind in RETRYABLE)
    assert kind("x").retryable is kind.retryable


def test_inside_transaction_is_a_runtime_error():
    assert issubclass(InsideTransaction, RuntimeError)


@pytest.mark.parametrize("kind", TREE)
def test_message_of_each_error_is_one_to_three_sentences(kind):
    assert isinstance(kind.message, Promise)
    sentence = str(kind())
    assert re.fullmatch(r"[A-Z][^\n]{10,250}\.", sentence)
    assert 1 <= len(re.findall(r"\.(?: |$)", sentence)) <= 3
    assert "  " not in sentence
    assert "%" not in sentence


@pytest.mark.parametrize("kind", TREE)
def test_message_argument_replaces_default_message(kind):
    assert str(kind("Something else.")) == "Something else."
    assert str(kind(gettext_lazy("Yes"))) == "Yes"


@pytest.mark.parametrize("kind", [k for k in TREE if not issubclass(k, InvalidInput)])
def test_str_with_reason_quotes_osvi_after_message(kind):
    error = kind(reason="100% off", status=422)
    assert str(error) == f"{kind.message} OSVI said: “100% off”"


def test_not_configured_message_contains_problem():
    error = OSVINotConfigured('OSVI["default"]["API_TOKEN"] is missing 100%.')
    assert str(error).startswith("OSVI is not set up on this site, so nothing was done.")
    assert str(error).endswith('OSVI["default"]["API_TOKEN"] is missing 100%.')


@pytest.fixture
def german(monkeypatch):
    """Add German translations of three messages for one test."""
    catalogue = translation.trans_real.translation("de")
    words = {
        "Something went wrong with OSVI.": "Mit OSVI ging etwas schief.",
        "OSVI said: “%(reason)s”": "OSVI sagte: „%(reason)s“",
        "This site has no such chat session.": "Diese Sitzung gibt es hier nicht.",
    }
    for text, translated in words.items():
        monkeypatch.setitem(catalogue._catalog._catalogs[0], text, translated)


def test_str_uses_language_active_when_shown(german):
    error = OSVIError(reason="no")
    message = exceptions.SessionNotFound.message
    with translation.override("de"):
        assert str(error) == "Mit OSVI ging etwas schief. OSVI sagte: „no“"
        assert str(message) == "Diese Sitzung gibt es hier nicht."
    assert str(error) == "Something went wrong with OSVI. OSVI said: “no”"


def test_str_before_apps_are_ready_returns_message(monkeypatch):
    monkeypatch.setattr(translation.trans_real, "_translations", {})
    monkeypatch.setattr(translation.trans_real, "_default", None)
    monkeypatch.setattr(apps, "apps_ready", False)
    translation.deactivate()
    assert str(OSVIError(reason="no")) == "Something went wrong with OSVI. OSVI said: “no”"


@pytest.mark.parametrize("kind", [k for k in TREE if not issubclass(k, InvalidInput)])
@pytest.mark.parametrize("remake", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])  # noqa: S301
@pytest.mark.parametrize("message", ["", "A message.", gettext_lazy("A message.")])
def test_pickled_or_copied_error_keeps_all_attributes(kind, remake, message):
    error = kind(message, status=429, reason="Slow down", retry_after=1.5)
    made = remake(error)
    assert type(made) is kind
    assert (made.code, made.retryable) == (kind.code, kind.retryable)
    assert (made.status, made.reason, made.retry_after) == (429, "Slow down", 1.5)
    assert str(made) == str(error)


def test_pickled_error_keeps_field_and_problem():
    invalid = pickle.loads(pickle.dumps(InvalidInput("Too long.", field="note")))  # noqa: S301
    assert (invalid.field, str(invalid), invalid.status) == ("note", "Too long.", None)
    broken = pickle.loads(pickle.dumps(OSVINotConfigured("No token.")))  # noqa: S301
    assert str(broken) == str(OSVINotConfigured("No token."))


@pytest.mark.parametrize(
    "kind", [OSVIUnauthorized, OSVIThrottled, OSVIRejected, OSVIBadAnswer, OSVINoAnswer]
)
def test_attributes_not_given_are_none(kind):
    error = kind()
    assert (error.status, error.reason, error.retry_after) == (None, "", None)


def test_message_for_code_returns_message_of_its_class():
    assert message_for_code("") == message_for_code("nobody's") == ""
    assert message_for_code("rejected", "No") == str(OSVIRejected(reason="No"))
    assert message_for_code("rejected", is_close=False) == str(OSVIRejected.generic_message)
    assert message_for_code("wrong_mode", is_close=False) == str(WrongMode.message)
    for is_close in (True, False):
        assert message_for_code("not_configured", is_close=is_close).startswith(
            "OSVI is not set up"
        )


@pytest.mark.parametrize("kind", [each for each in TREE if each.generic_message])
def test_not_a_close_replaces_message_by_generic_message(kind):
    with pytest.raises(kind) as caught, generic_messages():
        raise kind
    assert str(caught.value) == str(kind.generic_message)
    assert "clos" not in str(caught.value)
    with pytest.raises(kind, match=r"^Something else"), generic_messages():
        raise kind("Something else.")


def test_not_a_close_keeps_message_without_generic_message():
    with pytest.raises(WrongMode, match="Take over first"), generic_messages():
        raise WrongMode


def test_error_for_code_is_as_it_was_stored():
    refused = error_for_code("rejected", "No", attempt=5)
    assert (type(refused), refused.reason, refused.attempt) == (OSVIRejected, "No", 5)
    assert str(error_for_code("invalid", "note is required.")) == "note is required."
    assert "no token" in str(error_for_code("not_configured", "no token"))
    assert error_for_code("unheard_of") is None
