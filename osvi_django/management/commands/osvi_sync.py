"""``manage.py osvi_sync (--customer ID ... | --open [--watch])``: look up open sessions."""

from __future__ import annotations

import threading
from argparse import ArgumentParser
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final

from django.core.management.base import CommandError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.exceptions import (
    InvalidInput,
    OSVIError,
    OSVINotConfigured,
    account_message_for_code,
    message_for_code,
)
from osvi_django.management.customer import OPTIONS as CUSTOMER_OPTIONS
from osvi_django.management.durations import read_period
from osvi_django.management.loop import STOPPED, stop_on_signals
from osvi_django.management.options import WRONG_ARGUMENTS, problem_of
from osvi_django.management.output import OSVICommand
from osvi_django.management.progress import progress
from osvi_django.services.mirroring import look_up_customer
from osvi_django.services.mirroring.sync import SyncProgress, sync_open
from osvi_django.services.mirroring.watching import (
    DATABASE,
    UNEXPECTED,
    WatchTrouble,
    watch_open,
)
from osvi_django.validation import account_problem, id_problem

SOME_FAILED: Final = 1
_PERIOD: Final = 30  # seconds


class Command(OSVICommand):
    """Look up sessions, from cron with ``--open``: OSVI does not notify us of changes.

    With ``--watch`` as a service, so that a customer who asks for a person is seen soon.
    """

    help = _("Look up at OSVI which chat sessions are open, and store them here.")
    _problem: CommandError | None = None

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments for whom to look up."""
        parser.epilog = _(
            "Exit codes: 0, all were looked up. 1, some could not be looked up. 2, the arguments "
            "are wrong. 130, stopped by Ctrl-C or SIGTERM; with --watch, which ends only then, 0."
        )
        parser.add_argument(
            "--customer",
            nargs="+",
            action="extend",
            metavar="ID",
            help=_("Look up the open sessions of these customers."),
        )
        parser.add_argument(
            "--account", help=_("With --customer: the OSVI account. Default: default.")
        )
        parser.add_argument(
            "--open",
            action="store_true",
            help=_("Look up the customers of all sessions that are open on this site."),
        )
        parser.add_argument(
            "--older-than",
            metavar="TIME",
            help=_(
                "With --open: only sessions not looked up for this long, for example 30s, 90m, "
                "12h, 7d or 2w."
            ),
        )

        parser.add_argument(
            "--watch",
            type=float,
            nargs="?",
            const=_PERIOD,
            metavar="SECONDS",
            help=_(
                "With --open: until stopped, look up each again after this many seconds at the "
                "latest (default: %(seconds)g), and more often if it has moved lately."
            )
            % {"seconds": _PERIOD},
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Look up the sessions, and fail if some could not be looked up."""
        if bool(options["customer"]) == options["open"]:
            raise _wrong(_("Give either customers or --open. See --help."))
        if options["older_than"] is not None and not options["open"]:
            raise _wrong(_("--older-than can be used only with --open."))
        if options["watch"] is not None and (not options["open"] or options["older_than"]):
            raise _wrong(_("--watch can be used only with --open, and without --older-than."))
        if options["account"] is not None and options["open"]:
            raise _wrong(_("--account can be used only with --customer."))
        if options["watch"] is not None:
            self._watch(options["watch"])
        elif options["open"]:
            self._sync_open(options["older_than"])
        else:
            self._sync_customers(options["customer"], options["account"] or DEFAULT_ACCOUNT)

    def _sync_customers(self, customers: list[str], account: str) -> None:
        asked = list(dict.fromkeys(customers))
        _require(asked, account)
        failed = sum(not self._sync_customer(customer, account) for customer in asked)
        if failed:
            values = {"failed": failed, "total": len(asked)}
            problem = ngettext(
                "%(failed)d of %(total)d customer could not be looked up.",
                "%(failed)d of %(total)d customers could not be looked up.",
                len(asked),
            )
            raise CommandError(problem % values, returncode=SOME_FAILED)

    def _sync_customer(self, customer: str, account: str) -> bool:
        try:
            sessions = look_up_customer(customer, account=account, via="command").sessions
        except (OSVIError, OSVINotConfigured) as error:
            self.complain(f"{str(customer)!r}: {problem_of(error, CUSTOMER_OPTIONS)}")
            return False
        for session in sessions:
            self.say(f"{session.session_id!r}  {session.status}  {session.mode}")
        values = {"customer": repr(str(customer)), "number": len(sessions)}
        self.say(_("%(customer)s: %(number)d open") % values)
        return True

    def _sync_open(self, older_than: str | None) -> None:
        try:
            period = None if older_than is None else read_period("--older-than", older_than)
        except InvalidInput as error:
            raise _wrong(str(error)) from None
        with stop_on_signals(self.stderr) as stopped:
            done = self._run(period, stopped)
        self.say(_line(done))
        for account, code in done.troubles.items():
            self.complain(f"{account}: {message_for_code(code, is_close=False)}")
        _fail_unless_done(done, is_stopped=stopped.is_set())

    def _watch(self, seconds: float) -> None:
        self.say(_("Looking up all open chat sessions, until stopped."))
        try:
            with stop_on_signals(self.stderr) as stopped:
                report = partial(self._report_or_stop, stopped)
                watch_open(seconds=seconds, stop=stopped, on_trouble=report, via="command")
        except InvalidInput as error:
            raise _wrong(problem_of(error, {"seconds": "--watch"})) from None
        if self._problem is not None:
            raise self._problem
        self.say(_("Stopped."))

    def _report_or_stop(self, stopped: threading.Event, trouble: WatchTrouble) -> None:
        """Report what may pass; stop if the tables are gone, which does not."""
        try:
            if trouble.code in {DATABASE, UNEXPECTED}:
                self.check_migrations()
            self._report(trouble)
        except CommandError as problem:  # this may be any thread
            self._problem = problem
            stopped.set()

    def _report(self, trouble: WatchTrouble) -> None:
        """Say once that something keeps sessions from being looked up, or that this is over."""
        if not trouble.code:
            name = trouble.account or _("The database")
            self.say(_("%(name)s: available again.") % {"name": name})
            return
        if trouble.code == DATABASE:
            problem = _("The database is unavailable: %(kind)s.") % {"kind": trouble.detail}
        elif trouble.code == UNEXPECTED:
            problem = _("%(account)s: an error of this site. See the log.")
            problem %= {"account": trouble.account}
        else:
            problem = f"{trouble.account}: {account_message_for_code(trouble.code)}"
        self.complain(_("%(problem)s It is tried again until it works.") % {"problem": problem})

    def _run(self, period: timedelta | None, stopped: threading.Event) -> SyncProgress:
        begun, unit = SyncProgress(), _("customers")
        with progress(begun, self.stderr, line=_line, unit=unit, postfix=["failed"]) as report:
            return sync_open(older_than=period, stop=stopped, on_progress=report, via="command")


