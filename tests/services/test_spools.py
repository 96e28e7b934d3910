"""Spools that cannot be used: who says so, and what becomes of the answers all the same."""

from __future__ import annotations

import os
import tempfile

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError

from osvi_django import spool
from osvi_django.database import DatabaseNow
from osvi_django.exceptions import AnswerNotStored
from osvi_django.models import ChatSession, CloseAttempt
from osvi_django.services import close_session
from osvi_django.services.jobs import create_close_job, run_close_job
from osvi_django.services.recovery import Settled, recover_all, recover_session
from tests.helpers.database import raise_on_queries
from tests.helpers.sandbox import SUMMARY, mirror

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
    """The default spool, in a temporary directory of the test's own."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp" / f"osvi_django-{os.geteuid()}"


@pytest.fixture
def chosen(settings, osvi_sandbox, tmp_path):
    """The spool that the settings name."""
    directory = tmp_path / "spool"
    directory.mkdir()
    settings.OSVI["default"] |= {
        "SPOOL_DIR": directory,
        "DATABASE_RETRY_TIMEOUT": 0.1,
        "LEASE_TIMEOUT": 1,
    }
    return directory


@pytest.fixture
def unusable(chosen):
    """All may write there, so nothing is put there."""
    chosen.chmod(0o777)
    return chosen


@pytest.fixture
def session(osvi_sandbox):
    return mirror(osvi_sandbox)


def close_while_the_database_is_away(session):
    def is_refused(sql, _params):
        return sql.startswith("UPDATE") and "closeattempt" in sql

    with (
        raise_on_queries(is_refused, OperationalError("the database is away")),
        pytest.raises(AnswerNotStored),
    ):
        close_session(session)
    ChatSession.objects.update(lease_until=DatabaseNow())


class TestTheFirstClose:
    def test_says_that_the_spool_cannot_be_used_and_goes_on(self, session, unusable, caplog):
        assert close_session(session).summary.text == SUMMARY
        (said,) = [each for each in caplog.records if "SPOOL_DIR" in each.getMessage()]
        assert said.levelname == "ERROR"
        assert str(unusable) in said.getMessage()

    def test_of_a_job_says_so_as_well_and_none_after_it(self, osvi_sandbox, unusable, caplog):
        for _number in range(3):
            mirror(osvi_sandbox)
        job = create_close_job(ChatSession.objects.all(), start=False)
        assert run_close_job(job.pk).succeeded == 3
        assert close_session(mirror(osvi_sandbox)).changed
        assert caplog.text.count("SPOOL_DIR") == 1

    def test_says_nothing_of_one_that_can(self, session, chosen, caplog):
        assert close_session(session).changed
        assert "spool" not in caplog.text
        assert list(chosen.iterdir()) == []


class TestAtTheMomentOfNeed:
    def test_the_default_spool_keeps_the_answer(self, session, unusable, default_dir):
        close_while_the_database_is_away(session)
        assert len(list(default_dir.iterdir())) == 1
        assert {each.settled for each in recover_all()} == {Settled.STORED}
        session.refresh_from_db()
        assert session.summary.text == SUMMARY
        assert list(default_dir.iterdir()) == []

    def test_a_single_recovery_finds_it_there(self, session, osvi_sandbox, unusable):
        close_while_the_database_is_away(session)
        unusable.chmod(0o700)
        assert recover_session(session).settled is Settled.STORED
        assert osvi_sandbox.close_requests(session.session_id) == 1

    def test_a_mistaken_setting_costs_no_answer(self, session, settings, chosen, default_dir):
        token = settings.OSVI["default"]["API_TOKEN"]

        def misname():
            settings.OSVI["default"]["SPOOL_DIR"] = "not/absolute"
            return token

        settings.OSVI["default"]["API_TOKEN"] = misname
        close_while_the_database_is_away(session)
        assert len(list(default_dir.iterdir())) == 1


class TestTheCommand:
    def sweep(self, capsys):
        """What it said, and the error with which it ended."""
        with pytest.raises(CommandError) as caught:
            call_command("osvi_recover")
        assert caught.value.returncode == 1
        return capsys.readouterr().out, str(caught.value)

    def test_fails_if_an_answer_cannot_be_read(self, chosen, capsys):
        path = chosen / "1-2-3.json"
        path.write_text("{")
        out, error = self.sweep(capsys)
        assert f"'{path}': It could not be read and stored (JSONDecodeError)." in out
        assert error == f"1 failed: '{path}'. See the log for details."

    def test_fails_if_an_answer_belongs_to_no_attempt_here(self, chosen, capsys):
        path = spool.put(chosen, ANSWER)
        out, error = self.sweep(capsys)
        assert f"'{path}': It does not belong to any attempt in this database." in out
        assert str(path) in error
        assert path.exists()

    def test_fails_if_a_spool_cannot_be_read(self, unusable, capsys):
        out, error = self.sweep(capsys)
        assert f"'{unusable}': It could not be read and stored (SpoolNotSafe)." in out
        assert str(unusable) in error

    def test_fails_if_the_database_does_not_take_an_answer(self, session, chosen, capsys):
        close_while_the_database_is_away(session)

        def is_refused(sql, _params):
            return sql.startswith("UPDATE") and "closeattempt" in sql

        with raise_on_queries(is_refused, OperationalError("the database is away")):
            _out, error = self.sweep(capsys)
        (path,) = chosen.iterdir()
        assert str(path) in error
        assert call_command("osvi_recover") is None
        assert list(chosen.iterdir()) == []
        assert CloseAttempt.objects.get().outcome == "closed"

    def test_says_only_of_answers_of_ours_that_they_wait_where_others_may_put_theirs(
        self, session, unusable, default_dir, capsys
    ):
        close_while_the_database_is_away(session)
        spool.put(default_dir, ANSWER)
        unusable.chmod(0o700)

        def is_refused(sql, _params):
            return sql.startswith("UPDATE") and "closeattempt" in sql

        with raise_on_queries(is_refused, OperationalError("the database is away")):
            _out, error = self.sweep(capsys)
        assert f"'{default_dir}/{session.pk}-" in error
        assert ANSWER.name not in error
        assert call_command("osvi_recover") is None
        assert [each.name for each in default_dir.iterdir()] == [ANSWER.name]

    def test_names_the_sessions_that_failed(self, session, chosen, capsys):
        ChatSession.objects.update(status="unconfirmed")

        def is_refused(sql, _params):
            return "closeattempt" in sql

        with raise_on_queries(is_refused, ValueError("a bug")):
            _out, error = self.sweep(capsys)
        assert error == f"1 failed: '{session.session_id}'. See the log for details."

    def test_succeeds_with_nothing_to_do(self, chosen):
        assert call_command("osvi_recover") is None
