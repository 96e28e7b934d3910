"""Test what keeps a customer from being erased, what is repeated, and what remains."""

from __future__ import annotations

import io
import json
import signal
import uuid
from datetime import timedelta
from functools import partial
from itertools import chain

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import override_settings
from django.utils import timezone

from osvi_django.database import DatabaseNow
from osvi_django.exceptions import (
    CustomerBusy,
    CustomerChatsOpen,
    CustomerKept,
    InsideTransaction,
    InvalidInput,
    NotAllowed,
)
from osvi_django.models import (
    ChatSession,
    CloseJob,
    DataExport,
    Erasure,
    IdempotentRequest,
    SessionSummary,
    StartLock,
    WebhookDelivery,
)
from osvi_django.services import (
    SessionFilter,
    erase_customer,
    export_customer,
    replay_erasures,
)
from osvi_django.services.privacy.hashing import customer_hash
from osvi_django.services.privacy.login_sessions import drop_from_logins
from osvi_django.services.privacy.mentions import Mentions
from osvi_django.services.privacy.replaying import journal_lines
from osvi_django.services.start_locks import erasure_lock, key_of
from osvi_django.testing.factories import (
    ChatSessionFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
    CloseJobFactory,
    CloseJobItemFactory,
    SupportActionFactory,
)
from tests.commands.conftest import manage  # noqa: F401  # a fixture
from tests.helpers.database import call_after_queries
from tests.services.helpers import run_together

pytestmark = pytest.mark.django_db(transaction=True)

CUSTOMER = "+4915112345678"
NO_MARKER = {"started_at": "2026-01-01T00:00:00+00:00", "finished_at": None}
KILLED = f"""
import os, signal
from django.conf import settings
from django.db import connection
from osvi_django.services import erase_customer

def kill(execute, sql, params, many, context):
    result = execute(sql, params, many, context)
    if sql.startswith("UPDATE") and "erased_at" in sql:
        kill.number += 1
        if kill.number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return result

kill.number = 0
settings.SECRET_KEY = "of-this-test"
with connection.execute_wrapper(kill):
    erase_customer("{CUSTOMER}")
"""


@pytest.fixture(autouse=True)
def configured(osvi_sandbox):
    """Use the sandbox's account."""


def closed(**fields):
    return ClosedSessionFactory(**{"customer_id": CUSTOMER, **fields})


