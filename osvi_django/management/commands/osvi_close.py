"""``manage.py osvi_close``: close many chat sessions, by their ids or by a filter."""

from __future__ import annotations

import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError, router
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django.database import is_without_tables, refuse_inside_transaction, safe_error_name
from osvi_django.exceptions import InvalidInput
from osvi_django.management.durations import read_period
from osvi_django.management.loop import STOPPED, stop_on_signals
from osvi_django.management.options import WRONG_ARGUMENTS, add_dry_run, problem_of
from osvi_django.management.output import OSVICommand
from osvi_django.management.progress import job_progress, line_of, summary_of
from osvi_django.management.session_filter import OPTIONS, add_filters, filter_of, given_filters
from osvi_django.models import ChatSession, CloseJob
from osvi_django.services.attempts.close_rules import require_rules_of_any_account
from osvi_django.services.attempts.types import RequestOrigin
from osvi_django.services.jobs import create_close_job, pause_reason, run_close_job
from osvi_django.services.jobs.items import matching_sessions
from osvi_django.services.selectors import SessionFilter, find_session
from osvi_django.validation import require_id

NOT_ALL_CLOSED: Final = 1
LATER: Final = 75  # EX_TEMPFAIL of sysexits.h
# How many sessions a dry run lists.
MAX_SHOWN: Final = 10

_OWN_FILTERS: Final = ("idle_for", "exclude_agents")
_CHANGED_BY_A_CLOSE: Final = ("updated_after", "updated_before")
# What is typed for the other arguments of a close.
_OF_A_CLOSE: Final = {"note": "--note", "close_reason": "--reason", "goodbye": "--goodbye"}


@dataclass(frozen=True)
class Selected:
    """The sessions that a filter selects, and a search finds if there is one."""

    filter: SessionFilter
    search: str | None = field(repr=False)

    def sessions(self) -> QuerySet[ChatSession]:
        """Return them, as they are now. Raises ``CommandError``."""
        try:
            return matching_sessions(self.filter, None, self.search)
        except InvalidInput as error:
            raise _wrong(problem_of(error, OPTIONS)) from None


Chosen = list[str] | Selected


class Command(OSVICommand):
    """Create a close job and run it here; ``osvi_worker`` continues what is left."""

    help = _("Close many chat sessions at OSVI and store their summaries.")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments for what to close, and how."""
        parser.epilog = _(
            "Without --status and --open, filters select active and dormant sessions. "
            "Exit codes: 0, all are closed, or no longer match the filters, or none was selected. "
            "1, some are not closed: they failed, are unconfirmed or were cancelled. 2, the "
            "arguments are wrong. 75, OSVI or the database has a problem: the job waits, and "
            "osvi_worker continues it. 130, Ctrl-C or SIGTERM: closes in progress were finished, "
            "and osvi_worker continues the job."
        )
        parser.add_argument(
            "ids", nargs="*", metavar="ID", help=_("Session ids, as OSVI gives them.")
        )
        self._add_filters(parser)
        add_dry_run(parser)
        parser.add_argument(
            "--note", default="", help=_("Why you close them. Only your colleagues see this.")
        )
        parser.add_argument(
            "--reason",
            default="",
            metavar="REASON",
            help=_("The reason for closing, one of CLOSE_REASONS if that setting has any."),
        )

        parser.add_argument(
            "--goodbye",
            default="",
            metavar="TEXT",
            help=_("Take over each chat first, and send this text to the customer."),
        )

    def _add_filters(self, parser: ArgumentParser) -> None:
        add_filters(parser, without=_CHANGED_BY_A_CLOSE)
        parser.add_argument(
            "--idle-for",
            metavar="TIME",
            help=_(
                "Only sessions without activity for this long, for example 30s, 90m, 12h, 7d or "
                "2w. This and --idle-since leave out customers who wait for a person, unless you "
                "ask for them."
            ),
        )
        parser.add_argument(
            "--exclude-agent",
            action="append",
            dest="exclude_agents",
            metavar="UUID",
            help=_("No sessions of this agent. Can be given several times."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Choose the sessions, and close or list them."""
        chosen = _chosen(options)
        if options["dry_run"]:
            self._show(chosen)
            return
        why = {"note": options["note"], "close_reason": options["reason"]}
        _require_rules(**why)
        if not _selects_any(chosen):
            self.say(_("No chat session is selected."))
        else:
            self._close(chosen, **why, goodbye=options["goodbye"])

    def _show(self, chosen: Chosen) -> None:
        self.say(_counted(chosen))
        for line in _first(chosen):
            self.say(line)

    def _close(self, chosen: Chosen, **options: Any) -> None:
        refuse_inside_transaction(router.db_for_write(CloseJob))
        with stop_on_signals(self.stderr) as stopped:
            job = self._run(self._make(chosen, **options), stopped)
        for line in summary_of(job):
            self.say(line)
        _fail_unless_closed(job, is_stopped=stopped.is_set())

    def _make(self, chosen: Chosen, **options: Any) -> CloseJob:
        try:
            named = chosen.filter if isinstance(chosen, Selected) else chosen
            options["search"] = chosen.search if isinstance(chosen, Selected) else None
            job = create_close_job(named, via="command", start=False, **options)
        except InvalidInput as error:
            raise _wrong(problem_of(error, OPTIONS | _OF_A_CLOSE)) from None
        if not job.is_finished:  # its summary begins with the same line
            self.say(line_of(job))
        return job

    def _run(self, job: CloseJob, stopped: threading.Event) -> CloseJob:
        try:
            with job_progress(job, self.stderr) as report:
                return run_close_job(job.pk, stop=stopped, on_progress=report)
        except (OperationalError, InterfaceError) as error:
            if is_without_tables(error):
                raise
            problem = _(
                "The database is unavailable (%(kind)s). osvi_worker continues close job %(id)s."
            )
            values = {"kind": safe_error_name(error), "id": job.pk}
            raise CommandError(problem % values, returncode=LATER) from error


