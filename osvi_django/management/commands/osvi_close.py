"""``manage.py osvi_close``: close many chat sessions, by their ids or by what they are."""

from __future__ import annotations

import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError, router
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput
from osvi_django.management.periods import read_period
from osvi_django.management.progress import job_progress, line_of, summary_of
from osvi_django.management.watching import STOPPED, stop_on_signals
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.jobs import create_close_job, run_close_job, trouble_of
from osvi_django.services.mirroring import find_session
from osvi_django.services.selection import require_id, select_sessions
from osvi_django.transactions import refuse_inside_transaction

NOT_ALL_CLOSED: Final = 1
WRONG_ARGUMENTS: Final = 2
LATER: Final = 75  # EX_TEMPFAIL of sysexits.h
# Of the sessions that a dry run selects.
MOST_SHOWN: Final = 10

_FILTERS: Final = ("status", "agent", "customer", "idle_for", "started_before")

Chosen = list[str] | QuerySet[ChatSession]


class Command(BaseCommand):
    """Makes a close job and runs it here; whatever this leaves, ``osvi_work`` goes on with."""

    help = _("Close many chat sessions at OSVI and keep their summaries.")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare what to close, and how."""
        parser.epilog = _(
            "Exit codes: 0, all are closed, or none was selected. 1, some are not: they failed, "
            "are unconfirmed or were cancelled. 2, the arguments are wrong. 75, OSVI or the "
            "database is in trouble: the job waits, and osvi_work goes on with it. 130, Ctrl-C or "
            "SIGTERM: what was under way was brought home, and osvi_work goes on with the job."
        )
        parser.add_argument("ids", nargs="*", metavar="ID", help=_("OSVI's ids of sessions."))
        self._add_filters(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help=_("Say what would be closed, and do nothing.")
        )
        parser.add_argument(
            "--note", default="", help=_("Why, for your colleagues. It is not sent to OSVI.")
        )

    def _add_filters(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--status",
            nargs="+",
            action="extend",
            choices=ChatSession.Status.values,
            help=_("Those in one of these. Default with other filters: active dormant."),
        )
        parser.add_argument("--agent", metavar="UUID", help=_("Those of this agent."))
        parser.add_argument("--customer", metavar="ID", help=_("Those of this customer."))
        parser.add_argument(
            "--idle-for",
            metavar="TIME",
            help=_("Those of which nothing has changed here for 30s, 90m, 12h, 7d or 2w."),
        )
        parser.add_argument(
            "--started-before",
            metavar="WHEN",
            help=_("Those that began before 2026-01-31 or 2026-01-31T12:00+01:00, for example."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Choose, and close or show."""
        chosen = _chosen(options)
        if options["dry_run"]:
            self._show(chosen)
        elif isinstance(chosen, QuerySet) and not chosen.exists():
            self.stdout.write(_("No chat session is selected."))
        else:
            self._close(chosen, options["note"])

    def _show(self, chosen: Chosen) -> None:
        self.stdout.write(_counted(chosen))
        for line in _first(chosen):
            self.stdout.write(line)

    def _close(self, chosen: Chosen, note: str) -> None:
        refuse_inside_transaction(router.db_for_write(CloseJob))
        with stop_on_signals(self.stderr) as stopped:
            job = self._run(self._make(chosen, note), stopped)
        for line in summary_of(job):
            self.stdout.write(line)
        _fail_unless_closed(job, is_stopped=stopped.is_set())

    def _make(self, chosen: Chosen, note: str) -> CloseJob:
        try:
            job = create_close_job(chosen, door="command", note=note, start=False)
        except InvalidInput as error:
            raise _wrong(str(error)) from None
        self.stdout.write(line_of(job))
        self.stdout.flush()  # who reads this through a pipe waits for it
        return job

    def _run(self, job: CloseJob, stopped: threading.Event) -> CloseJob:
        try:
            with job_progress(job, self.stderr) as report:
                return run_close_job(job.pk, stop=stopped, on_progress=report)
        except (OperationalError, InterfaceError) as error:
            problem = _("The database is away (%(kind)s): osvi_work goes on with close job %(id)s.")
            told = {"kind": type(error).__name__, "id": job.pk}
            raise CommandError(problem % told, returncode=LATER) from error


