"""Test spools that cannot be used: who reports it, and where answers go."""

from __future__ import annotations

import os
import tempfile

import pytest
from django.core.management import CommandError, call_command

from osvi_django import spool
from osvi_django.exceptions import AnswerNotStored
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.recovery import Settled, recover_all, recover_session
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import SUMMARY, mirror
from tests.services.helpers import answers_refused, expire_leases

pytestmark = pytest.mark.django_db(transaction=True)

ANSWER = spool.SpooledAnswer(
    session=7,
    attempt=11,
    claim="0f8fad5b-d9cb-469f-a165-70867728950e",
    status=200,
    body=b"{}",
    truncated=False,
)


@pytest.fixture(autouse=True)
def default_dir(tmp_path, monkeypatch):
    """Set the default spool to a temporary directory of this test."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"osvi_django-{os.geteuid()}"


@pytest.fixture
def spool_dir(settings, osvi_sandbox, tmp_path):
    """Set SPOOL_DIR, and short timeouts."""
    directory = tmp_path / "spool"
    directory.mkdir()
    settings.OSVI["default"] |= {
        "SPOOL_DIR": directory,
        "DATABASE_RETRY_TIMEOUT": 0.1,
        "LEASE_TIMEOUT": 1,
    }
    return directory


@pytest.fixture
def unusable_spool(spool_dir):
    """Make the spool world-writable, so it is not used."""
    spool_dir.chmod(0o777)
    return spool_dir


@pytest.fixture
def session(osvi_sandbox):
    return mirror(osvi_sandbox)


def close_during_outage(session):
    with answers_refused(), pytest.raises(AnswerNotStored):
        close_session(session)
    expire_leases()


class TestFirstClose:
    def test_first_close_with_unusable_spool_logs_error_and_succeeds(
        self, session, unusable_spool, caplog
    ):
        assert close_session(session).summary.text == SUMMARY
        (said,) = [each for each in caplog.records if "SPOOL_DIR" in each.getMessage()]
        assert said.levelname == "ERROR"
        assert str(unusable_spool) in said.getMessage()

    def test_later_closes_with_unusable_spool_log_nothing(
        self, osvi_sandbox, unusable_spool, caplog
    ):
        for _number in range(3):
            mirror(osvi_sandbox)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).succeeded == 3
        assert close_session(mirror(osvi_sandbox)).changed
        assert caplog.text.count("SPOOL_DIR") == 1

    def test_first_close_with_usable_spool_logs_nothing(self, session, spool_dir, caplog):
        assert close_session(session).changed
        assert "spool" not in caplog.text
        assert list(spool_dir.iterdir()) == []


class TestDefaultSpool:
    def test_default_spool_with_unusable_spool_keeps_answer(
        self, session, unusable_spool, default_dir
    ):
        close_during_outage(session)
        assert len(list(default_dir.iterdir())) == 1
        assert {each.settled for each in recover_all()} == {Settled.STORED}
        session.refresh_from_db()
        assert session.summary.text == SUMMARY
        assert list(default_dir.iterdir()) == []

    def test_default_spool_when_setting_is_repaired_is_read_by_recovery(
        self, session, osvi_sandbox, unusable_spool
    ):
        close_during_outage(session)
        unusable_spool.chmod(0o700)
        assert recover_session(session).settled is Settled.STORED
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_default_spool_with_invalid_setting_keeps_answer(
        self, session, settings, spool_dir, default_dir
    ):
        token = settings.OSVI["default"]["API_TOKEN"]

        def misname():
            settings.OSVI["default"]["SPOOL_DIR"] = "not/absolute"
            return token

        settings.OSVI["default"]["API_TOKEN"] = misname
        close_during_outage(session)
        assert len(list(default_dir.iterdir())) == 1


class TestRecoverCommand:
    def recover(self, capsys):
        """Run the command, and return its output and its error."""
        with pytest.raises(CommandError) as caught:
            call_command("osvi_recover")
        assert caught.value.returncode == 1
        return capsys.readouterr().out, str(caught.value)

    def test_recover_command_with_unreadable_file_fails(self, spool_dir, capsys):
        path = spool_dir / "1-2-3.json"
        path.write_text("{")
        out, error = self.recover(capsys)
        assert f"'{path}': It could not be read and stored (JSONDecodeError)." in out
        assert error == f"1 failed: '{path}'. See the log for details."

    def test_recover_command_with_answer_of_no_attempt_fails(self, spool_dir, capsys):
        path = spool.put(spool_dir, ANSWER)
        out, error = self.recover(capsys)
        assert f"'{path}': It does not belong to any attempt in this database." in out
        assert str(path) in error
        assert path.exists()

    def test_recover_command_with_unreadable_spool_fails(self, unusable_spool, capsys):
        out, error = self.recover(capsys)
        assert f"'{unusable_spool}': It could not be read and stored (SpoolNotSafe)." in out
        assert str(unusable_spool) in error

    def test_recover_command_without_database_fails_and_keeps_file(
        self, session, spool_dir, capsys
    ):
        close_during_outage(session)

        with answers_refused():
            _out, error = self.recover(capsys)
        (path,) = spool_dir.iterdir()
        assert str(path) in error
        assert call_command("osvi_recover") is None
        assert list(spool_dir.iterdir()) == []
        assert CloseAttempt.objects.get().outcome == "closed"

    def test_recover_command_without_database_reports_only_own_answers(
        self, session, unusable_spool, default_dir, capsys
    ):
        close_during_outage(session)
        spool.put(default_dir, ANSWER)
        unusable_spool.chmod(0o700)

        with answers_refused():
            _out, error = self.recover(capsys)
        assert f"'{default_dir}/{session.pk}-" in error
        assert ANSWER.name not in error
        assert call_command("osvi_recover") is None
        assert [each.name for each in default_dir.iterdir()] == [ANSWER.name]

    def test_recover_command_with_failing_session_names_it(self, session, spool_dir, capsys):
        ChatSession.objects.update(status="unconfirmed")

        def is_refused(sql, params):
            # Those about a session, and not the one that looks whether the table is there.
            return "closeattempt" in sql and session.pk in params

        with raise_on_queries(is_refused, ValueError("a bug")):
            _out, error = self.recover(capsys)
        assert error == f"1 failed: '{session.session_id}'. See the log for details."

    def test_recover_command_without_work_succeeds(self, spool_dir):
        assert call_command("osvi_recover") is None
