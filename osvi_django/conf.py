"""The host's settings.

These are ``settings.OSVI`` and its companions ``OSVI_EXECUTOR``, ``OSVI_THREAD_CONTEXT`` and
``OSVI_BULK_LIMIT``, read when they are used and never cached.

Every property returns a usable value or raises ``InvalidSetting``, which says which key is wrong,
how, and what would be right. The token is never part of a message.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from osvi_django.exceptions import OSVINotConfigured
from osvi_django.redaction import HiddenText, hidden

DEFAULT_ACCOUNT: Final = "default"
DEFAULTS: Final[Mapping[str, Any]] = {
    "BASE_URL": "https://api.osvi.ai",
    "CLOSE_WITH": "legacy",
    "CONNECT_TIMEOUT": 5,
    "READ_TIMEOUT": 60,
    "DEADLINE": 90,
    "IDLE_TIMEOUT": 30,
    "CONCURRENCY": 16,
    "DATABASE_RETRY_TIMEOUT": 20,
    "TEXT_RETENTION_DAYS": 90,
    "LEASE_TIMEOUT": 30,
    "SPOOL_DIR": None,
    "SUMMARIZER": None,
}
KEYS: Final = frozenset({"API_TOKEN", *DEFAULTS})
DEFAULT_EXECUTOR: Final = "osvi_django.executors.thread"
DEFAULT_BULK_LIMIT: Final = 10_000
DEFAULT_MAX_SYNC_CALLS: Final = 8
DIALECTS: Final = ("legacy", "v1")

# A refused close needs two more calls to check whether there was anything to close.
CALLS_PER_CLOSE: Final = 3
# Its answer is written twice: as it arrived, and then as a closed session.
WRITES_PER_CLOSE: Final = 2
CLOSE_MARGIN: Final = 20  # seconds
# It is renewed several times before it would be over.
SHORTEST_LEASE: Final = 1  # seconds
# Sockets and dates overflow far beyond a day, and no one waits that long for a close.
MAX_SECONDS: Final = 86_400
MAX_DAYS: Final = 36_500

_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
# OSVI's documentation: "16-character API token".
_TOKEN_LENGTH = 16

Executor = Callable[[str], object]


class InvalidSetting(ImproperlyConfigured):
    """A setting cannot be used; ``key`` says which, and is "" for a whole entry of OSVI."""

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


@contextmanager
def configured() -> Iterator[None]:
    """Raise ``OSVINotConfigured`` in place of ``InvalidSetting``, with the same message.

    Also in place of Django's own error about a process without settings.
    """
    try:
        yield
    except OSVINotConfigured:
        raise
    except ImproperlyConfigured as error:
        raise OSVINotConfigured(str(error)) from None


class Account:
    """The settings of one OSVI account, ``settings.OSVI[alias]``."""

    def __init__(self, alias: str = DEFAULT_ACCOUNT) -> None:
        self.alias = alias

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.alias!r})"

    @property
    def base_url(self) -> str:
        """Return the address of the API, without a slash at its end."""
        url = self._get("BASE_URL")
        problem = base_url_problem(url)
        if problem:
            raise self.invalid("BASE_URL", problem, f'The default is "{DEFAULTS["BASE_URL"]}".')
        return str(url).rstrip("/")

    @property
    def close_with(self) -> str:
        """Return the dialect of the close call: ``"legacy"`` or ``"v1"``."""
        value = self._get("CLOSE_WITH")
        if value not in DIALECTS:
            raise self.invalid("CLOSE_WITH", "is not a known dialect", 'Use "legacy" or "v1".')
        return str(value)

    @property
    def connect_timeout(self) -> float:
        """Return the seconds allowed for one try to connect."""
        return self._seconds("CONNECT_TIMEOUT")

    @property
    def read_timeout(self) -> float:
        """Return the seconds allowed without any data while an answer is awaited."""
        return self._seconds("READ_TIMEOUT")

    @property
    def deadline(self) -> float:
        """Return the seconds allowed for a whole call, whatever the server does."""
        deadline = self._seconds("DEADLINE")
        if deadline < self.connect_timeout:
            hint = "Set it to at least CONNECT_TIMEOUT."
            raise self.invalid("DEADLINE", "is shorter than CONNECT_TIMEOUT", hint)
        return deadline

    @property
    def idle_timeout(self) -> float:
        """Return the seconds after which an idle connection is not used again."""
        return self._seconds("IDLE_TIMEOUT")

    @property
    def lease_timeout(self) -> float:
        """Return the seconds for which a claim lasts that its process no longer renews."""
        lease = self._seconds("LEASE_TIMEOUT")
        if lease < SHORTEST_LEASE:
            default = DEFAULTS["LEASE_TIMEOUT"]
            hint = f"The default is {default}. It is renewed while a close takes longer."
            raise self.invalid("LEASE_TIMEOUT", "is shorter than a second", hint)
        return lease

    @property
    def longest_close(self) -> float:
        """Return the seconds that the calls and writes of one close can take."""
        patience = WRITES_PER_CLOSE * self.database_retry_timeout
        return CALLS_PER_CLOSE * self.deadline + patience + CLOSE_MARGIN

    @property
    def database_retry_timeout(self) -> float:
        """Return the seconds to wait for an unavailable database while an answer is not stored."""
        return self._seconds("DATABASE_RETRY_TIMEOUT")

    @property
    def spool_dir(self) -> Path:
        """Return the directory in which answers wait while the database is unavailable."""
        value = self._get("SPOOL_DIR")
        if value is None:
            return default_spool_dir()
        if not isinstance(value, str | Path) or not Path(value).is_absolute():
            hint = (
                "Use the absolute path of a directory that this process can write to and that is "
                "kept when the machine restarts."
            )
            raise self.invalid("SPOOL_DIR", "is not an absolute path", hint)
        return Path(value)

    @property
    def text_retention_days(self) -> float | None:
        """Return for how many days the texts of support actions are kept; None means forever."""
        days: float | None = self._get("TEXT_RETENTION_DAYS")
        is_number = isinstance(days, int | float) and not isinstance(days, bool)
        if days is None or (is_number and 0 <= days <= MAX_DAYS):
            return days
        hint = "The default is 90. None keeps the texts for ever."
        raise self.invalid("TEXT_RETENTION_DAYS", "must be a number of days or None", hint)

    @property
    def summarizer(self) -> Callable[[Any], str | None] | None:
        """Return the function that writes a summary if OSVI provides none, or None."""
        source = self._get("SUMMARIZER")
        found, problem = _import(source) if isinstance(source, str) else (source, "")
        if problem or not (found is None or callable(found)):
            hint = "Use a function that takes a ChatSession and returns a text or None."
            raise self.invalid("SUMMARIZER", problem or "is not callable", hint)
        return found

    @property
    def concurrency(self) -> int:
        """Return the maximum of concurrent closes per process."""
        value = self._get("CONCURRENCY")
        if problem := count_problem(value):
            raise self.invalid("CONCURRENCY", problem, "Try 16.")
        return int(value)

    @property
    def api_token(self) -> str:
        """Return the token, read each time: a callable may rotate it."""
        source = self.api_token_source
        token = hidden(self._call(source) if callable(source) else source)
        problem = token_problem(token)
        if problem:
            del source, token  # tracebacks show the local variables of their frames
            raise self.invalid(
                "API_TOKEN", problem, "See OSVI's dashboard for the token: Settings, then API."
            )
        return HiddenText(token)

    @property
    def api_token_source(self) -> str | Callable[[], str]:
        """Return the token or its callable, with a dotted path resolved and nothing called."""
        source = hidden(self._get("API_TOKEN"))
        if not isinstance(source, str) or not _DOTTED_PATH.fullmatch(source):
            return source  # type: ignore[no-any-return]  # checked by the caller
        found, problem = _import(source)
        if problem:
            del source
            raise self.invalid(
                "API_TOKEN", problem, "Check the names of the module and of the callable."
            )
        return found  # type: ignore[return-value]  # checked by the caller

    def unknown_keys(self) -> list[str]:
        """Return keys of the entry that are not known here and most likely misspelt."""
        return sorted(str(key) for key in self._entry() if key not in KEYS)

    def invalid(self, key: str, problem: str, hint: str = "") -> InvalidSetting:
        """Return the error for one key: where it is, what is wrong and what would be right."""
        return InvalidSetting(f'OSVI["{self.alias}"]["{key}"] {problem}.', key=key, hint=hint)

    def _get(self, key: str) -> Any:
        return self._entry().get(key, DEFAULTS.get(key))

    def _entry(self) -> Mapping[str, Any]:
        # Do not assign the entry to a variable: error reports show those of each frame.
        if self.alias not in _accounts():
            raise InvalidSetting(
                f'The setting OSVI has no account "{self.alias}".',
                hint=f'Add OSVI["{self.alias}"] = {{"API_TOKEN": ...}} to the settings.',
            )
        if not isinstance(_accounts()[self.alias], Mapping):
            hint = 'Write it like an entry of DATABASES: {"API_TOKEN": ...}.'
            raise InvalidSetting(f'OSVI["{self.alias}"] is not a dictionary.', hint=hint)
        return _accounts()[self.alias]  # type: ignore[no-any-return]

    def _seconds(self, key: str) -> float:
        value = self._get(key)
        if problem := seconds_problem(value):
            raise self.invalid(key, problem, f"The default is {DEFAULTS[key]}.")
        return float(value)

    def _call(self, source: Callable[[], str]) -> object:
        try:
            return source()
        except Exception as exc:  # noqa: BLE001  # the host's own code, a vault for one
            failure = type(exc).__name__
        # Outside the except block, so that the callable's error is not chained to ours.
        raise self.invalid("API_TOKEN", f"could not be read: its callable raised {failure}")


def default_spool_dir() -> Path:
    """Return the directory used for answers if no other is named, or that cannot be used."""
    return Path(tempfile.gettempdir(), f"osvi_django-{os.geteuid()}")


def executor() -> Executor | None:
    """Return the function called with the UUID of a new job; None to leave it to a worker.

    That worker is ``manage.py osvi_worker``, which looks for jobs. Raises ``InvalidSetting``.
    """
    path = getattr(settings, "OSVI_EXECUTOR", DEFAULT_EXECUTOR)
    if path is None:
        return None
    found, problem = _import_callable(path)
    if problem:
        hint = f'Use the dotted path of a callable, such as "{DEFAULT_EXECUTOR}", or None.'
        raise InvalidSetting(f"OSVI_EXECUTOR {problem}.", key="OSVI_EXECUTOR", hint=hint)
    return found  # type: ignore[return-value]  # what it takes is its author's business


def thread_context() -> Callable[[], object] | None:
    """Return the callable that provides the context for threads that work for another thread.

    It is called in the thread that asks. Raises ``InvalidSetting``.
    """
    path = getattr(settings, "OSVI_THREAD_CONTEXT", None)
    if path is None:
        return None
    found, problem = _import_callable(path)
    if problem:
        hint = "Use the dotted path of a callable that returns a context manager, or None."
        problem = f"OSVI_THREAD_CONTEXT {problem}."
        raise InvalidSetting(problem, key="OSVI_THREAD_CONTEXT", hint=hint)
    return found  # type: ignore[return-value]  # what it returns is its author's business


def close_task() -> Any:
    """Return the task that ``osvi_django.executors.django_tasks`` puts into a queue.

    It can be imported only if there are queues, so it is imported at the moment of use. Raises
    ``InvalidSetting``.
    """
    try:
        return import_string("osvi_django.tasks.close_sessions")
    except ImportError:
        problem = (
            "needs Django's task queues, and neither this version of Django nor django-tasks "
            "provides them"
        )
        hint = "Use Django 6 or newer, or run pip install django-tasks."
    except Exception as exc:  # noqa: BLE001  # the error differs with Django and the backend
        problem = f'needs the queue "default" of TASKS["default"]: {exc}'.rstrip(".")
        hint = "Add that queue, or write your own executor."
    raise InvalidSetting(f"OSVI_EXECUTOR {problem}.", key="OSVI_EXECUTOR", hint=hint)


def bulk_limit() -> int:
    """Return how many sessions one REST request may name. Raises ``InvalidSetting``."""
    value = getattr(settings, "OSVI_BULK_LIMIT", DEFAULT_BULK_LIMIT)
    if problem := count_problem(value):
        hint = f"The default is {DEFAULT_BULK_LIMIT}."
        raise InvalidSetting(f"OSVI_BULK_LIMIT {problem}.", key="OSVI_BULK_LIMIT", hint=hint)
    return int(value)


def max_sync_calls() -> int:
    """Return how many web requests of a process may wait for a close at once.

    Raises ``InvalidSetting``.
    """
    value = getattr(settings, "OSVI_MAX_SYNC_CALLS", DEFAULT_MAX_SYNC_CALLS)
    if problem := count_problem(value):
        hint = f"The default is {DEFAULT_MAX_SYNC_CALLS}."
        raise InvalidSetting(
            f"OSVI_MAX_SYNC_CALLS {problem}.", key="OSVI_MAX_SYNC_CALLS", hint=hint
        )
    return int(value)


def account_aliases() -> list[str]:
    """Return the names of all configured accounts.

    Raises ``InvalidSetting`` if ``settings.OSVI`` itself cannot be used.
    """
    return [str(alias) for alias in _accounts()]


def seconds_problem(value: object) -> str:
    """Return what is wrong with a number of seconds, as the end of a sentence; "" if valid."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value <= MAX_SECONDS:  # type: ignore[operator]
        return ""
    return "is not a positive number of seconds, up to a day"


