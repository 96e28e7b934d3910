"""Test the message of a take-over, and that a hand back ends only the one that is known."""

from __future__ import annotations

from datetime import timedelta

import pytest

from osvi_django.exceptions import TakeOverChanged
from osvi_django.models import SupportAction
from osvi_django.services import hand_back, take_over

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sam(staff, grant):
    return grant(staff, "operate_chatsession")


def test_take_over_with_text_sends_and_stores_it(mirrored, osvi_sandbox):
    session = mirrored()
    take_over(session, " Sam cares for this. ")
    assert osvi_sandbox.requests[-1].body == {
        "command": "takeover",
        "message": "Sam cares for this.",
    }
    said = osvi_sandbox.sessions[session.session_id].messages
    assert said == [("guidance", "Sam cares for this.")]
    assert SupportAction.objects.get().text == "Sam cares for this."


def test_hand_back_of_known_take_over_is_done(mirrored, sam):
    session = mirrored()
    known = take_over(session, requested_by=sam).session.taken_over_at
    assert hand_back(session, taken_over_at=known).session.mode == "ai"


def test_hand_back_after_take_over_by_colleague_raises(mirrored, sam, osvi_sandbox):
    session = mirrored()
    known = take_over(session).session.taken_over_at
    hand_back(session)
    take_over(session, requested_by=sam)
    number = len(osvi_sandbox.requests)
    for expected in (known, None, known - timedelta(days=1)):
        with pytest.raises(TakeOverChanged, match="a colleague has taken over") as caught:
            hand_back(session, taken_over_at=expected)
        assert (caught.value.was_sent, caught.value.retryable) == (False, False)
    assert (session.mode, session.taken_over_by) == ("support", sam)
    assert len(osvi_sandbox.requests) == number


def test_hand_back_after_hand_back_raises(mirrored):
    session = mirrored()
    known = take_over(session).session.taken_over_at
    hand_back(session)
    with pytest.raises(TakeOverChanged, match="handed back already"):
        hand_back(session, taken_over_at=known)


def test_hand_back_of_take_over_elsewhere_is_done(mirrored, osvi_sandbox):
    session = mirrored(mode="support")
    assert hand_back(session, taken_over_at=None).session.mode == "ai"


def test_take_over_and_hand_back_over_rest(mirrored, operator, osvi_sandbox):
    session = mirrored()
    url = f"/api/osvi/sessions/{session.session_id}/support/"
    body = {"command": "takeover", "message": "Sam cares for this."}
    taken = operator.post(url, body, format="json").json()
    assert taken["taken_over_by"] == "sam"
    assert osvi_sandbox.requests[-1].body == body
    old = {"command": "end", "taken_over_at": "2026-01-31T12:00:00Z"}
    refused = operator.post(url, old, format="json")
    assert (refused.status_code, refused.json()["code"]) == (409, "takeover_changed")
    known = {"command": "end", "taken_over_at": taken["taken_over_at"]}
    done = operator.post(url, known, format="json").json()
    assert (done["mode"], done["taken_over_by"], done["taken_over_at"]) == ("ai", None, None)


@pytest.mark.parametrize("value", ["2026-01-31T12:00:00", "soon", 7])
def test_hand_back_over_rest_with_odd_time_is_refused(mirrored, operator, value):
    session = mirrored(mode="support")
    url = f"/api/osvi/sessions/{session.session_id}/support/"
    body = {"command": "end", "taken_over_at": value}
    response = operator.post(url, body, format="json")
    assert (response.status_code, list(response.json()["errors"])) == (400, ["taken_over_at"])
