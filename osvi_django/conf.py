"""What the host configured: ``settings.OSVI`` and its companions ``OSVI_EXECUTOR`` and
``OSVI_BULK_LIMIT``, read at the moment of use and never cached.

Every property answers with a usable value or raises ``InvalidSetting``, which says which key is
wrong, how, and what would be right. The token is never part of a message.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

DEFAULT_ACCOUNT: Final = "default"
DEFAULTS: Final[Mapping[str, Any]] = {
    "BASE_URL": "https://api.osvi.ai",
    "CLOSE_WITH": "legacy",
    "CONNECT_TIMEOUT": 5,
    "READ_TIMEOUT": 60,
    "DEADLINE": 90,
    "CONCURRENCY": 16,
    "DATABASE_PATIENCE": 20,
    "KEEP_TEXTS": 90,
    "LEASE": None,
    "SPOOL_DIR": None,
    "SUMMARIZER": None,
}
KEYS: Final = frozenset({"API_TOKEN", *DEFAULTS})
DEFAULT_EXECUTOR: Final = "osvi_django.executors.thread"
DEFAULT_BULK_LIMIT: Final = 10_000
DIALECTS: Final = ("legacy", "v1")

# A close that is refused asks twice more whether there was anything to close.
CALLS_PER_CLOSE: Final = 3
# Its answer is written twice: as it came, and then as a closed session.
WRITES_PER_CLOSE: Final = 2
LEASE_MARGIN: Final = 20  # seconds
# Sockets and dates overflow far beyond a day, and nobody waits that long for a close.
MAX_SECONDS: Final = 86_400
MAX_DAYS: Final = 36_500

_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
# The vendor: "16-character API token".
_TOKEN_LENGTH = 16

Executor = Callable[[int], object]


class InvalidSetting(ImproperlyConfigured):
    """A setting cannot be used; ``key`` says which, and is "" where it is a whole entry of OSVI."""

    def __init__(self, message: str, *, key: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.hint = hint


class Account:
    """The settings of one OSVI account, ``settings.OSVI[alias]``."""

    def __init__(self, alias: str = DEFAULT_ACCOUNT) -> None:
        self.alias = alias

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.alias!r})"

    @property
    def base_url(self) -> str:
        """The address of the API, without a slash at its end."""
        url = self._get("BASE_URL")
        problem = base_url_problem(url)
        if problem:
            raise self.invalid("BASE_URL", problem, f'The default is "{DEFAULTS["BASE_URL"]}".')
        return str(url).rstrip("/")

    @property
    def close_with(self) -> str:
        """The dialect of the close call: ``"legacy"`` or ``"v1"``."""
        value = self._get("CLOSE_WITH")
        if value not in DIALECTS:
            raise self.invalid("CLOSE_WITH", "is neither known dialect", 'Use "legacy" or "v1".')
        return str(value)

    @property
    def connect_timeout(self) -> float:
        """Seconds for one try to connect."""
        return self._seconds("CONNECT_TIMEOUT")

    @property
    def read_timeout(self) -> float:
        """Seconds of silence that are borne while an answer is awaited."""
        return self._seconds("READ_TIMEOUT")

    @property
    def deadline(self) -> float:
        """Seconds for a whole call, whatever the server does."""
        deadline = self._seconds("DEADLINE")
        if deadline < self.connect_timeout:
            hint = "Give the whole call at least the time that connecting may take."
            raise self.invalid("DEADLINE", "is shorter than CONNECT_TIMEOUT", hint)
        return deadline

    @property
    def lease(self) -> float:
        """Seconds for which a close is claimed: longer than its calls and writes can take."""
        calls = CALLS_PER_CLOSE * self.deadline
        if self._get("LEASE") is None:
            return calls + WRITES_PER_CLOSE * self.database_patience + LEASE_MARGIN
        lease = self._seconds("LEASE")
        if lease <= calls:
            hint = f"Leave it out, or give it more than {CALLS_PER_CLOSE} times DEADLINE."
            raise self.invalid("LEASE", "could be over while OSVI is asked", hint)
        return lease

    @property
    def database_patience(self) -> float:
        """Seconds to wait for a database that went away while an answer is in hand."""
        return self._seconds("DATABASE_PATIENCE")

    @property
    def spool_dir(self) -> Path:
        """Where answers wait while the database is away: a directory of this user alone."""
        value = self._get("SPOOL_DIR")
        if value is None:
            user = os.getuid() if hasattr(os, "getuid") else "spool"
            return Path(tempfile.gettempdir(), f"osvi_django-{user}")
        if not isinstance(value, str | Path) or not Path(value).is_absolute():
            hint = "Name a directory that outlives a restart, and that this user alone may read."
            raise self.invalid("SPOOL_DIR", "is not an absolute path", hint)
        return Path(value)

    @property
    def keep_texts(self) -> float | None:
        """Days for which the texts of support actions are kept; None: for good."""
        days: float | None = self._get("KEEP_TEXTS")
        is_number = isinstance(days, int | float) and not isinstance(days, bool)
        if days is None or (is_number and 0 <= days <= MAX_DAYS):
            return days
        hint = "90 is the default; None keeps them for good."
        raise self.invalid("KEEP_TEXTS", "is neither a number of days nor None", hint)

    @property
    def summarizer(self) -> Callable[[Any], str | None] | None:
        """What writes a summary where OSVI provides none; None: nothing does."""
        source = self._get("SUMMARIZER")
        found, problem = _import(source) if isinstance(source, str) else (source, "")
        if problem or not (found is None or callable(found)):
            hint = "Name a function that takes a ChatSession and returns a text or None."
            raise self.invalid("SUMMARIZER", problem or "cannot be called", hint)
        return found

    @property
    def concurrency(self) -> int:
        """Closes under way at once, per process."""
        value = self._get("CONCURRENCY")
        if problem := count_problem(value):
            raise self.invalid("CONCURRENCY", problem, "Try 16.")
        return int(value)

    @property
    def api_token(self) -> str:
        """The token, read anew each time: a callable may rotate it."""
        source = self.api_token_source
        token = self._call(source) if callable(source) else source
        problem = token_problem(token)
        if problem:
            del source, token  # tracebacks show the locals of their frames
            raise self.invalid("API_TOKEN", problem, "OSVI's dashboard: Settings, then API.")
        return str(token)

    @property
    def api_token_source(self) -> str | Callable[[], str]:
        """The token or what returns it, with a dotted path resolved and nothing called."""
        source = self._get("API_TOKEN")
        if not isinstance(source, str) or not _DOTTED_PATH.fullmatch(source):
            return source  # type: ignore[no-any-return]  # judged by whoever reads it
        found, problem = _import(source)
        if problem:
            del source
            raise self.invalid("API_TOKEN", problem, "Check the module's name and the callable's.")
        return found  # type: ignore[return-value]  # judged by whoever reads it

    def unknown_keys(self) -> list[str]:
        """Keys of the entry that mean nothing here, most likely misspelt."""
        return sorted(str(key) for key in self._entry() if key not in KEYS)

    def invalid(self, key: str, problem: str, hint: str = "") -> InvalidSetting:
        """The error for one key: where it stands, what is wrong and what would be right."""
        return InvalidSetting(f'OSVI["{self.alias}"]["{key}"] {problem}.', key=key, hint=hint)

    def _get(self, key: str) -> Any:
        return self._entry().get(key, DEFAULTS.get(key))

    def _entry(self) -> Mapping[str, Any]:
        accounts = _accounts()
        if self.alias not in accounts:
            del accounts  # tracebacks show the locals of their frames
            raise InvalidSetting(
                f'OSVI has no account "{self.alias}".',
                hint=f'Add OSVI["{self.alias}"] = {{"API_TOKEN": ...}} to the settings.',
            )
        if not isinstance(accounts[self.alias], Mapping):
            del accounts
            hint = 'Write it like an entry of DATABASES: {"API_TOKEN": ...}.'
            raise InvalidSetting(f'OSVI["{self.alias}"] is not a dictionary.', hint=hint)
        return accounts[self.alias]  # type: ignore[no-any-return]

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
        # Outside the except block, so that nothing of the callable's error hangs on ours.
        raise self.invalid("API_TOKEN", f"could not be read: its callable raised {failure}")


def executor() -> Executor | None:
    """What is told the id of a new job; None where ``manage.py osvi_work`` looks for them itself.

    Raises ``InvalidSetting``.
    """
    path = getattr(settings, "OSVI_EXECUTOR", DEFAULT_EXECUTOR)
    if path is None:
        return None
    found, problem = _import_executor(path)
    if problem:
        hint = f'Use the dotted path of a callable, such as "{DEFAULT_EXECUTOR}", or None.'
        raise InvalidSetting(f"OSVI_EXECUTOR {problem}.", key="OSVI_EXECUTOR", hint=hint)
    return found  # type: ignore[return-value]  # what it takes is its author's business


def close_task() -> Any:
    """The task that ``osvi_django.executors.django_tasks`` puts into a queue.

    It can be imported only where there are queues, so this is no import like others.
    Raises ``InvalidSetting``.
    """
    try:
        return import_string("osvi_django.tasks.close_sessions")
    except ImportError:
        problem = "needs Django's task queues, which neither Django nor django-tasks brings here"
        hint = "Use Django 6 or newer, or pip install django-tasks."
    except Exception as exc:  # noqa: BLE001  # the error differs with Django and the backend
        problem = f'needs the queue "default" of TASKS["default"]: {exc}'.rstrip(".")
        hint = "Add that queue, or write an executor of your own."
    raise InvalidSetting(f"OSVI_EXECUTOR {problem}.", key="OSVI_EXECUTOR", hint=hint)


def bulk_limit() -> int:
    """How many sessions one REST request may name. Raises ``InvalidSetting``."""
    value = getattr(settings, "OSVI_BULK_LIMIT", DEFAULT_BULK_LIMIT)
    if problem := count_problem(value):
        hint = f"The default is {DEFAULT_BULK_LIMIT}."
        raise InvalidSetting(f"OSVI_BULK_LIMIT {problem}.", key="OSVI_BULK_LIMIT", hint=hint)
    return int(value)


def account_aliases() -> list[str]:
    """The names of all configured accounts.

    Raises ``InvalidSetting`` where ``settings.OSVI`` itself cannot be used.
    """
    return [str(alias) for alias in _accounts()]


def seconds_problem(value: object) -> str:
    """What is wrong with a number of seconds, as the end of a sentence; "" where nothing is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 < value <= MAX_SECONDS:  # type: ignore[operator]
        return ""
    return "is not a positive number of seconds, up to a day"


