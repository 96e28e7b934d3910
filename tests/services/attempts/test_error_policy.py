"""Test that each error class is complete, and known to services, REST and the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from osvi_django import exceptions
from osvi_django.client.connections import NetworkRefused
from osvi_django.client.throttle import is_account_wide, is_ambiguous
from osvi_django.exceptions import (
    AnswerNotStored,
    OSVIBadAnswer,
    OSVIError,
    OSVIGatewayRefused,
    OSVINoAnswer,
    OSVINotConfigured,
    OSVIRejected,
    OSVIThrottled,
    OSVIUnauthorized,
    OSVIUnreachable,
)
from osvi_django.models import CloseAttempt, CloseJobItem
from osvi_django.rest.errors import STATUSES
from osvi_django.services.attempts import error_policy

ROOT = Path(__file__).parents[3]
KINDS = [
    kind for kind in error_policy.error_classes() if kind.__module__.startswith("osvi_django.")
]
LEAVES = [kind for kind in KINDS if kind is not OSVIError]
ATTEMPTS = {False: {"not_sent"}, True: {"rejected"}, None: {"bad_answer", "no_answer"}}


def error_of(kind):
    return kind("osvi.example", "Allow it.") if kind is NetworkRefused else kind()


@pytest.fixture(scope="module")
def documentation():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return "\n".join(page.read_text() for page in pages)


def test_error_classes_are_all_of_the_tree():
    written = {kind for kind in vars(exceptions).values() if isinstance(kind, type)}
    written = {kind for kind in written if issubclass(kind, OSVIError | OSVINotConfigured)}
    assert {*KINDS} == {*written, NetworkRefused}


@pytest.mark.parametrize("kind", LEAVES)
@pytest.mark.parametrize("name", ["was_sent", "is_account_wide"])
def test_error_class_sets_each_attribute_itself(kind, name):
    said = [each for each in kind.__mro__ if each is not OSVIError and name in vars(each)]
    assert said, f"{kind.__name__} does not say {name}"


@pytest.mark.parametrize("kind", LEAVES)
def test_error_class_has_http_status(kind):
    assert 400 <= STATUSES[kind.code] < 600


@pytest.mark.parametrize("kind", LEAVES)
def test_error_class_is_documented(kind, documentation):
    rows = [line for line in documentation.splitlines() if line.startswith("| ")]
    assert any(f"`{kind.code}`" in row for row in rows)


@pytest.mark.parametrize("kind", KINDS)
def test_error_class_has_attempt_outcome(kind):
    outcome = error_policy.attempt_outcome(error_of(kind))
    assert outcome in CloseAttempt.Outcome
    assert outcome in ATTEMPTS[kind.was_sent]


@pytest.mark.parametrize("kind", KINDS)
def test_error_class_has_item_outcome(kind):
    outcome = error_policy.item_outcome(error_of(kind))
    if kind.was_sent is None:
        assert outcome == "unconfirmed"
    elif kind.is_account_wide:
        assert outcome == "waiting"
    else:
        assert outcome in CloseJobItem.FAILED
        assert (outcome == "rejected") is bool(kind.was_sent)


@pytest.mark.parametrize("kind", KINDS)
def test_error_class_reopens_session_only_if_osvi_did_not_close_it(kind):
    in_doubt = {OSVIError, OSVIBadAnswer, OSVINoAnswer, AnswerNotStored}
    assert error_policy.reopens(error_of(kind)) is (kind not in in_doubt)


def test_error_classes_that_affect_throttle_are_these():
    wide = {OSVIUnreachable, OSVIUnauthorized, OSVIThrottled, OSVINotConfigured, NetworkRefused}
    assert {kind for kind in KINDS if is_account_wide(error_of(kind))} == wide
    ambiguous = {OSVIError, OSVIBadAnswer, OSVINoAnswer, AnswerNotStored, OSVIGatewayRefused}
    assert {kind for kind in KINDS if is_ambiguous(error_of(kind))} == ambiguous


def test_codes_to_send_later_are_these():
    assert error_policy.codes_to_send_later() == [
        "busy",
        "busy_at_osvi",
        "close_in_progress",
        "customer_busy",
        "gateway_refused",
        "not_configured",
        "unauthorized",
        "unreachable",
    ]


class TestUnknownErrorClass:
    @pytest.fixture
    def error(self):
        """Return an error of a class that only the host knows."""
        namespace = {"code": "unheard_of", "__module__": "host"}
        return type("UnheardOf", (OSVIError,), namespace)()

    def test_unknown_error_class_counts_as_maybe_sent(self, error):
        assert error.was_sent is None
        assert error_policy.attempt_outcome(error) == "no_answer"
        assert error_policy.item_outcome(error) == "unconfirmed"
        assert not error_policy.reopens(error)
        assert not error_policy.may_be_sent_later(error)
        assert is_ambiguous(error)


def test_item_result_of_rejected_error_has_reason_of_osvi():
    result = error_policy.item_result(OSVIRejected(reason="No"))
    assert (result.outcome, result.code, result.reason) == ("rejected", "rejected", "No")