def count_problem(value: object) -> str:
    """Return what is wrong with a count, as the end of a sentence; "" if valid."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return ""
    return "is not a whole number of 1 or more"


def token_problem(token: object) -> str:
    """Return what is wrong with a token, as the end of a sentence; "" if valid."""
    if not isinstance(token, str):
        return "is missing" if token is None else "is not text"
    if not token:
        return "is empty"
    if not all("!" <= character <= "~" for character in token):
        return "contains a character that a token cannot have (a space, a line end, or not ASCII)"
    return ""


def base_url_problem(url: object) -> str:
    """Return what is wrong with a base URL, as the end of a sentence; "" if valid."""
    if not isinstance(url, str) or not all("!" <= character <= "~" for character in url):
        return "is not a URL"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises if it is not a port
    except ValueError:
        return "is not a URL"
    # An empty query or fragment, as in "https://host?", would swallow the path of every call.
    if not parts.hostname or parts.username is not None or "?" in url or "#" in url:
        return "must consist of scheme, host and path only"
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname)):
        return ""
    return "does not use https, so the token would be sent unencrypted"


def _accounts() -> Mapping[Any, Any]:
    accounts = getattr(settings, "OSVI", None)
    if not isinstance(accounts, Mapping) or not accounts:
        del accounts
        raise InvalidSetting(
            "The setting OSVI is missing or has no account.",
            hint='Add OSVI = {"default": {"API_TOKEN": os.environ.get("OSVI_API_TOKEN", "")}}.',
        )
    return accounts


def _import(path: str) -> tuple[object, str]:
    """Return the object at a dotted path, and the problem if it cannot be imported."""
    try:
        return import_string(path), ""
    except ImportError:
        # A token may have dots in it as well; it has sixteen characters.
        problem = "looks like a dotted path, but there is nothing to import at that path"
        return (path, "") if len(path) == _TOKEN_LENGTH else (None, problem)
    except Exception as exc:  # noqa: BLE001  # the host's own code, run by the import
        return None, f"could not be read: its module raised {type(exc).__name__}"


def _import_callable(path: object) -> tuple[object, str]:
    """Return the object at a dotted path, and the problem if that is not a callable."""
    if not isinstance(path, str) or not _DOTTED_PATH.fullmatch(path):
        return None, "is not a dotted path"
    try:
        found = import_string(path)
    except ImportError as exc:
        return None, f"could not be imported: {exc}".rstrip(".")
    except Exception as exc:  # noqa: BLE001  # the host's own code, run by the import
        return None, f"could not be imported: its module raised {type(exc).__name__}"
    return found, "" if callable(found) else "is not callable"


def is_loopback(host: str) -> bool:
    """Return whether a host, as a URL names it, is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
