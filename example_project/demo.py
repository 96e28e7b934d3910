"""The demo that ``make demo`` runs: everything on this machine, without an OSVI account.

It starts the example site with a new database and a sandbox OSVI, and closes three chats: from
Python, over REST and in the admin. The user can close the other chats. Ctrl-C stops everything and
removes the database.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import django
import requests
from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist
from django.core.management import call_command
from django.db import connections
from django.urls import reverse
from django.utils.module_loading import import_string

from osvi_django.exceptions import OSVIError
from osvi_django.testing import OSVISandbox, SandboxSession

BASE_DIR: Final = Path(__file__).resolve().parent.parent
RUNS: Final = BASE_DIR / ".demo"
MANAGE: Final = BASE_DIR / "manage.py"
HOST: Final = "127.0.0.1"
PREFERRED_PORT: Final = 8000
CONVERSATIONS: Final = 24
LATENCY: Final = 0.6  # seconds of each close, in which OSVI's AI would write the summary
TIMEOUT: Final = 60  # seconds for the site to start, or to answer a request
USERNAME: Final = "staff"
MANAGER: Final = "manager"
# A closed terminal sends SIGHUP, which not every system has.
SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
PERMISSIONS: Final = (
    "view_chatsession",
    "close_chatsession",
    "operate_chatsession",
    "view_sessionsummary",
    "view_chatagent",
    "change_chatagent",
)
MANAGER_PERMISSIONS: Final = (
    *PERMISSIONS,
    "export_chatsession",
    "erase_customer",
    "view_closejob",
    "view_dataexport",
    "view_erasure",
)


class DemoFailed(Exception):
    """The demo cannot continue; the message says why."""


def main() -> int:
    """Run the demo until it is stopped, and return the exit code."""
    argparse.ArgumentParser(
        prog="python -m example_project.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    interruption.listen()
    try:
        run()
    except KeyboardInterrupt:
        write_line("\nStopped. The site, the sandbox and the database are gone.")
    except DemoFailed as error:
        print(f"\nThe demo failed. {error}", file=sys.stderr)
        return 1
    return 0


class Interruption:
    """A request to stop, by Ctrl-C or a signal, which a block can defer until its end."""

    def __init__(self) -> None:
        self.is_requested = False
        self.is_deferred = False

    def listen(self) -> None:
        """Clean up after each signal that stops the demo, also if the shell ignores Ctrl-C."""
        for number in SIGNALS:
            signal.signal(number, self.receive)
        sys.unraisablehook = report_unraisable

    def receive(self, number: int, frame: object) -> None:
        """Stop once: a second Ctrl-C must not interrupt the cleanup."""
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self.is_requested = True
        if not self.is_deferred:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer a stop until this block has ended, so that what it starts can be stopped."""
        self.is_deferred = True
        try:
            yield
        finally:
            self.is_deferred = False
        if self.is_requested:
            raise KeyboardInterrupt


interruption = Interruption()


def report_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Ignore a stop that was received in a finalizer; it is noticed a moment later."""
    if not issubclass(error.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(error)


def run() -> None:
    """Run the demo from its first line to Ctrl-C."""
    write_line(
        "The osvi_django demo: a fresh database, a sandbox in OSVI's place, the example site.\n"
    )
    password = secrets.token_urlsafe(9)
    with run_folder() as folder, OSVISandbox(latency=LATENCY) as osvi:
        configure_django(folder / "db.sqlite3", osvi)
        create_data(osvi, password)
        with Site(folder / "site.log", password) as site:
            show_addresses(folder, osvi, site)
            close_three_chats(site)
            invite(site)
            site.serve_until_stopped()


@contextmanager
def run_folder() -> Iterator[Path]:
    """Create a folder for this run alone, and remove it at the end."""
    RUNS.mkdir(exist_ok=True)
    with interruption.deferred():
        folder = TemporaryDirectory(prefix="run-", dir=RUNS, ignore_cleanup_errors=True)
    with folder:
        try:
            yield Path(folder.name)
        finally:
            # A demo that is stopped early has not set up Django.
            if settings.configured:
                connections.close_all()


def configure_django(database: Path, osvi: OSVISandbox) -> None:
    """Set up Django here and for the site, independent of the shell's variables."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "example_project.settings",
        "DJANGO_DEBUG": "1",
        "DJANGO_ALLOWED_HOSTS": HOST,
        "DATABASE_URL": f"sqlite:///{quote(str(database))}",
        "OSVI_BASE_URL": osvi.url,
        "OSVI_API_TOKEN": osvi.token,
    }
    django.setup()
    call_command("migrate", verbosity=0)


