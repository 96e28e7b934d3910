"""``manage.py osvi_purge``: remove what is older than the settings allow."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.management import progress
from osvi_django.management.commands import osvi_purge
from osvi_django.models import SessionSummary, SupportAction
from osvi_django.testing.factories import ChatSessionFactory, ClosedSessionFactory
from tests.commands.conftest import run_command

NOTHING = "removed: 0 raw_answers, 0 texts, 0 metadata, 0 notes, 0 summaries, 0 sessions, "
NOTHING += "0 jobs, 0 events, 0 idempotency, 0 exports\n"


@pytest.mark.django_db
class TestPurge:
    def test_old_texts_are_removed_once(self, osvi_sandbox):
        ago = timezone.now() - timedelta(days=91)
        SupportAction.objects.create(
            session=ChatSessionFactory(), kind="tell", text="x", started_at=ago, finished_at=ago
        )
        said = NOTHING.replace("0 texts", "1 texts")
        assert run_command("osvi_purge", "--dry-run") == (f"would be {said}", "", 0)
        assert run_command("osvi_purge") == (said, "", 0)
        assert run_command("osvi_purge") == (NOTHING, "", 0)

    def test_only_named_kinds_are_removed(self, osvi_sandbox, settings):
        settings.OSVI["default"]["RETENTION"] = {"summaries": 1, "sessions": 1}
        ClosedSessionFactory(closed_at=timezone.now() - timedelta(days=2))
        said = run_command("osvi_purge", "--only", "summaries", "--only", "jobs")
        assert said == ("removed: 1 summaries, 0 jobs\n", "", 0)
        assert not SessionSummary.objects.exists()
        assert run_command("osvi_purge", "--only", "sessions") == ("removed: 1 sessions\n", "", 0)

    def test_long_purge_says_how_far_it_is(self, osvi_sandbox, settings, monkeypatch):
        monkeypatch.setattr(osvi_purge, "EVERY", 0)
        assert progress.EVERY > 0
        settings.OSVI["default"]["RETENTION"] = {"sessions": 1}
        ClosedSessionFactory(closed_at=timezone.now() - timedelta(days=2))
        out = run_command("osvi_purge", "--only", "sessions")[0]
        assert out == "so far: 1 sessions\nremoved: 1 sessions\n"

    def test_invalid_settings_exit_with_1_and_remove_nothing(self, osvi_sandbox, settings):
        settings.OSVI["default"]["RETENTION"] = {"summaries": 0, "idempotency": "x"}
        ClosedSessionFactory(closed_at=timezone.now() - timedelta(days=2))
        out, err, code = run_command("osvi_purge")
        assert (out, code) == ("", 1)
        assert "RETENTION" in err
        assert "so nothing was done" in err
        assert SessionSummary.objects.exists()

    def test_unknown_kind_is_an_error(self, osvi_sandbox):
        assert run_command("osvi_purge", "--only", "answers")[2] == 1