def count_problem(value: object) -> str:
    """What is wrong with a number of things, as the end of a sentence; "" where nothing is."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return ""
    return "is not a whole number of 1 or more"


def token_problem(token: object) -> str:
    """What is wrong with a token, as the end of a sentence; "" where nothing is."""
    if not isinstance(token, str):
        return "is missing" if token is None else "is not text"
    if not token:
        return "is empty"
    if not all("!" <= character <= "~" for character in token):
        return "has a character that no token has (a space, a line end, or not ASCII)"
    return ""


def base_url_problem(url: object) -> str:
    """What is wrong with a base URL, as the end of a sentence; "" where nothing is."""
    if not isinstance(url, str) or not all("!" <= character <= "~" for character in url):
        return "is not the text of a URL"
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # raises where it is no port
    except ValueError:
        return "is not a URL"
    # An empty query or fragment, "https://host?", would swallow the path of every call.
    if not parts.hostname or parts.username is not None or "?" in url or "#" in url:
        return "is not scheme, host and path alone"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return ""
    return "is not https, so the token would travel in the clear"


def _accounts() -> Mapping[Any, Any]:
    accounts = getattr(settings, "OSVI", None)
    if not isinstance(accounts, Mapping) or not accounts:
        del accounts
        raise InvalidSetting(
            "The setting OSVI is missing or names no account.",
            hint='Add OSVI = {"default": {"API_TOKEN": os.environ["OSVI_API_TOKEN"]}}.',
        )
    return accounts


def _import(path: str) -> tuple[object, str]:
    """What stands at a dotted path, and the problem where nothing can be had there."""
    try:
        return import_string(path), ""
    except ImportError:
        # A token may have dots in it as well; it has sixteen characters.
        problem = "reads as a dotted path, and nothing is there"
        return (path, "") if len(path) == _TOKEN_LENGTH else (None, problem)
    except Exception as exc:  # noqa: BLE001  # the host's own code, run by the import
        return None, f"could not be read: its module raised {type(exc).__name__}"


def _import_executor(path: object) -> tuple[object, str]:
    """What stands at the path of an executor, and the problem where it is none."""
    if not isinstance(path, str) or not _DOTTED_PATH.fullmatch(path):
        return None, "is not a dotted path"
    try:
        found = import_string(path)
    except ImportError as exc:
        return None, f"could not be imported: {exc}".rstrip(".")
    except Exception as exc:  # noqa: BLE001  # the host's own code, run by the import
        return None, f"could not be imported: its module raised {type(exc).__name__}"
    return found, "" if callable(found) else "leads to something that cannot be called"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