class TestRefusal:
    @pytest.mark.parametrize("status", ["active", "dormant", "unconfirmed"])
    def test_open_chat_refuses_erasure(self, status):
        closed()
        ChatSessionFactory(customer_id=CUSTOMER, status=status)
        with pytest.raises(CustomerChatsOpen):
            erase_customer(CUSTOMER)
        assert not Erasure.objects.exists()
        assert SessionSummary.objects.exists()
        assert isinstance(erase_customer(CUSTOMER, dry_run=True).obstacle, CustomerChatsOpen)

    @pytest.mark.parametrize(
        "begin",
        [
            lambda each: ChatSession.objects.filter(pk=each.pk).update(status="closing"),
            lambda each: ChatSession.objects.filter(pk=each.pk).update(status="unheard_of"),
            lambda each: CloseAttemptFactory(session=each),
            lambda each: SupportActionFactory(session=each, finished_at=None),
            lambda each: CloseJobItemFactory(session=each, job__status="running"),
            lambda each: WebhookDelivery.objects.create(
                event="session.closed",
                receiver="r",
                subject=each.session_id,
                waits_since=DatabaseNow(),
                due_at=DatabaseNow(),
                claim=uuid.uuid4(),
                lease_until=DatabaseNow() + timedelta(minutes=1),
            ),
            lambda each: StartLock.objects.create(
                key=key_of(each.agent.account, each.agent.uuid, CUSTOMER),
                claim=uuid.uuid4(),
                lease_until=DatabaseNow() + timedelta(minutes=1),
            ),
        ],
        ids=["closing", "unknown", "attempt", "action", "job", "delivery", "start"],
    )
    def test_what_is_running_refuses_erasure(self, begin):
        begin(closed())
        with pytest.raises(CustomerBusy) as caught:
            erase_customer(CUSTOMER)
        assert caught.value.retryable
        assert SessionSummary.objects.exists()

    def test_what_is_over_does_not_refuse_it(self):
        session, long_ago = closed(), timezone.now() - timedelta(days=3)
        CloseAttemptFactory(session=session, started_at=long_ago)
        SupportActionFactory(session=session, started_at=long_ago, finished_at=None)
        CloseJobItemFactory(session=session, job__status="draft")
        assert erase_customer(CUSTOMER).counts["chatsession"] == 1

    def test_chat_that_staff_keep_refuses_erasure(self):
        closed(keep_until=timezone.now().date() + timedelta(days=2))
        with pytest.raises(CustomerKept):
            erase_customer(CUSTOMER)

    def test_chat_that_opens_meanwhile_refuses_the_rest(self, monkeypatch):
        sessions = [closed(), closed()]
        found = Mentions.erase

        def erase_and_open(self):
            ChatSession.objects.filter(pk=sessions[1].pk).update(status="active")
            return found(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Mentions, "erase", erase_and_open)
            with pytest.raises(CustomerChatsOpen, match=r"^Not all of it was erased\. This cust"):
                erase_customer(CUSTOMER)
        broken_off = Erasure.objects.get()
        assert (broken_off.state, broken_off.finished_at is None) == ("unfinished", False)
        assert ChatSession.objects.exclude(erased_at=None).count() == 1
        ChatSession.objects.filter(pk=sessions[1].pk).update(status="closed")
        assert erase_customer(CUSTOMER).counts["chatsession"] == 2
        finished = Erasure.objects.get()
        assert (finished.state, finished.finished_at > broken_off.finished_at) == ("done", True)

    def test_erasure_inside_transaction_is_refused(self):
        closed()
        with transaction.atomic(), pytest.raises(InsideTransaction, match="cannot be erased"):
            erase_customer(CUSTOMER)

    def test_erasure_and_export_need_the_permission(self, staff, grant):
        closed()
        for function in (erase_customer, export_customer):
            with pytest.raises(NotAllowed):
                function(CUSTOMER, requested_by=staff)
        allowed = grant(staff, "erase_customer")
        assert len(export_customer(CUSTOMER, requested_by=allowed)["sessions"]) == 1
        assert erase_customer(CUSTOMER, requested_by=allowed).counts["chatsession"] == 1

    @pytest.mark.parametrize("customer_id", ["", None, "a\x00", "  "])
    def test_what_is_no_id_is_refused(self, customer_id):
        with pytest.raises(InvalidInput):
            erase_customer(customer_id)
        with pytest.raises(InvalidInput):
            export_customer(customer_id)


class TestTogether:
    """Erase the same customer more than once at the same time, as a double click does."""

    def test_one_does_the_work_and_the_journal_has_its_counts(self):
        for _number in range(4):
            closed()
        planned = erase_customer(CUSTOMER, dry_run=True).counts
        errors = run_together(*[partial(erase_customer, CUSTOMER)] * 4)
        assert {type(each) for each in errors} <= {CustomerBusy}
        done = Erasure.objects.get()
        assert (done.state, done.counts) == ("done", planned)
        assert not StartLock.objects.exists()
        assert not ChatSession.objects.filter(erased_at=None).exists()

    def test_erasure_of_a_customer_who_is_being_erased_is_refused(self):
        closed()
        with erasure_lock(CUSTOMER):
            with pytest.raises(CustomerBusy, match="being erased at this moment"):
                erase_customer(CUSTOMER, account="default")
            planned = erase_customer(CUSTOMER, dry_run=True)
            assert "being erased at this moment" in str(planned.obstacle)
            assert erase_customer(f"{CUSTOMER}9").counts == {}
        assert Erasure.objects.get().counts == {}
        assert erase_customer(CUSTOMER, dry_run=True).obstacle is None

    def test_second_erasure_says_that_it_is_done_and_leaves_no_line(self):
        closed()
        first = erase_customer(CUSTOMER)
        before = Erasure.objects.get()
        for dry_run in (True, False):
            again = erase_customer(CUSTOMER, dry_run=dry_run)
            assert (again.counts, again.was_erased) == ({}, True)
            assert "is erased already" in again.notice
        assert again.marker == first.marker  # by which the chats can be found
        after = Erasure.objects.get()
        assert (after.marker, after.counts) == (first.marker, first.counts)
        assert after.finished_at > before.finished_at

    def test_chat_that_was_erased_by_a_lost_commit_is_counted_once(self):
        for _number in range(2):
            closed()

        def is_last_step(sql, _params):
            return sql.startswith("UPDATE") and "summary_status" in sql

        def erase_the_other():
            ChatSession.objects.filter(erased_at=None).update(erased_at=timezone.now())

        with call_after_queries(is_last_step, erase_the_other):
            result = erase_customer(CUSTOMER)
        assert result.counts["chatsession"] == 1


