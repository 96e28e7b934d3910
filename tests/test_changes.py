"""Test that every change of what is shown of a session sets its ``updated_at``."""

from __future__ import annotations

import ast
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

import osvi_django
from osvi_django.models import ChatAgent, ChatSession, SessionSummary
from osvi_django.models.changes import SILENT
from osvi_django.testing.factories import (
    ChatAgentFactory,
    ChatSessionFactory,
    ClosedSessionFactory,
)

pytestmark = pytest.mark.django_db

PACKAGE = Path(osvi_django.__file__).parent
LONG_AGO = timezone.now() - timedelta(days=1)
GENERATED = ("attention_rank", "quiet_since")
COLUMNS = [
    field.name
    for field in ChatSession._meta.concrete_fields
    if field.name not in {"id", "updated_at", *GENERATED}
]


def is_changed(*sessions):
    keys = [each.pk for each in sessions]
    changed = ChatSession.objects.filter(pk__in=keys, updated_at__gt=LONG_AGO).count()
    return changed == len(sessions)


@pytest.fixture
def session():
    session = ClosedSessionFactory()
    ChatSession.objects.update(updated_at=LONG_AGO)
    session.refresh_from_db()
    return session


class TestSessions:
    @pytest.mark.parametrize("column", COLUMNS)
    def test_update_of_any_column_but_silent_ones_is_a_change(self, session, column):
        value = getattr(session, column)
        assert ChatSession.objects.filter(pk=session.pk).update(**{column: value}) == 1
        assert is_changed(session) is (column not in SILENT)

    @pytest.mark.parametrize("column", COLUMNS)
    def test_save_of_any_column_but_silent_ones_is_a_change(self, session, column):
        session.save(update_fields=[column])
        assert is_changed(session) is (column not in SILENT)

    def test_save_of_whole_row_is_a_change(self, session):
        session.save()
        assert is_changed(session)
        assert timezone.now() - session.updated_at < timedelta(minutes=1)

    def test_bulk_update_is_a_change(self, session):
        session.close_reason = "Solved"
        ChatSession.objects.bulk_update([session], ["close_reason"])
        assert is_changed(session)

    def test_update_or_create_is_a_change(self, session):
        key = {"session_id": session.session_id}
        ChatSession.objects.update_or_create(**key, defaults={"close_reason": "Solved"})
        assert is_changed(session)

    def test_update_through_agent_is_a_change(self, session):
        session.agent.sessions.update(close_reason="Solved")
        assert is_changed(session)

    def test_deletion_of_user_who_closed_is_a_change(self, session, staff):
        ChatSession.objects.update(closed_by=staff, updated_at=LONG_AGO)
        staff.delete()
        assert is_changed(session)

    def test_new_rows_have_the_time_of_the_database(self, session):
        ChatSession.objects.bulk_create([ChatSession(session_id="new", agent=session.agent)])
        assert is_changed(ChatSession.objects.get(session_id="new"))
        assert is_changed(ChatSessionFactory())

    def test_updated_at_can_be_set_by_hand(self, session):
        ChatSession.objects.update(status="active", updated_at=LONG_AGO)
        assert not is_changed(session)

    def test_moments_are_stored_as_django_writes_them(self, session):
        session.save()
        again = ChatSession.objects.get(pk=session.pk)
        assert ChatSession.objects.get(updated_at=again.updated_at) == session


class TestSummaries:
    def test_new_summary_is_a_change(self, session):
        open_session = ChatSessionFactory()
        ChatSession.objects.update(updated_at=LONG_AGO)
        SessionSummary.objects.create(session=open_session, text="All is well.")
        assert is_changed(open_session)
        assert not is_changed(session)

    def test_saved_text_is_a_change_and_saved_time_is_none(self, session):
        session.summary.received_at = timezone.now()
        session.summary.save()
        assert not is_changed(session)
        session.summary.text = "Other words."
        session.summary.save()
        assert is_changed(session)

    def test_updated_text_is_a_change_and_updated_time_is_none(self, session):
        summaries = SessionSummary.objects.filter(text=session.summary.text)
        summaries.update(received_at=timezone.now())
        assert not is_changed(session)
        summaries.update(text="Other words.")
        assert is_changed(session)

    def test_deleted_summary_is_a_change(self, session):
        session.summary.delete()
        assert is_changed(session)

    def test_deleted_summaries_are_a_change(self, session):
        other = ClosedSessionFactory()
        ChatSession.objects.update(updated_at=LONG_AGO)
        SessionSummary.objects.filter(session=session).delete()
        assert is_changed(session)
        assert not is_changed(other)


class TestAgents:
    def test_new_uuid_of_agent_changes_its_sessions(self, session):
        other = ChatSessionFactory(agent=ChatAgentFactory())
        ChatSession.objects.update(updated_at=LONG_AGO)
        session.agent.uuid = "agent_new"
        session.agent.save()
        assert is_changed(session)
        assert not is_changed(other)

    def test_updated_uuid_of_agents_changes_their_sessions(self, session):
        ChatAgent.objects.filter(pk=session.agent_id).update(uuid="agent_new")
        assert is_changed(session)

    def test_new_name_of_agent_changes_no_session(self, session):
        session.agent.name = "Night desk"
        session.agent.save()
        ChatAgent.objects.update(name="Day desk")
        assert not is_changed(session)


class TestCode:
    def test_no_code_writes_sessions_past_their_manager(self):
        # Two only read, and one calls bulk_create, for which the field fills in the moment.
        readers = ("environment_checks.py", "management/tables.py")
        bare = {path: ["QuerySet"] for path in (*readers, "services/mirroring/agents.py")}
        assert {path: found for path in sources() if (found := bare_writes(path))} == bare

    def test_every_manager_of_rows_shown_with_sessions_is_ours(self):
        for model in (ChatAgent, ChatSession, SessionSummary):
            assert hasattr(
                model._default_manager.all(), "touch" if model is ChatSession else "shown_in"
            )
        assert hasattr(ChatSession._base_manager.all(), "touch")


def sources():
    return [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if "migrations" not in path.parts
    ]


def bare_writes(path):
    """Return the calls that could write a session without its manager."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [getattr(each, "id", getattr(each, "attr", "")) for each in called]
    return [
        name for name in names if name in {"QuerySet", "_update", "_raw_delete", "raw", "save_base"}
    ]
