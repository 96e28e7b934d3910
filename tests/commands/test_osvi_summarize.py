"""``manage.py osvi_summarize``: write the summaries that are missing."""

from __future__ import annotations

import pytest

from osvi_django.testing.factories import ClosedSessionFactory
from tests.commands.conftest import run_command


def write_summary(session):
    if session.customer_id == "bad":
        raise ValueError("a secret")
    return None if session.customer_id == "none" else "Ours."


@pytest.mark.django_db
class TestSummarize:
    @pytest.fixture(autouse=True)
    def make_session(self, osvi_sandbox, settings):
        settings.OSVI["default"]["SUMMARIZER"] = write_summary
        self.session = ClosedSessionFactory(summary=None, summary_status="not_provided")

    def test_missing_summaries_are_written(self):
        ClosedSessionFactory(summary=None, summary_status="lost", customer_id="none")
        out, err, code = run_command("osvi_summarize")
        assert f"'{self.session.session_id}': stored" in out
        assert out.endswith("1 stored, 1 without a text, 0 failed\n")
        assert (err, code) == ("", 0)
        assert run_command("osvi_summarize") == ("0 stored, 0 without a text, 0 failed\n", "", 0)
        out = run_command("osvi_summarize", "--again")[0]
        assert out.endswith("0 stored, 1 without a text, 0 failed\n")

    def test_failing_summarizer_exits_with_1(self):
        ClosedSessionFactory(summary=None, summary_status="lost", customer_id="bad")
        out, err, code = run_command("osvi_summarize")
        assert "failed (ValueError)" in out
        assert "secret" not in out + err
        assert (err, code) == ("1 failed. The next run tries them again.", 1)

    def test_invalid_settings_are_reported(self, settings):
        settings.OSVI = {}
        assert run_command("osvi_summarize")[1:] == (
            "The setting OSVI is missing or has no account.",
            1,
        )