class TestErasure:
    def test_only_the_named_account_is_erased(self):
        here, there = closed(), closed(agent__account="other")
        assert erase_customer(CUSTOMER, account="other").counts["chatsession"] == 1
        here.refresh_from_db()
        there.refresh_from_db()
        assert (here.customer_id, there.customer_id[:7]) == (CUSTOMER, "erased-")
        assert Erasure.objects.get().account == "other"
        assert len(export_customer(CUSTOMER, account="default")["sessions"]) == 1

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_account_that_never_was_is_invalid(self, dry_run):
        closed()
        with pytest.raises(InvalidInput, match="no account") as caught:
            erase_customer(CUSTOMER, account="nope", dry_run=dry_run)
        assert caught.value.field == "account"
        with pytest.raises(InvalidInput, match="no account"):
            export_customer(CUSTOMER, account="nope")
        assert not Erasure.objects.exists()

    def test_other_customers_and_longer_numbers_stay(self):
        closed()
        other = closed(customer_id=f"{CUSTOMER}9")
        job = CloseJobFactory(
            note=f"not {CUSTOMER}9", session_filter={"customer_id": CUSTOMER, "status": ["active"]}
        )
        result = erase_customer(CUSTOMER)
        job.refresh_from_db()
        assert job.note == f"not {CUSTOMER}9"
        assert job.session_filter == {"customer_id": result.marker, "status": ["active"]}
        other.refresh_from_db()
        assert other.customer_id == f"{CUSTOMER}9"
        assert SessionSummary.objects.get().session == other

    def test_users_of_the_same_name_in_selections_stay(self):
        name = "nobody"
        closed(customer_id=name)
        kept = {"customer_id": name, "close_reason": f"of {name}", "closed_by": name}
        kept |= {"account": name, "status": [name]}
        by_user = SessionFilter(status=None, closed_by=name, account=name, close_reason=name)
        said = ", ".join(by_user.in_words())
        job = CloseJobFactory(
            note=f"“{name}”", selection=f"of {name}: “{name}”", session_filter=kept
        )
        DataExport.objects.create(file_format="csv", selection="of the account “nobody”")
        DataExport.objects.create(file_format="csv", selection=said)
        assert erase_customer(name, dry_run=True).counts["dataexport"] == 1
        marker = erase_customer(name).marker
        job.refresh_from_db()
        assert (job.note, job.selection) == (f"“{marker}”", f"of {marker}: “{name}”")
        changed = {"customer_id": marker, "close_reason": f"of {marker}"}
        assert job.session_filter == kept | changed
        selections = {each.selection for each in DataExport.objects.all()}
        masked = said.replace(f"closed as {name}", f"closed as {marker}")
        assert selections == {"of the account “nobody”", masked}
        assert masked != said

    def test_erasing_moves_updated_at(self):
        session = closed()
        before = ChatSession.objects.get(pk=session.pk).updated_at
        erase_customer(CUSTOMER)
        after = ChatSession.objects.get(pk=session.pk)
        assert after.updated_at > before
        assert after.session_id.startswith("erased-")
        assert after.session_id != after.customer_id
        assert (session.summary_status, after.summary_status) == ("stored", "removed")

    def test_customer_of_whom_nothing_is_here_is_not_said_to_be_erased(self):
        closed()
        for dry_run in (True, False):
            found = erase_customer(CUSTOMER[1:], dry_run=dry_run)
            assert (found.counts, "nothing of a customer with this id" in found.notice) == (
                {},
                True,
            )
        # Once more adds no line, and is no reason to say that anything was erased.
        assert "nothing of a customer with this id" in erase_customer(CUSTOMER[1:]).notice
        assert Erasure.objects.get().counts == {}
        assert "no chats of a customer with this id" in export_customer(CUSTOMER[1:])["notice"]
        assert "OSVI keeps its own copy" in export_customer(CUSTOMER)["notice"]
        erase_customer(CUSTOMER)
        assert "is erased already" in export_customer(CUSTOMER)["notice"]

    def test_more_ids_than_fit_into_one_query_are_found(self):
        sessions = [closed() for _number in range(60)]
        ids = [each.session_id for each in sessions]
        for number, named in enumerate((ids[:1], ids[-1:], ids)):
            IdempotentRequest.objects.create(
                digest=str(number), body=json.dumps(named), created_at=timezone.now()
            )
        planned = erase_customer(CUSTOMER, dry_run=True).counts
        counts = erase_customer(CUSTOMER).counts
        assert (counts["chatsession"], counts["idempotentrequest"]) == (60, 3)
        assert planned == counts

    def test_host_without_admin_or_stored_logins_is_erased_as_well(self, settings, monkeypatch):
        closed()
        installed = apps.is_installed
        monkeypatch.setattr(
            apps, "is_installed", lambda name: name != "django.contrib.admin" and installed(name)
        )
        settings.SESSION_ENGINE = "django.contrib.sessions.backends.cache"
        settings.OSVI = None
        assert erase_customer(CUSTOMER).counts == {"sessionsummary": 1, "chatsession": 1}

    def test_what_a_login_session_has_of_others_stays(self, client, django_user_model):
        client.force_login(django_user_model.objects.create_user("kim"))
        store = client.session
        store["osvi_django_kept"] = {"desk:1": {"typed": "a"}, "desk:2": {"typed": "b"}}
        store["osvi_django_sent"] = ["token"]
        store.save()
        assert drop_from_logins(lambda page, _kept: page == "desk:1", dry_run=True) == 1
        assert drop_from_logins(lambda page, _kept: page == "desk:1") == 1
        assert client.session["osvi_django_kept"] == {"desk:2": {"typed": "b"}}
        assert client.session["osvi_django_sent"] == ["token"]

    def test_killed_erasure_is_finished_by_the_same_call(self, manage, settings):  # noqa: F811
        settings.SECRET_KEY = "of-this-test"
        for _number in range(3):
            closed()
        with manage("shell", "-c", KILLED) as process:
            assert process.wait(60) == -signal.SIGKILL
        assert ChatSession.objects.exclude(erased_at=None).count() == 1
        assert SessionSummary.objects.count() == 2
        broken_off = Erasure.objects.get()
        assert (broken_off.counts["chatsession"], broken_off.finished_at) == (1, None)
        assert (broken_off.state, broken_off.state_now) == ("running", "running")
        with pytest.raises(CustomerBusy, match="goes on where it was"):
            erase_customer(CUSTOMER)  # the lease of the process has not ended yet
        StartLock.objects.update(lease_until=DatabaseNow())
        Erasure.objects.update(last_step_at=timezone.now() - timedelta(hours=2))
        broken_off.refresh_from_db()
        assert broken_off.state_now == "unfinished"
        assert json.loads(next(journal_lines()))["state"] == "unfinished"
        result = erase_customer(CUSTOMER)
        assert not StartLock.objects.exists()
        assert result.marker == broken_off.marker
        assert result.counts == {"sessionsummary": 3, "chatsession": 3}
        assert Erasure.objects.get().state == "done"
        line = json.loads(next(journal_lines()))
        assert (line["state"], line["finished_at"] is None) == ("done", False)
        assert not SessionSummary.objects.exists()