def _line(done: SyncProgress) -> str:
    looked_up = ngettext(
        "%(looked_up)d of %(total)d customer looked up",
        "%(looked_up)d of %(total)d customers looked up",
        done.total,
    ) % {"looked_up": done.looked_up, "total": done.total}
    rest = _("%(failed)d failed, %(left)d left") % {"failed": done.failed, "left": done.left}
    unnamed = ngettext(
        "%(number)d session has no customer id",
        "%(number)d sessions have no customer id",
        done.without_customer,
    ) % {"number": done.without_customer}
    return f"{looked_up}, {rest}; {unnamed}"


def _require(customers: list[str], account: str) -> None:
    """Raise an error for invalid arguments before OSVI is asked."""
    for customer in customers:
        if problem := id_problem(customer):
            raise _wrong(f"--customer {str(customer)!r}: {problem}")
    with suppress(OSVINotConfigured):  # the service reports it
        if problem := account_problem(account):
            raise _wrong(problem)


def _fail_unless_done(done: SyncProgress, *, is_stopped: bool) -> None:
    if is_stopped and done.left:
        raise CommandError(
            _("Stopped. To continue, run it again with --older-than."), returncode=STOPPED
        )
    if done.failed or done.left:
        problem = _("Some customers could not be looked up. See the log for details.")
        raise CommandError(problem, returncode=SOME_FAILED)


def _wrong(problem: str) -> CommandError:
    return CommandError(problem, returncode=WRONG_ARGUMENTS)