def create_data(osvi: OSVISandbox, password: str) -> None:
    """Create chats in the sandbox, mirror them, and create two users: staff and a manager."""
    for number, chat in enumerate(osvi.seed(CONVERSATIONS)):
        add_variety(chat, number)
        mirror(chat)
    for name, permissions in ((USERNAME, PERMISSIONS), (MANAGER, MANAGER_PERMISSIONS)):
        create_user(name, password, permissions)


def create_user(name: str, password: str, permissions: Sequence[str]) -> None:
    """Create a user who may log in to the admin, with these permissions of the app."""
    user = get_user_model().objects.create_user(name, password=password, is_staff=True)
    granted = model("auth.Permission").objects.filter(
        content_type__app_label="osvi_django", codename__in=permissions
    )
    user.user_permissions.set(granted)


def add_variety(chat: SandboxSession, number: int) -> None:
    """Spread the chats over the last days; some have asked for help, others have a human."""
    chat.created_at -= timedelta(hours=3 * number)
    chat.updated_at = chat.created_at + timedelta(minutes=2)
    chat.help_requested = number % 6 == 5
    if number % 7 == 3:
        chat.mode, chat.active_human = "support", "kim@example.com"


def mirror(chat: SandboxSession) -> None:
    """Create the rows of a chat, as a host that started it through OSVI's API does."""
    agent, _ = model("osvi_django.ChatAgent").objects.get_or_create(
        uuid=chat.agent_uuid, defaults={"name": chat.agent_name}
    )
    model("osvi_django.ChatSession").objects.create(
        session_id=chat.id,
        agent=agent,
        customer_id=chat.customer_id,
        status=chat.status,
        mode=chat.mode,
        help_requested=chat.help_requested,
        active_human=chat.active_human or "",
        metadata=chat.as_json(),
        started_at=chat.created_at,
    )


def model(label: str) -> Any:
    """Return a model; models cannot be imported before Django is set up."""
    return apps.get_model(label)


class Site:
    """The example site, which a separate process serves."""

    def __init__(self, log: Path, password: str) -> None:
        self.log = log
        self.password = password
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # Ctrl-C too: the process must not keep running
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve at the preferred port, or at another one if that is or becomes taken."""
        for preferred in (PREFERRED_PORT, 0, 0):
            self.spawn(free_port(preferred))
            if self.is_ready():
                return
            self.stop()
        raise DemoFailed(f"The site did not start. {self.last_output()}")

    def spawn(self, port: int) -> None:
        """Start Django's development server, which also serves the admin's static files."""
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, str(MANAGE), "runserver", "--noreload", f"{HOST}:{port}"]
        with interruption.deferred(), self.log.open("ab") as log:
            # In a new session, Ctrl-C reaches only the demo, which then stops this process.
            self.process = subprocess.Popen(  # noqa: S603 - no part of it is external input
                command,
                cwd=BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Wait until the site accepts the password, which the site of another demo would not."""
        with self.browser() as browser:
            browser.auth = (USERNAME, self.password)
            ends_at = time.monotonic() + TIMEOUT
            while time.monotonic() < ends_at and self.is_running():
                if is_answering(browser, self.url + reverse("osvi_django:session-list")):
                    return True
                time.sleep(0.1)
        return False

    def is_running(self) -> bool:
        """Return whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def browser(self) -> requests.Session:
        """Return a client that ignores proxies and password files of the shell."""
        session = requests.Session()
        session.trust_env = False
        return session

    def serve_until_stopped(self) -> None:
        """Wait for Ctrl-C; raise ``DemoFailed`` if the site stops before."""
        while self.process is not None and self.process.poll() is None:
            # An exception raised by a signal can get lost, as in a finalizer; the request does not.
            if interruption.is_requested:
                raise KeyboardInterrupt
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        raise DemoFailed(f"The site stopped unexpectedly. {self.last_output()}")

    def stop(self) -> None:
        """Stop the process; kill it if it does not stop in time."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_output(self) -> str:
        """Return the last lines that the server wrote."""
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        return "\n".join(["Its last output:", *lines]) if lines else "It wrote no output."


def free_port(preferred: int) -> int:
    """Return the preferred port if it is free, otherwise another one."""
    for port in (preferred, 0):
        try:
            with socket.create_server((HOST, port)) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise DemoFailed(f"No port is free on {HOST}.")