def restored(status="closed", **fields):
    """Return a chat that a backup from before the erasure has brought back."""
    make = closed if status == "closed" else partial(ChatSessionFactory, status=status)
    session = make(**{"customer_id": CUSTOMER, **fields})
    before = timezone.now() - timedelta(days=1)
    ChatSession.objects.filter(pk=session.pk).update(created_at=before, started_at=before)
    return session


class TestReplay:
    def test_customers_of_a_restored_backup_are_erased_again(self, settings):
        settings.SECRET_KEY_FALLBACKS = []
        closed()
        erase_customer(CUSTOMER)
        before = Erasure.objects.get()
        lines = list(journal_lines())
        assert CUSTOMER not in "".join(lines)
        Erasure.objects.all().delete()  # the backup is older
        restored(), restored(customer_id="someone else")
        assert list(replay_erasures()) == []
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
            (replayed,) = replay_erasures(["", *lines], via="command")
            assert replayed.result.counts["chatsession"] == 1
            written = Erasure.objects.get()
            assert written.customer_hash == customer_hash(CUSTOMER)
        assert written.customer_hash != before.customer_hash
        moments = ("marker", "started_at", "finished_at", "state")
        for name in moments:
            assert getattr(written, name) == getattr(before, name)
        assert ChatSession.objects.filter(erased_at=None).get().customer_id == "someone else"

    @pytest.mark.parametrize("status", ["closed", "active"])
    def test_chats_that_began_after_the_erasure_stay(self, status):
        closed()
        erase_customer(CUSTOMER)
        newer = closed() if status == "closed" else ChatSessionFactory(customer_id=CUSTOMER)
        job = CloseJobFactory(note=f"about {CUSTOMER}")
        assert list(replay_erasures()) == list(replay_erasures(journal_lines())) == []
        old = restored()
        (replayed,) = replay_erasures()
        assert replayed.result.counts["chatsession"] == 2
        old.refresh_from_db(), newer.refresh_from_db(), job.refresh_from_db()
        assert (old.customer_id, newer.customer_id) == (replayed.result.marker, CUSTOMER)
        assert job.note == f"about {CUSTOMER}"
        assert list(replay_erasures()) == []  # it holds until the same moment as before
        assert Erasure.objects.get().counts["chatsession"] == 2

    def test_last_of_several_erasures_of_a_customer_says_what_goes(self, settings):
        closed()
        erase_customer(CUSTOMER)
        with override_settings(SECRET_KEY="new"):
            closed()
            erase_customer(CUSTOMER)
            lines = list(journal_lines())
        restored()
        with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
            (replayed,) = replay_erasures(reversed(lines))
        assert replayed.result.marker == Erasure.objects.order_by("finished_at").last().marker

    def test_dry_run_counts_and_changes_nothing(self):
        closed()
        erase_customer(CUSTOMER)
        restored(), restored(status="active")
        before = list(ChatSession.objects.values()), list(Erasure.objects.values())
        (planned,) = replay_erasures(dry_run=True)
        assert (planned.result.dry_run, planned.result.counts["chatsession"]) == (True, 2)
        assert isinstance(planned.result.obstacle, CustomerChatsOpen)
        assert before == (list(ChatSession.objects.values()), list(Erasure.objects.values()))

    def test_lines_with_another_key_are_reported(self):
        closed()
        erase_customer(CUSTOMER)
        lines = list(journal_lines())
        restored()
        with override_settings(SECRET_KEY="another"):
            (found,) = replay_erasures(lines)
            assert (found.unknown_keys, found.result, found.error) == (1, None, None)
            with pytest.raises(CommandError, match="1 line of the journal was written with a"):
                run("osvi_erase", "--replay")
            restored(customer_id="another")
            erase_customer("another")
            restored(customer_id="another")
            done, unknown = replay_erasures(lines)
            assert (done.result.counts["chatsession"], unknown.unknown_keys) == (2, 1)
        assert ChatSession.objects.filter(customer_id=CUSTOMER).count() == 1

    def test_replay_that_is_broken_off_keeps_its_moment(self):
        closed()
        erase_customer(CUSTOMER)
        before = Erasure.objects.get()
        restored()

        def is_last_step(sql, _params):
            return sql.startswith("UPDATE") and "summary_status" in sql

        def fail():
            raise CustomerKept

        with call_after_queries(is_last_step, fail):
            (failed,) = replay_erasures()
        assert isinstance(failed.error, CustomerKept)
        after = Erasure.objects.get()
        assert (after.state, after.finished_at) == ("unfinished", before.finished_at)
        assert len(list(replay_erasures())) == 1
        assert Erasure.objects.get().state == "done"

    def test_unfinished_erasure_is_repeated_for_what_was_there_when_it_began(self):
        Erasure.objects.create(marker="erased-a", customer_hash=customer_hash(CUSTOMER))
        closed()
        assert list(replay_erasures(journal_lines())) == []
        restored()
        assert [each.result.marker for each in replay_erasures()] == ["erased-a"]

    def test_replay_reports_who_cannot_be_erased_and_goes_on(self):
        for customer in ("a-1", "b-1"):
            erase_customer(customer, account="default")
        restored(customer_id="b-1")
        restored(customer_id="a-1", status="active")
        failed, done = replay_erasures()
        assert isinstance(failed.error, CustomerChatsOpen)
        assert done.result.counts["chatsession"] == 1

    @pytest.mark.parametrize(
        "line",
        [
            "x",
            "[]",
            '{"customer_hash": 1}',
            '{"customer_hash": "a", "account": "", "marker": "a", "started_at": "yesterday"}',
            '{"customer_hash": "", "account": "", "marker": "", "finished_at": null}',
            json.dumps(dict.fromkeys(("customer_hash", "account", "marker"), "") | NO_MARKER),
        ],
    )
    def test_what_is_no_journal_is_refused(self, line):
        with pytest.raises(InvalidInput, match="not a line of a journal"):
            list(replay_erasures([line]))


