"""``manage.py osvi_sandbox``: a test server for OSVI, without an account or a network."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _

from osvi_django.conf import MAX_SECONDS
from osvi_django.management.output import OSVICommand
from osvi_django.testing.sandbox import OSVISandbox
from osvi_django.testing.sessions import SandboxSession

# All are in the memory of the sandbox.
MAX_SESSIONS: Final = 1_000_000


class Command(OSVICommand):
    """Serve a sandbox OSVI until Ctrl-C."""

    help = _("Run a sandbox OSVI on this machine until you press Ctrl-C.")
    # It needs neither a database nor a valid OSVI setting: it is used to try these out.
    requires_system_checks: list[str] = []
    requires_migrations_checks = False
    is_output_required = True

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--host", default="127.0.0.1", help=_("Default: 127.0.0.1."))
        parser.add_argument(
            "--port", type=int, default=8800, help=_("Default: 8800. 0 picks a free port.")
        )
        parser.add_argument(
            "--token", default="sandbox-token-16", help=_("The API token that the sandbox accepts.")
        )
        parser.add_argument(
            "--latency", type=float, default=0.0, help=_("How many seconds a close takes.")
        )
        parser.add_argument(
            "--sessions",
            type=int,
            default=24,
            help=_("How many chat sessions to create at the start."),
        )

    def handle(self, **options: Any) -> None:
        """Start the server, print its address, and wait."""
        check_host(options["host"])
        check_number("--sessions", options["sessions"], MAX_SESSIONS)
        check_number("--latency", options["latency"], MAX_SECONDS)
        osvi = OSVISandbox(**{name: options[name] for name in ("host", "port", "token", "latency")})
        sessions = osvi.seed(options["sessions"])
        self._start(osvi)
        try:
            # Ctrl-C may come as soon as the first line is printed.
            with suppress(KeyboardInterrupt):
                self._introduce(osvi, sessions)
                wait()
        finally:
            osvi.stop()

    def _start(self, osvi: OSVISandbox) -> None:
        try:
            osvi.start()
        except (OSError, OverflowError) as error:  # the latter for a port above 65535
            message = _(
                "Port %(port)s cannot be used (%(error)s). Use another port, or --port 0 for any "
                "free port."
            )
            raise CommandError(message % {"port": osvi.port, "error": error}) from error

    def _introduce(self, osvi: OSVISandbox, sessions: Iterable[SandboxSession]) -> None:
        self.say(_("OSVI sandbox at %(url)s") % {"url": osvi.url})
        self.say(_("API token: %(token)s") % {"token": osvi.token})
        for chat in sessions:
            self.say(f"{chat.id}  {chat.agent_uuid}  {chat.customer_id}  {chat.status}")
        self.say(_("Press Ctrl-C to stop."))


def wait() -> None:
    """Wait until Ctrl-C raises ``KeyboardInterrupt``."""
    while True:
        time.sleep(3600)


def check_number(option: str, value: float, limit: int) -> None:
    """Refuse a number below 0 or above its limit, and NaN."""
    if not 0 <= value <= limit:
        message = _("%(option)s must be a number from 0 to %(limit)d.")
        raise CommandError(message % {"option": option, "limit": limit})


def check_host(host: str) -> None:
    """Refuse an address that others can reach: the sandbox is not meant for a network."""
    try:
        local = host == "localhost" or IPv4Address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        message = _("The sandbox can serve only this machine, not %(host)s: use --host 127.0.0.1")
        raise CommandError(message % {"host": host})