def is_answering(browser: requests.Session, url: str) -> bool:
    """Return whether the site serves a page."""
    try:
        return browser.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def show_addresses(folder: Path, osvi: OSVISandbox, site: Site) -> None:
    """Show where each part runs."""
    write_line(f"  Sandbox   {osvi.url} with {CONVERSATIONS} chats")
    write_line(f"  Site      {site.url}/")
    write_line(f"  Database  {os.path.relpath(folder, BASE_DIR)}/db.sqlite3\n")


def close_three_chats(site: Site) -> None:
    """Close one chat of each agent, each via another entry point."""
    write_line("Three chats are closed: from Python, over REST and in the admin.")
    write_line("OSVI's AI writes each summary.\n")
    chats = [agent.sessions.filter(status="active").first() for agent in agents()]
    for number, ((via, close), chat) in enumerate(zip(ENTRY_POINTS, chats, strict=True), start=1):
        write_line(f"{number}. {via}")
        write_line(f"   Chat of {chat.customer_id} with {chat.agent}. Summary:")
        summary = textwrap.fill(close_chat(via, close, site, chat), 80)
        write_line(textwrap.indent(summary, "     ") + "\n")


def agents() -> Any:
    """Return the agents, the one with the newest chat first."""
    return model("osvi_django.ChatAgent").objects.order_by("pk")


def close_chat(via: str, close: Callable[..., str], site: Site, chat: Any) -> str:
    """Close a chat via an entry point and return the summary; raise ``DemoFailed`` if it fails."""
    try:
        return close(site, chat)
    except (OSVIError, requests.RequestException, ObjectDoesNotExist, LookupError) as error:
        problem = f"The chat was not closed via {via}\n{error}"
    raise DemoFailed(problem)


def close_via_python(site: Site, chat: Any) -> str:
    """Close a chat as the host's code does."""
    close_session = import_string("osvi_django.services.close_session")
    summary: str = close_session(chat).summary.text
    return summary


def close_via_rest(site: Site, chat: Any) -> str:
    """Close a chat as another app does."""
    path = reverse("osvi_django:session-close", args=[chat.session_id])
    with site.browser() as app:
        response = app.post(
            site.url + path,
            json={"note": "Closed by the demo."},
            auth=(USERNAME, site.password),
            timeout=TIMEOUT,
        )
    response.raise_for_status()
    summary: str = response.json()["summary"]
    return summary


def close_via_admin(site: Site, chat: Any) -> str:
    """Close a chat as support staff do: log in, open the confirmation page, confirm."""
    path = reverse("admin:osvi_django_chatsession_close", args=[chat.pk])
    with site.browser() as browser:
        login = browser.get(site.url + path, timeout=TIMEOUT)
        credentials = {"username": USERNAME, "password": site.password, "next": path}
        confirmation = submit(browser, login.url, credentials)
        if not confirmation.url.endswith(path):
            raise LookupError("The admin did not show the confirmation page to the staff user.")
        submit(browser, confirmation.url, {"post": "yes", "note": "Closed by the demo."})
    summary: str = model("osvi_django.SessionSummary").objects.get(session=chat).text
    return summary


def submit(browser: requests.Session, url: str, fields: dict[str, str]) -> requests.Response:
    """Send a form with its CSRF token and return the page that follows."""
    data = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], **fields}
    page = browser.post(url, data=data, timeout=TIMEOUT)
    page.raise_for_status()
    return page


ENTRY_POINTS: Final = (
    ("Python: osvi_django.services.close_session(session)", close_via_python),
    ("REST: POST /api/osvi/sessions/<session id>/close/", close_via_rest),
    ("Admin: log in, choose the chat, Close chat session, confirm", close_via_admin),
)


def invite(site: Site) -> None:
    """Show how to continue in the admin."""
    open_chats = CONVERSATIONS - len(ENTRY_POINTS)
    write_line(
        f"Your turn: {open_chats} chats are open. In the admin, close one, or select all at once:\n"
    )
    write_line(f"  Admin     {site.url}{reverse('admin:osvi_django_chatsession_changelist')}")
    write_line(f"  User      {USERNAME}")
    write_line(f"  Manager   {MANAGER}, who may also export chats, keep them and erase customers")
    write_line(f"  Password  {site.password}\n")
    write_line("Ctrl-C stops everything.")


def write_line(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
