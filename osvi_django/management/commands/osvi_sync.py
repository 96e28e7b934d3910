"""``manage.py osvi_sync (--customer ID ... | --open)``: look up at OSVI what is open there."""

from __future__ import annotations

import threading
from argparse import ArgumentParser
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError
from django.utils.translation import gettext as _

from osvi_django.conf import DEFAULT_ACCOUNT, InvalidSetting, account_aliases
from osvi_django.exceptions import InvalidInput, OSVIError, OSVINotConfigured, describe
from osvi_django.management.periods import read_period
from osvi_django.management.progress import progress
from osvi_django.management.watching import STOPPED, stop_on_signals
from osvi_django.services.mirroring import is_storable_id, sync_customer
from osvi_django.services.syncing import SyncProgress, sync_open

SOME_FAILED: Final = 1
WRONG_ARGUMENTS: Final = 2


class Command(BaseCommand):
    """With ``--open`` for cron: OSVI tells of no change by itself."""

    help = _("Look up at OSVI which chat sessions are open, and mirror them.")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare whom to ask about."""
        parser.epilog = _(
            "Exit codes: 0, all were looked up. 1, some were not. 2, the arguments are wrong. "
            "130, stopped by Ctrl-C or SIGTERM."
        )
        parser.add_argument(
            "--customer",
            nargs="+",
            action="extend",
            metavar="ID",
            help=_("What these customers have open."),
        )
        parser.add_argument(
            "--account", help=_("The account to ask, with --customer. Default: default.")
        )
        parser.add_argument(
            "--open", action="store_true", help=_("All that is believed open here, by customer.")
        )
        parser.add_argument(
            "--older-than",
            metavar="TIME",
            help=_("With --open: what was not looked up for 30s, 90m, 12h, 7d or 2w."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Look up, and fail where something could not be."""
        if bool(options["customer"]) == options["open"]:
            raise _wrong(_("Name customers, or use --open, and not both: see --help."))
        if options["older_than"] is not None and not options["open"]:
            raise _wrong(_("--older-than goes with --open."))
        if options["account"] is not None and options["open"]:
            raise _wrong(_("--account goes with --customer."))
        if options["open"]:
            self._sync_open(options["older_than"])
        else:
            self._sync_customers(options["customer"], options["account"] or DEFAULT_ACCOUNT)

    def _sync_customers(self, customers: list[str], account: str) -> None:
        asked = list(dict.fromkeys(customers))
        _require(asked, account)
        failed = sum(not self._sync_customer(customer, account) for customer in asked)
        if failed:
            problem = _("%(failed)d of %(total)d customers could not be looked up.")
            told = {"failed": failed, "total": len(asked)}
            raise CommandError(problem % told, returncode=SOME_FAILED)

    def _sync_customer(self, customer: str, account: str) -> bool:
        try:
            sessions = sync_customer(customer, account=account, door="command")
        except (OSVIError, OSVINotConfigured) as error:
            self.stderr.write(f"{customer!r}: {error}")
            return False
        for session in sessions:
            self.stdout.write(f"{session.session_id!r}  {session.status}  {session.mode}")
        self.stdout.write(_("%(number)d open") % {"number": len(sessions)})
        return True

    def _sync_open(self, older_than: str | None) -> None:
        period = None if older_than is None else _period(older_than)
        with stop_on_signals(self.stderr) as stopped:
            done = self._run(period, stopped)
        self.stdout.write(_line(done))
        for account, code in done.troubles.items():
            self.stderr.write(f"{account}: {describe(code, is_close=False)}")
        _fail_unless_done(done, is_stopped=stopped.is_set())

    def _run(self, period: timedelta | None, stopped: threading.Event) -> SyncProgress:
        begun, unit = SyncProgress(), _("customers")
        try:
            with progress(begun, self.stderr, line=_line, unit=unit, beside=["failed"]) as report:
                return sync_open(
                    older_than=period, stop=stopped, on_progress=report, door="command"
                )
        except InvalidInput as error:
            raise _wrong(str(error)) from None
        except (OperationalError, InterfaceError) as error:
            problem = _("The database is away: %(kind)s") % {"kind": type(error).__name__}
            raise CommandError(problem, returncode=SOME_FAILED) from error


def _line(done: SyncProgress) -> str:
    return _(
        "%(looked_up)d of %(total)d customers looked up, %(failed)d failed, %(left)d left; "
        "%(without_customer)d sessions have no customer to ask by"
    ) % {
        "looked_up": done.looked_up,
        "total": done.total,
        "failed": done.failed,
        "left": done.left,
        "without_customer": done.without_customer,
    }


def _require(customers: list[str], account: str) -> None:
    """Refuse what cannot be asked about, before anything is asked."""
    for customer in customers:
        if not is_storable_id(customer):
            raise _wrong(_("--customer %(id)r is no id of a customer.") % {"id": customer})
    with suppress(InvalidSetting):  # which the service tells
        if account not in account_aliases():
            raise _wrong(_('OSVI has no account "%(account)s".') % {"account": account})


def _period(text: str) -> timedelta:
    if found := read_period(text):
        return found
    raise _wrong(_("--older-than takes a time such as 30s, 90m, 12h, 7d or 2w, above zero."))


def _fail_unless_done(done: SyncProgress, *, is_stopped: bool) -> None:
    if is_stopped and done.left:
        raise CommandError(_("Stopped: run it again, with --older-than."), returncode=STOPPED)
    if done.failed or done.left:
        problem = _("Not all could be looked up: the log says why.")
        raise CommandError(problem, returncode=SOME_FAILED)


def _wrong(problem: str) -> CommandError:
    return CommandError(problem, returncode=WRONG_ARGUMENTS)