def _chosen(options: dict[str, Any]) -> Chosen:
    """The ids or the sessions that the arguments mean."""
    filters = {name: options[name] for name in _FILTERS if options[name] is not None}
    if bool(options["ids"]) == bool(filters):
        raise _wrong(_("Name ids or at least one filter, and not both: see --help."))
    try:
        if options["ids"]:
            return [require_id("ID", each) for each in options["ids"]]
        return _selected(**filters)
    except InvalidInput as error:
        raise _wrong(str(error)) from None


def _selected(
    *,
    status: list[str] | None = None,
    agent: str | None = None,
    customer: str | None = None,
    idle_for: str | None = None,
    started_before: str | None = None,
) -> QuerySet[ChatSession]:
    return select_sessions(
        statuses=status or ChatSession.OPEN,
        agent_uuid=agent,
        customer_id=customer,
        unchanged_since=None if idle_for is None else _so_long_ago(idle_for),
        started_before=None if started_before is None else _moment(started_before),
    )


def _so_long_ago(period: str) -> datetime:
    """The moment that long before now."""
    try:
        if found := read_period(period):
            return timezone.now() - found
    except OverflowError:
        pass  # nobody has chatted for so long
    raise _wrong(_("--idle-for takes a time such as 30s, 90m, 12h, 7d or 2w, above zero."))


def _moment(text: str) -> datetime:
    """The moment, in this site's time zone where it names none."""
    try:
        moment = parse_datetime(text)
        if moment is not None:
            aware = timezone.make_aware(moment) if timezone.is_naive(moment) else moment
            return aware.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _wrong(_("--started-before takes a time such as 2026-01-31 or 2026-01-31T12:00+01:00."))


def _counted(chosen: Chosen) -> str:
    closed = ChatSession.Status.CLOSED
    if isinstance(chosen, QuerySet):
        selected, unknown = chosen.count(), 0
        done = chosen.filter(status=closed).count()
    else:
        found = [find_session(each) for each in dict.fromkeys(chosen)]
        selected, unknown = len(found), found.count(None)
        done = sum(each is not None and each.status == closed for each in found)
    return _(
        "Selected: %(selected)d. Would be closed: %(open)d. Closed already: %(done)d. "
        "Not known here: %(unknown)d. Nothing was sent or written."
    ) % {
        "selected": selected,
        "open": selected - done - unknown,
        "done": done,
        "unknown": unknown,
    }


def _first(chosen: Chosen) -> Iterator[str]:
    """A line for each of the first."""
    if isinstance(chosen, QuerySet):
        yield from map(_line, chosen.select_related("agent")[:MOST_SHOWN])
        return
    for each in list(dict.fromkeys(chosen))[:MOST_SHOWN]:
        session = find_session(each)
        yield _line(session) if session else f"{each!r}  {_('not known here')}"


def _line(session: ChatSession) -> str:
    began = session.started_at.isoformat(timespec="seconds")
    who = f"{session.agent.uuid!r}  {session.customer_id!r}"
    return f"{session.session_id!r}  {session.status}  {began}  {who}"


def _fail_unless_closed(job: CloseJob, *, is_stopped: bool) -> None:
    """Raise ``CommandError`` with the code that says why not all are closed."""
    told = {"id": job.pk, "left": job.total - job.succeeded, "total": job.total}
    if job.is_finished:
        if told["left"]:
            problem = _("Not closed: %(left)d of %(total)d.")
            raise CommandError(problem % told, returncode=NOT_ALL_CLOSED)
    elif is_stopped:
        problem = _("Stopped: close job %(id)s waits, and osvi_work goes on with it.")
        raise CommandError(problem % told, returncode=STOPPED)
    else:
        problem = _("Paused: close job %(id)s waits, and osvi_work goes on with it. %(why)s")
        raise CommandError(problem % {**told, "why": trouble_of(job)}, returncode=LATER)


def _wrong(problem: str) -> CommandError:
    return CommandError(problem, returncode=WRONG_ARGUMENTS)
