"""The demo, started by ``make demo``: everything on this machine, and no account with OSVI.

A fresh database, a sandbox in OSVI's place and the example site. Three chats are closed: from
Python, over REST and in the admin. The other chats are left to you, until Ctrl-C stops everything
and removes the database.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
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
LATENCY: Final = 0.6  # seconds of every close: an AI writes a summary
PATIENCE: Final = 60  # seconds for the site to start, or to answer
USERNAME: Final = "staff"
# Not every system has the last, which a terminal sends that is closed.
SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
PERMISSIONS: Final = (
    "view_chatsession",
    "close_chatsession",
    "operate_chatsession",
    "view_sessionsummary",
    "view_chatagent",
    "change_chatagent",
)


class DemoFailed(Exception):
    """The demo cannot go on; the message tells the reader why."""


def main() -> int:
    """Run the demo until it is stopped; the exit code."""
    interruption.listen()
    try:
        run()
    except KeyboardInterrupt:
        say("\nStopped. The site, the sandbox and the database are gone.")
    except DemoFailed as error:
        print(f"\nThe demo failed. {error}", file=sys.stderr)
        return 1
    return 0


class Interruption:
    """The wish to end, by Ctrl-C or a signal; held back while something is only half begun."""

    def __init__(self) -> None:
        self.is_wanted = False
        self.is_held = False

    def listen(self) -> None:
        """Let each way to end a program end this one tidily, also where a shell ignores Ctrl-C."""
        for number in SIGNALS:
            signal.signal(number, self.receive)
        sys.unraisablehook = say_unraisable

    def receive(self, number: int, frame: object) -> None:
        """End once: an impatient second Ctrl-C must not interrupt the tidying up."""
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        self.is_wanted = True
        if not self.is_held:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait with it until whatever begins in this block can be ended as well."""
        self.is_held = True
        try:
            yield
        finally:
            self.is_held = False
        if self.is_wanted:
            raise KeyboardInterrupt


interruption = Interruption()