def run(*args, stdin="", monkeypatch=None):
    out = io.StringIO()
    if monkeypatch:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    call_command(*args, stdout=out, stderr=out)
    return out.getvalue()


class TestCommands:
    def test_customer_is_read_from_standard_input(self, monkeypatch):
        closed()
        said = run("osvi_erase", "--dry-run", stdin=f"{CUSTOMER}\n", monkeypatch=monkeypatch)
        assert "would be erased: 1 chatsession, 1 sessionsummary" in said
        exported = run("osvi_export_customer", stdin=CUSTOMER, monkeypatch=monkeypatch)
        assert '"sessionsummary"' in exported
        said = run("osvi_erase", "--customer", CUSTOMER, "--account", "default")
        assert "erased: 1 chatsession, 1 sessionsummary" in said
        assert "OSVI keeps its own copy" in said
        assert CUSTOMER not in said
        assert "erased: 0" in run("osvi_erase", "--customer", CUSTOMER)
        assert [each.via for each in Erasure.objects.all()] == ["command", "command"]
        assert DataExport.objects.get().rows == 1

    @pytest.mark.parametrize("command", ["osvi_erase", "osvi_export_customer"])
    @pytest.mark.parametrize("given", [f"{CUSTOMER}\nb-2\n", f"{CUSTOMER}\n\n", "\n\n"])
    def test_more_than_one_id_is_refused(self, command, given, monkeypatch):
        closed()
        with pytest.raises(CommandError, match=r"^--customer: give one id, on one line"):
            run(command, stdin=given, monkeypatch=monkeypatch)
        assert not Erasure.objects.exists()
        assert not DataExport.objects.exists()

    @pytest.mark.parametrize("command", ["osvi_erase", "osvi_export_customer"])
    @pytest.mark.parametrize("given", ["", "\n", "  \n"])
    def test_no_id_is_refused(self, command, given, monkeypatch):
        with pytest.raises(CommandError, match=r"^--customer"):
            run(command, stdin=given, monkeypatch=monkeypatch)
        with pytest.raises(CommandError, match=r"^--customer"):
            run(command, "--customer", given[:-1])

    @pytest.mark.parametrize("command", ["osvi_erase", "osvi_export_customer"])
    def test_each_character_of_the_id_counts(self, command, monkeypatch):
        closed(customer_id=f" {CUSTOMER} ")
        said = run(command, stdin=CUSTOMER, monkeypatch=monkeypatch)
        assert "of a customer with this id" in said
        said = run(command, stdin=f" {CUSTOMER} \n", monkeypatch=monkeypatch)
        assert "OSVI keeps its own copy" in said

    def test_line_at_a_terminal_is_the_id(self, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

            def read(self):
                raise AssertionError("this waits for the end of the input")

        closed()
        monkeypatch.setattr("sys.stdin", Terminal(f"{CUSTOMER}\n"))
        assert "would be erased: 1" in run("osvi_erase", "--dry-run")

    @pytest.mark.parametrize(
        "command", [("osvi_erase",), ("osvi_erase", "--replay", "-"), ("osvi_export_customer",)]
    )
    def test_input_that_is_no_text_is_refused(self, command, monkeypatch):
        given = io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", given)
        with pytest.raises(CommandError, match="not a text in UTF-8"):
            run(*command)

    def test_obstacle_is_said(self):
        ChatSessionFactory(customer_id=CUSTOMER)
        for options in ([], ["--dry-run"]):
            with pytest.raises(CommandError, match="Close it first"):
                run("osvi_erase", "--customer", CUSTOMER, *options)

    @pytest.mark.parametrize("command", ["osvi_erase", "osvi_export_customer"])
    @pytest.mark.parametrize("option", ["--customer", "--account"])
    def test_wrong_value_is_refused_with_the_option(self, command, option):
        options = {"--customer": CUSTOMER, "--account": "default", option: "a\x00"}
        with pytest.raises(CommandError, match=f"^{option}: "):
            run(command, *chain(*options.items()))

    @pytest.mark.parametrize(
        ("task", "others"),
        [
            ("--journal", ["--dry-run"]),
            ("--journal", ["--customer", CUSTOMER, "--account", "a"]),
            ("--replay", ["--customer", CUSTOMER, "--account", "a"]),
        ],
    )
    def test_options_that_would_be_ignored_are_refused(self, task, others):
        given = "together with " + ", ".join(sorted(each for each in others if each[:2] == "--"))
        closed()
        with pytest.raises(CommandError, match=given):
            run("osvi_erase", task, *others)
        assert not Erasure.objects.exists()

    def test_replay_of_a_file(self, tmp_path, monkeypatch):
        closed()
        run("osvi_erase", "--customer", CUSTOMER)
        journal = run("osvi_erase", "--journal")
        (tmp_path / "journal").write_text(journal)
        Erasure.objects.all().delete()
        restored()
        said = run("osvi_erase", "--replay", str(tmp_path / "journal"), "--dry-run")
        assert "1 customer is here again\nwould be erased: 1 chatsession, 1 sessions" in said
        said = run("osvi_erase", "--replay", str(tmp_path / "journal"))
        assert "1 customer was here again" in said
        said = run("osvi_erase", "--replay", "-", stdin=journal, monkeypatch=monkeypatch)
        assert "0 customers were here again" in said
        restored(status="active")
        with pytest.raises(CommandError, match="1 of them is not erased"):
            run("osvi_erase", "--replay")
        with pytest.raises(CommandError, match="1 of them cannot be erased now"):
            run("osvi_erase", "--replay", "--dry-run")
        (tmp_path / "image").write_bytes(b"\xff")
        for name, why in {"none": "No such file", "image": "not a text in UTF-8"}.items():
            with pytest.raises(CommandError, match=f"{tmp_path / name}” cannot be read: .*{why}"):
                run("osvi_erase", "--replay", str(tmp_path / name))
        assert CloseJob.objects.count() == 0


def sessions_of_default_account(user, purpose):
    """Return what a user of one tenant may see, as a host's function does."""
    assert purpose in ("erase", "export")
    return ChatSession.objects.filter(agent__account="default")


def test_user_with_narrowed_access_erases_only_what_is_inside(settings, staff, grant):
    settings.OSVI_SESSIONS_FOR = f"{__name__}.sessions_of_default_account"
    inside, outside = closed(), closed(agent__account="other")
    job = CloseJobFactory(note=f"{CUSTOMER} and {inside.session_id}")
    StartLock.objects.create(key=key_of("default", inside.agent.uuid, CUSTOMER))
    user = grant(staff, "erase_customer")
    assert len(export_customer(CUSTOMER, requested_by=user)["sessions"]) == 1
    assert erase_customer(CUSTOMER, requested_by=user, dry_run=True).counts["chatsession"] == 1
    result = erase_customer(CUSTOMER, requested_by=user)
    outside.refresh_from_db()
    job.refresh_from_db()
    assert outside.customer_id == CUSTOMER
    assert job.note == f"{CUSTOMER} and {result.marker}"
    assert StartLock.objects.exists()
    assert erase_customer(CUSTOMER, requested_by=user).counts == {}
    assert list(replay_erasures()) == []


def test_replay_for_a_user_with_narrowed_access_repeats_only_what_is_inside(settings, staff, grant):
    closed(), closed(agent__account="other")
    erase_customer(CUSTOMER)
    inside, outside = restored(), restored(agent__account="other")
    settings.OSVI_SESSIONS_FOR = f"{__name__}.sessions_of_default_account"
    (replayed,) = replay_erasures(requested_by=grant(staff, "erase_customer"))
    assert replayed.result.counts["chatsession"] == 1
    inside.refresh_from_db(), outside.refresh_from_db()
    assert (inside.customer_id, outside.customer_id) == (replayed.result.marker, CUSTOMER)
    # The journal still has the whole erasure, which another replay goes on with.
    (replayed,) = replay_erasures()
    assert replayed.result.counts["chatsession"] == 3
