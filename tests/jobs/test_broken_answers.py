"""Malformed answers in a job: their summaries are stored, those of another session are not."""

from __future__ import annotations

import json

from osvi_django.models import CloseAttempt, SessionSummary
from osvi_django.testing import Junk

TEXT = "Größe: “M”."


def close_answer(session_id, **data):
    """Return the body of OSVI's answer to a close."""
    return json.dumps({"success": True, "data": {"session_id": session_id, **data}})


def test_job_with_malformed_answers_reads_all_but_another_sessions(
    chats, close_all, osvi_sandbox, outcomes
):
    sessions = chats(6)
    for number, session in enumerate(sessions):
        plain = close_answer(session.session_id, summary=TEXT)
        ensured = json.dumps(json.loads(plain), ensure_ascii=False)
        bodies = [
            ensured.encode("cp1252"),
            plain.encode() + b",",
            plain.encode() + b"\x00",
            (plain + plain).encode(),
            plain.replace("true", '"true"').encode(),
            close_answer(sessions[0].session_id, summary="Another's.").encode(),
        ]
        osvi_sandbox.script(session.session_id, Junk(bodies[number], "application/json"))
    job = close_all()
    assert (job.succeeded, job.unconfirmed) == (5, 1)
    assert outcomes(job)[sessions[5].session_id] == "unconfirmed"
    assert set(SessionSummary.objects.values_list("text", flat=True)) == {TEXT}
    assert not SessionSummary.objects.filter(session=sessions[5]).exists()
    kept = CloseAttempt.objects.exclude(answer_bytes=None)
    assert {each.session for each in kept} == {sessions[0], sessions[2]}
