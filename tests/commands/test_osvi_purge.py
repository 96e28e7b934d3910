"""``manage.py osvi_purge``: remove old texts."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from osvi_django.models import SupportAction
from osvi_django.testing.factories import ChatSessionFactory
from tests.commands.conftest import run_command


@pytest.mark.django_db
class TestPurge:
    def test_old_texts_are_removed_once(self, osvi_sandbox):
        ago = timezone.now() - timedelta(days=91)
        SupportAction.objects.create(
            session=ChatSessionFactory(), kind="tell", text="x", started_at=ago, finished_at=ago
        )
        assert run_command("osvi_purge") == ("1 texts removed\n", "", 0)
        assert run_command("osvi_purge") == ("0 texts removed\n", "", 0)

    def test_invalid_settings_exit_with_1(self, osvi_sandbox, settings):
        settings.OSVI["default"]["TEXT_RETENTION_DAYS"] = "x"
        assert run_command("osvi_purge")[2] == 1