def say_unraisable(error: sys.UnraisableHookArgs) -> None:
    """Say nothing of a wish to end that came in a finalizer: it is heard a moment later."""
    if not issubclass(error.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(error)


def run() -> None:
    """Everything between the first line and Ctrl-C."""
    say("The osvi_django demo: a fresh database, a sandbox in OSVI's place, the example site.\n")
    password = secrets.token_urlsafe(9)
    with run_folder() as folder, OSVISandbox(latency=LATENCY) as osvi:
        configure(folder / "db.sqlite3", osvi)
        fill(osvi, password)
        with Site(folder / "site.log", password) as site:
            introduce(folder, osvi, site)
            close_three(site)
            invite(site)
            site.serve_until_stopped()


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder of this run's own, so that two demos do not meet; removed at the end."""
    RUNS.mkdir(exist_ok=True)
    with interruption.held():
        folder = TemporaryDirectory(prefix="run-", dir=RUNS, ignore_cleanup_errors=True)
    with folder:
        try:
            yield Path(folder.name)
        finally:
            # Whoever ends this early ends it before Django was set up.
            if settings.configured:
                connections.close_all()


def configure(database: Path, osvi: OSVISandbox) -> None:
    """Set Django up, here and for the site, whatever this shell's own settings are."""
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


def fill(osvi: OSVISandbox, password: str) -> None:
    """Seed the sandbox, mirror its chats into the database, and add somebody to close them."""
    for number, chat in enumerate(osvi.seed(CONVERSATIONS)):
        enliven(chat, number)
        mirror(chat)
    staff = get_user_model().objects.create_user(USERNAME, password=password, is_staff=True)
    permissions = model("auth.Permission").objects.filter(
        content_type__app_label="osvi_django", codename__in=PERMISSIONS
    )
    staff.user_permissions.set(permissions)


def enliven(chat: SandboxSession, number: int) -> None:
    """Spread the chats over the last days; let some ask for help, and humans be in others."""
    chat.created_at -= timedelta(hours=3 * number)
    chat.updated_at = chat.created_at + timedelta(minutes=2)
    chat.help_requested = number % 6 == 5
    if number % 7 == 3:
        chat.mode, chat.active_human = "support", "kim@example.com"


def mirror(chat: SandboxSession) -> None:
    """Write the rows of a chat, as a host does that began it over OSVI's API."""
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
    """A model by its label: models can be imported only once this run's settings are known."""
    return apps.get_model(label)


class Site:
    """The example site, served by a process of its own, and how to speak to it."""

    def __init__(self, log: Path, password: str) -> None:
        self.log = log
        self.password = password
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # Ctrl-C too: no process stays behind
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
        """Serve at the preferred port, or another where somebody has that or takes it meanwhile."""
        for wanted in (PREFERRED_PORT, 0, 0):
            self.spawn(free_port(wanted))
            if self.is_ready():
                return
            self.stop()
        raise DemoFailed(f"The site did not start. {self.last_words()}")

    def spawn(self, port: int) -> None:
        """Start Django's own server, which serves the admin's static files as well."""
        self.url = f"http://{HOST}:{port}"
        command = [sys.executable, MANAGE, "runserver", "--noreload", f"{HOST}:{port}"]
        with interruption.held(), self.log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal reaches the demo, which stops this.
            self.process = subprocess.Popen(  # noqa: S603 - nothing in it comes from outside
                command,
                cwd=BASE_DIR,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Wait until it answers to this run's own password: another demo's site would not."""
        with self.browser() as browser:
            browser.auth = (USERNAME, self.password)
            ends_at = time.monotonic() + PATIENCE
            while time.monotonic() < ends_at and self.is_running():
                if answers(browser, self.url + reverse("osvi_django:session-list")):
                    return True
                time.sleep(0.1)
        return False

    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    def browser(self) -> requests.Session:
        """A client that asks this machine, whatever proxy or password file the shell names."""
        session = requests.Session()
        session.trust_env = False
        return session

    def serve_until_stopped(self) -> None:
        """Wait for Ctrl-C; that the site ends by itself was not planned."""
        while self.process is not None and self.process.poll() is None:
            # What a signal raises may be swallowed, by a finalizer for one; the wish is not.
            if interruption.is_wanted:
                raise KeyboardInterrupt
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        raise DemoFailed(f"The site ended by itself. {self.last_words()}")

    def stop(self) -> None:
        """End the process, kindly first."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_words(self) -> str:
        """The end of what the server wrote."""
        lines = self.log.read_text(errors="replace").splitlines()[-12:]
        return "\n".join(["It said:", *lines]) if lines else "It said nothing."


def free_port(wanted: int) -> int:
    """``wanted`` where nobody has it, else any other."""
    for port in (wanted, 0):
        try:
            with socket.create_server((HOST, port)) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    raise DemoFailed(f"No port is free on {HOST}.")


def answers(browser: requests.Session, url: str) -> bool:
    """Whether a page is there already."""
    try:
        return browser.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def introduce(folder: Path, osvi: OSVISandbox, site: Site) -> None:
    """Say what runs where."""
    say(f"  Sandbox   {osvi.url} with {CONVERSATIONS} chats")
    say(f"  Site      {site.url}/")
    say(f"  Database  {os.path.relpath(folder, BASE_DIR)}/db.sqlite3\n")


def close_three(site: Site) -> None:
    """Close one chat of each agent, each from another entry point."""
    say("Three chats are closed: from Python, over REST and in the admin.")
    say("OSVI's AI writes each summary.\n")
    chats = [agent.sessions.filter(status="active").first() for agent in agents()]
    for number, ((via, close), chat) in enumerate(zip(ENTRY_POINTS, chats, strict=True), start=1):
        say(f"{number}. {via}")
        say(f"   Chat of {chat.customer_id} with {chat.agent}. Summary:")
        say(textwrap.indent(textwrap.fill(try_door(via, close, site, chat), 80), "     ") + "\n")


def agents() -> Any:
    """The agents, the one with the newest chat first."""
    return model("osvi_django.ChatAgent").objects.order_by("pk")


def try_door(via: str, close: Callable[..., str], site: Site, chat: Any) -> str:
    """Return the summary of a close via this entry point; raise a plain sentence if it fails."""
    try:
        return close(site, chat)
    except (OSVIError, requests.RequestException, ObjectDoesNotExist, LookupError) as error:
        problem = f"The chat was not closed via {via}\n{error}"
    raise DemoFailed(problem)


def through_python(site: Site, chat: Any) -> str:
    """Close as a host's own code does."""
    close_session = import_string("osvi_django.services.close_session")
    return close_session(chat).summary.text


def through_rest(site: Site, chat: Any) -> str:
    """Close as another app does."""
    path = reverse("osvi_django:session-close", args=[chat.session_id])
    with site.browser() as app:
        answer = app.post(
            site.url + path,
            json={"note": "Closed by the demo."},
            auth=(USERNAME, site.password),
            timeout=PATIENCE,
        )
    answer.raise_for_status()
    return answer.json()["summary"]


def through_admin(site: Site, chat: Any) -> str:
    """Close as support staff do: log in, read the question, confirm."""
    path = reverse("admin:osvi_django_chatsession_close", args=[chat.pk])
    with site.browser() as browser:
        login = browser.get(site.url + path, timeout=PATIENCE)
        credentials = {"username": USERNAME, "password": site.password, "next": path}
        question = submit(browser, login.url, credentials)
        if not question.url.endswith(path):
            raise LookupError("The admin did not let the staff user in.")
        submit(browser, question.url, {"post": "yes", "note": "Closed by the demo."})
    return model("osvi_django.SessionSummary").objects.get(session=chat).text


def submit(browser: requests.Session, url: str, fields: dict[str, str]) -> requests.Response:
    """Send a form with its CSRF token and return the page that follows."""
    data = {"csrfmiddlewaretoken": browser.cookies["csrftoken"], **fields}
    page = browser.post(url, data=data, timeout=PATIENCE)
    page.raise_for_status()
    return page


ENTRY_POINTS: Final = (
    ("Python: osvi_django.services.close_session(session)", through_python),
    ("REST: POST /api/osvi/sessions/<session id>/close/", through_rest),
    ("Admin: log in, choose the chat, Close chat session, confirm", through_admin),
)


def invite(site: Site) -> None:
    """Say how to go on by hand."""
    left = CONVERSATIONS - len(ENTRY_POINTS)
    say(f"Your turn: {left} chats are open. In the admin, close one, or select all at once:\n")
    say(f"  Admin     {site.url}{reverse('admin:osvi_django_chatsession_changelist')}")
    say(f"  User      {USERNAME}")
    say(f"  Password  {site.password}\n")
    say("Ctrl-C stops everything.")


def say(text: str) -> None:
    """Print at once: whoever reads this through a pipe waits for it."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