def _chosen(options: dict[str, Any]) -> Chosen:
    """Return the ids or the sessions that the arguments name."""
    own = {name for name in _OWN_FILTERS if options[name] is not None}
    if bool(options["ids"]) == bool(own | given_filters(options)):
        raise _wrong(_("Give either ids or at least one filter. See --help."))
    try:
        if options["ids"]:
            return [require_id("ID", each) for each in options["ids"]]
        return Selected(_filter_of(options), options["search"])
    except InvalidInput as error:
        raise _wrong(problem_of(error, OPTIONS)) from None


def _filter_of(options: dict[str, Any]) -> SessionFilter:
    others = {"exclude_agents": options["exclude_agents"]}
    if options["status"] is None and options["open"] is None:
        others["status"] = ChatSession.OPEN
    if options["idle_for"] is not None:
        if options["idle_since"] is not None:
            raise _wrong(_("Give either --idle-for or --idle-since."))
        period = read_period("--idle-for", options["idle_for"])
        others["idle_since"] = timezone.now() - period
    return filter_of(options, **others).for_closing()


def _selects_any(chosen: Chosen) -> bool:
    return not isinstance(chosen, Selected) or chosen.sessions().exists()


def _require_rules(**why: str) -> None:
    """Refuse what no account allows, whether or not a session is selected today."""
    try:
        request = RequestOrigin(requested_by=None, via="command", **why)
        require_rules_of_any_account(request)
    except InvalidInput as error:
        raise _wrong(problem_of(error, _OF_A_CLOSE)) from None


def _counted(chosen: Chosen) -> str:
    closed = ChatSession.Status.CLOSED
    if isinstance(chosen, Selected):
        matching = chosen.sessions()
        selected, unknown = matching.count(), 0
        done = matching.filter(status=closed).count()
    else:
        found = [find_session(each) for each in dict.fromkeys(chosen)]
        selected, unknown = len(found), found.count(None)
        done = sum(each is not None and each.status == closed for each in found)
    return _(
        "Selected: %(selected)d. Would be closed: %(open)d. Already closed: %(done)d. Not found "
        "on this site: %(unknown)d. Nothing was sent or written."
    ) % {
        "selected": selected,
        "open": selected - done - unknown,
        "done": done,
        "unknown": unknown,
    }


def _first(chosen: Chosen) -> Iterator[str]:
    """Yield a line for each of the first sessions."""
    if isinstance(chosen, Selected):
        yield from map(_line, chosen.sessions().select_related("agent")[:MAX_SHOWN])
        return
    for each in list(dict.fromkeys(chosen))[:MAX_SHOWN]:
        session = find_session(each)
        yield _line(session) if session else f"{each!r}  {_('not found on this site')}"


def _line(session: ChatSession) -> str:
    began = session.started_at.isoformat(timespec="seconds")
    who = f"{session.agent.uuid!r}  {session.customer_id!r}"
    return f"{session.session_id!r}  {session.status}  {began}  {who}"


def _fail_unless_closed(job: CloseJob, *, is_stopped: bool) -> None:
    """Raise ``CommandError`` with the exit code that says why not all are closed."""
    values = {"id": job.pk, "left": job.total - job.succeeded - job.left_out, "total": job.total}
    if job.is_finished:
        if values["left"]:
            problem = _("Not closed: %(left)d of %(total)d.")
            raise CommandError(problem % values, returncode=NOT_ALL_CLOSED)
    elif is_stopped:
        problem = _("Stopped. Close job %(id)s waits, and osvi_worker continues it.")
        raise CommandError(problem % values, returncode=STOPPED)
    else:
        problem = _("Paused. Close job %(id)s waits, and osvi_worker continues it. %(why)s")
        raise CommandError(problem % {**values, "why": pause_reason(job)}, returncode=LATER)


def _wrong(problem: str) -> CommandError:
    return CommandError(problem, returncode=WRONG_ARGUMENTS)
