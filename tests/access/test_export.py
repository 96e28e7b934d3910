"""A file has only the chats that its user may see and export, and only the words they may read."""

from __future__ import annotations

import pytest

from osvi_django.models import ChatSession
from osvi_django.services import SessionFilter, export_sessions
from osvi_django.testing.factories import ClosedSessionFactory
from tests.helpers.exports import read_jsonl

ALL = SessionFilter(status=None)


def exported(user, sessions=ALL):
    return read_jsonl(b"".join(export_sessions(sessions, file_format="jsonl", requested_by=user)))


def narrow_to(settings, chat, *purposes):
    """Let the host allow all for other purposes, and one chat for these."""

    def allowed(_user, purpose):
        chats = ChatSession.objects.all()
        return chats.filter(pk=chat.pk) if purpose in purposes else chats

    settings.OSVI_SESSIONS_FOR = allowed


def test_export_has_only_chats_of_own_tenant(ann, chats):
    assert [row["session_id"] for row in exported(ann)] == [chats.a.session_id]
    every = ChatSession.objects.all()
    assert [row["session_id"] for row in exported(ann, every)] == [chats.a.session_id]


@pytest.mark.parametrize("purpose", ["view", "export"])
def test_export_has_only_what_may_be_seen_and_exported(ann, chats, settings, purpose):
    narrow_to(settings, chats.b, purpose)
    assert [row["session_id"] for row in exported(ann)] == [chats.b.session_id]


def test_export_of_host_has_all(chats, tenants):
    assert len(exported(None)) == 2


def test_words_that_may_not_be_read_are_missing(ann, settings):
    readable, hidden = ClosedSessionFactory.create_batch(2)
    narrow_to(settings, readable, "view_summary")
    found = {row["session_id"]: row["summary"] for row in exported(ann)}
    assert found == {readable.session_id: readable.summary.text, hidden.session_id: None}
