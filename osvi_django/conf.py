"""The host's settings.

These are ``settings.OSVI`` and its companions, such as ``OSVI_EXECUTOR`` and ``OSVI_WEBHOOKS``.
They are read when they are used and never cached.

Every property returns a usable value or raises ``InvalidSetting``, which says which key is wrong,
how, and what would be right. The token is never part of a message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import inspect
import ipaddress
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeGuard
from urllib.parse import quote, urlsplit

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from osvi_django.exceptions import OSVINotConfigured
from osvi_django.redaction import HiddenBytes, HiddenText, hidden

DEFAULT_ACCOUNT: Final = "default"
DEFAULTS: Final[Mapping[str, Any]] = {
    "BASE_URL": "https://api.osvi.ai",
    "CLOSE_WITH": "legacy",
    "CLOSE_REASONS": (),
    "NOTE_REQUIRED": False,
    "CONNECT_TIMEOUT": 5,
    "READ_TIMEOUT": 60,
    "DEADLINE": 90,
    "IDLE_TIMEOUT": 30,
    "CONCURRENCY": 16,
    "DATABASE_RETRY_TIMEOUT": 20,
    "RETENTION": {},
    "LEASE_TIMEOUT": 30,
    "SPOOL_DIR": None,
    "SUMMARIZER": None,
    "DASHBOARD_URL": None,
    "LIVE_INTERVAL": 10,
    "SHARE_SUMMARIES": 0,
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
CLOSE_REASON_MAX_LENGTH: Final = 100

# The events of webhooks, as receivers get their names.
EVENTS: Final = (
    "session.started",
    "session.help_requested",
    "session.taken_over",
    "session.closed",
    "session.close_failed",
    "session.summarized",
    "close_job.completed",
)
WEBHOOK_KEYS: Final = frozenset(
    {"URL", "SECRETS", "EVENTS", "ALLOW_PRIVATE", "INCLUDE_SUMMARY", "INCLUDE_CUSTOMER"}
)
# At once, then after these: 28 hours in all, as Standard Webhooks advises.
DEFAULT_WEBHOOK_RETRY: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 36_000)  # seconds
DEFAULT_CHANGES_DELAY: Final = 5  # seconds
# What osvi_purge removes, in this order, and for how many days it is kept if a host says nothing.
DEFAULT_RETENTION: Final[Mapping[str, float | None]] = {
    "raw_answers": None,
    "texts": 90,
    "metadata": None,
    "notes": None,
    "summaries": None,
    "sessions": None,
    "jobs": None,
    "events": 30,
    "idempotency": 1,
    "exports": None,
}
RETENTION_KINDS: Final = tuple(DEFAULT_RETENTION)
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # of every secret
# Of the key in a secret, by Standard Webhooks.
SECRET_LENGTHS: Final = (24, 64)  # bytes
_KEY_LENGTH: Final = 16
_URL_MAX_LENGTH: Final = 2_000

# Where the id of a session is put into the URL of its page in OSVI's dashboard.
ID_PLACEHOLDER: Final = "{session_id}"
# Of the context that a session is given, OSVI keeps the last ones.
CONTEXT_KEPT: Final = 5  # texts

_DOTTED_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
# OSVI's documentation: "16-character API token".
_TOKEN_LENGTH = 16

Executor = Callable[[str], object]
AccessFunction = Callable[[Any, str], object]


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
    def retention(self) -> Mapping[str, float | None]:
        """Return for how many days each kind of data is kept; None means forever."""
        chosen = self._get("RETENTION")
        if not isinstance(chosen, Mapping):
            hint = 'Write it like {"raw_answers": 30, "texts": 90, "summaries": None}.'
            raise self.invalid("RETENTION", "is not a dictionary", hint)
        for kind, days in chosen.items():
            if problem := retention_problem(kind, days):
                raise self.invalid("RETENTION", problem, _hint_for(kind))
        return {**DEFAULT_RETENTION, **chosen}

    @property
    def has_retention(self) -> bool:
        """Return whether the host has decided how long anything is kept."""
        return "RETENTION" in self._entry()

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
    def live_interval(self) -> float:
        """Return how often OSVI is asked for a chat that staff look at, in seconds; 0: never."""
        value = self._get("LIVE_INTERVAL")
        if value == 0 and type(value) is int:
            return 0
        if problem := seconds_problem(value):
            hint = f"The default is {DEFAULTS['LIVE_INTERVAL']}. 0 means never."
            raise self.invalid("LIVE_INTERVAL", problem, hint)
        return float(value)

    @property
    def dashboard_url(self) -> str | None:
        """Return the URL of a session in OSVI's dashboard, with a place for its id, or None."""
        url = self._get("DASHBOARD_URL")
        if url is None:
            return None
        if problem := dashboard_url_problem(url):
            hint = f'Use a URL such as "https://osvi.example/chats/{ID_PLACEHOLDER}", or None.'
            raise self.invalid("DASHBOARD_URL", problem, hint)
        return str(url)

    def dashboard_url_of(self, session_id: str) -> str:
        """Return where a session is in OSVI's dashboard; "" if that is not known."""
        return (self.dashboard_url or "").replace(ID_PLACEHOLDER, quote(session_id, safe=""))

    @property
    def share_summaries(self) -> int:
        """Return how many earlier summaries of a customer the agent of a new chat is given."""
        value = self._get("SHARE_SUMMARIES")
        if type(value) is not int or not 0 <= value <= CONTEXT_KEPT:
            problem = f"must be a whole number from 0 to {CONTEXT_KEPT}, which is what OSVI keeps"
            raise self.invalid("SHARE_SUMMARIES", problem, "The default is 0. Try 2.")
        return value

    @property
    def close_reasons(self) -> tuple[str, ...]:
        """Return the reasons for a close to choose from; none if any text may be given."""
        reasons = self._get("CLOSE_REASONS")
        if not isinstance(reasons, list | tuple) or not all(map(_is_reason, reasons)):
            problem = f"must be a list of texts of 1 to {CLOSE_REASON_MAX_LENGTH} characters"
            raise self.invalid("CLOSE_REASONS", problem, 'Try ["Answered", "No reply", "Spam"].')
        return tuple(dict.fromkeys(reasons))

    @property
    def note_required(self) -> bool:
        """Return whether every close that somebody asks for needs a note."""
        value = self._get("NOTE_REQUIRED")
        if not isinstance(value, bool):
            raise self.invalid("NOTE_REQUIRED", "must be True or False", "The default is False.")
        return value

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


class Webhook:
    """The settings of one receiver of events, ``settings.OSVI_WEBHOOKS[number]``.

    Its URL may hold a secret: only ``key`` and ``host`` may be shown.
    """

    def __init__(self, number: int, entry: Mapping[str, Any]) -> None:
        self.number = number
        self._entry = entry

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.number})"

    @property
    def url(self) -> str:
        """Return the URL that events are posted to."""
        url = hidden(self._entry.get("URL"))
        if problem := webhook_url_problem(url, allow_private=self.allow_private):
            del url
            raise self.invalid(
                "URL", problem, 'Use a URL such as "https://example.com/hooks/osvi".'
            )
        return HiddenText(url)

    @property
    def host(self) -> str:
        """Return the host of the URL, which may be shown."""
        return str(urlsplit(self.url).hostname)

    @property
    def key(self) -> str:
        """Return what identifies the receiver in the database and in logs: a part of a hash."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:_KEY_LENGTH]

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """Return the keys to sign with; several while they are rotated."""
        secrets = hidden(self._entry.get("SECRETS"))
        keys = [_secret_key(each) for each in secrets] if isinstance(secrets, list) else []
        if not keys or None in keys:
            del secrets, keys
            problem = "must be a list of secrets: 24 to 64 bytes in base64 after whsec_"
            raise self.invalid("SECRETS", problem, _HOW_TO_MAKE_ONE)
        return tuple(HiddenBytes(key) for key in keys if key)

    @property
    def events(self) -> frozenset[str]:
        """Return the names of the events to send; all of them if none is named."""
        events = self._entry.get("EVENTS", EVENTS)
        is_list = isinstance(events, list | tuple | set | frozenset) and events
        if not is_list or not all(isinstance(each, str) for each in events):
            raise self.invalid("EVENTS", "must be a list of names of events", _KNOWN_EVENTS)
        if unknown := sorted(set(events) - set(EVENTS)):
            raise self.invalid("EVENTS", f'has an unknown event "{unknown[0]}"', _KNOWN_EVENTS)
        return frozenset(events)

    @property
    def allow_private(self) -> bool:
        """Return whether it may have a private address, and then be called by http."""
        return self._flag("ALLOW_PRIVATE")

    @property
    def include_summary(self) -> bool:
        """Return whether it is sent the texts of summaries."""
        return self._flag("INCLUDE_SUMMARY")

    @property
    def include_customer(self) -> bool:
        """Return whether it is sent the ids of customers, which may be phone numbers."""
        return self._flag("INCLUDE_CUSTOMER")

    def problems(self) -> Iterator[InvalidSetting]:
        """Yield what is wrong with the entry, each key once."""
        for key in sorted(str(key) for key in self._entry if key not in WEBHOOK_KEYS):
            yield self.invalid(
                key, "is not a setting", f"Known are {', '.join(sorted(WEBHOOK_KEYS))}."
            )
        for name in ("url", "secrets", "events", *_FLAGS):
            try:
                getattr(self, name)
            except InvalidSetting as error:
                if error.key == name.upper():  # a flag that others read has its own turn
                    yield error

    def invalid(self, key: str, problem: str, hint: str) -> InvalidSetting:
        """Return the error for one key."""
        where = f'OSVI_WEBHOOKS[{self.number}]["{key}"]'
        return InvalidSetting(f"{where} {problem}.", key=key, hint=hint)

    def _flag(self, key: str) -> bool:
        value = self._entry.get(key, False)
        if not isinstance(value, bool):
            raise self.invalid(key, "must be True or False", "The default is False.")
        return value


_FLAGS: Final = ("allow_private", "include_summary", "include_customer")
_KNOWN_EVENTS: Final = f"Known are {', '.join(EVENTS)}."
_HOW_TO_MAKE_ONE: Final = (
    'Make one with: python -c "import base64, secrets; '
    "print('whsec_' + base64.b64encode(secrets.token_bytes(32)).decode())\"."
)


def webhooks() -> list[Webhook]:
    """Return the receivers of events. Raises ``InvalidSetting`` if it is not a list of entries."""
    entries = getattr(settings, "OSVI_WEBHOOKS", ())
    if not isinstance(entries, list | tuple):
        hint = 'Write a list: [{"URL": "https://...", "SECRETS": ["whsec_..."]}].'
        del entries
        raise InvalidSetting("OSVI_WEBHOOKS is not a list.", key="OSVI_WEBHOOKS", hint=hint)
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            hint = 'Write it like {"URL": "https://...", "SECRETS": ["whsec_..."]}.'
            problem = f"OSVI_WEBHOOKS[{number}] is not a dictionary."
            del entries, entry
            raise InvalidSetting(problem, key="OSVI_WEBHOOKS", hint=hint)
    return [Webhook(number, entry) for number, entry in enumerate(entries)]


def webhook_retry() -> tuple[float, ...]:
    """Return the pauses between the tries of a delivery. Raises ``InvalidSetting``."""
    pauses = getattr(settings, "OSVI_WEBHOOK_RETRY", DEFAULT_WEBHOOK_RETRY)
    if isinstance(pauses, list | tuple) and not any(map(seconds_problem, pauses)):
        return tuple(float(each) for each in pauses)
    hint = f"The default is {list(DEFAULT_WEBHOOK_RETRY)}. An empty list means one try."
    problem = "OSVI_WEBHOOK_RETRY must be a list of positive numbers of seconds, each up to a day."
    raise InvalidSetting(problem, key="OSVI_WEBHOOK_RETRY", hint=hint)


def longest_retention(kind: str) -> float | None:
    """Return for how many days rows are kept that may be about several accounts; None: forever.

    It is the longest period of all accounts. Raises ``InvalidSetting``.
    """
    periods = [Account(alias).retention[kind] for alias in account_aliases()]
    known = [days for days in periods if days is not None]
    return max(known) if len(known) == len(periods) else None


def event_executor() -> Callable[[], object] | None:
    """Return the function called after a commit with events; None to leave them to a worker.

    By default it is the counterpart of the executor of jobs; a host's own executor knows only
    jobs. Raises ``InvalidSetting``.
    """
    name = "OSVI_EVENT_EXECUTOR"
    if not hasattr(settings, name):
        path = getattr(settings, "OSVI_EXECUTOR", DEFAULT_EXECUTOR)
        ours = _EVENT_EXECUTORS.get(path) if isinstance(path, str) else None
        return import_string(ours) if ours else None
    found: Callable[[], object] | None = _callable_of(
        name, default="osvi_django.executors.deliver_in_thread"
    )
    return found


_EVENT_EXECUTORS: Final = {
    "osvi_django.executors.thread": "osvi_django.executors.deliver_in_thread",
    "osvi_django.executors.immediate": "osvi_django.executors.deliver_now",
    "osvi_django.executors.django_tasks": "osvi_django.executors.deliver_in_task",
}


def default_spool_dir() -> Path:
    """Return the directory used for answers if no other is named, or that cannot be used."""
    return Path(tempfile.gettempdir(), f"osvi_django-{os.geteuid()}")


def executor() -> Executor | None:
    """Return the function called with the UUID of a new job; None to leave it to a worker.

    That worker is ``manage.py osvi_worker``, which looks for jobs. Raises ``InvalidSetting``.
    """
    found: Executor | None = _callable_of("OSVI_EXECUTOR", default=DEFAULT_EXECUTOR)
    return found


def _callable_of(name: str, *, default: str) -> Any:
    """Return the callable that a setting names, or None. Raises ``InvalidSetting``."""
    path = getattr(settings, name, default)
    if path is None:
        return None
    found, problem = _import_callable(path)
    if problem:
        hint = f'Use the dotted path of a callable, such as "{default}", or None.'
        raise InvalidSetting(f"{name} {problem}.", key=name, hint=hint)
    return found


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


def access_function(name: str) -> AccessFunction | None:
    """Return the function of ``OSVI_SESSIONS_FOR`` or ``OSVI_AGENTS_FOR``; None if it is not set.

    Raises ``InvalidSetting``.
    """
    source = getattr(settings, name, None)
    if source is None:
        return None
    found, problem = (source, "") if callable(source) else _import_callable(source)
    if problem:
        hint = f"Use the dotted path of {_ACCESS_HINTS[name]}, or None."
        raise InvalidSetting(f"{name} {problem}.", key=name, hint=hint)
    return found  # type: ignore[return-value]  # what it returns is checked when it is called


def check_access_function(name: str) -> None:
    """Raise ``InvalidSetting`` if the function cannot be used, or does not take what it is given.

    It is not called.
    """
    function = access_function(name)
    if function is None:
        return
    try:
        inspect.signature(function).bind(object(), "")
    except TypeError:
        hint = f"Use {_ACCESS_HINTS[name]}."
        problem = f"{name} cannot be called with a user and a purpose."
        raise InvalidSetting(problem, key=name, hint=hint) from None
    except ValueError:  # a callable written in C has no signature
        return


_ACCESS_HINTS: Final = {
    "OSVI_SESSIONS_FOR": "a function (user, purpose) that returns a QuerySet of ChatSession",
    "OSVI_AGENTS_FOR": "a function (user, purpose) that returns a QuerySet of ChatAgent",
}


def close_task() -> Any:
    """Return the task that ``osvi_django.executors.django_tasks`` puts into a queue.

    Raises ``InvalidSetting``.
    """
    return _task("close_sessions")


def event_task() -> Any:
    """Return the task that delivers events. Raises ``InvalidSetting``."""
    return _task("deliver_events")


def _task(name: str) -> Any:
    """Return a task of ours.

    It can be imported only if there are queues, so it is imported at the moment of use.
    """
    try:
        return import_string(f"osvi_django.tasks.{name}")
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


def changes_delay() -> float:
    """Return how many seconds old a change must be before a list by changes shows it.

    Raises ``InvalidSetting``.
    """
    value = getattr(settings, "OSVI_CHANGES_DELAY", DEFAULT_CHANGES_DELAY)
    if problem := seconds_problem(value):
        hint = f"The default is {DEFAULT_CHANGES_DELAY}."
        raise InvalidSetting(f"OSVI_CHANGES_DELAY {problem}.", key="OSVI_CHANGES_DELAY", hint=hint)
    return float(value)


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


def retention_problem(kind: object, days: object) -> str:
    """Return what is wrong with a period of RETENTION, as the end of a sentence; "" if valid."""
    if kind not in RETENTION_KINDS:
        return f'has an unknown kind "{kind}"'
    is_number = isinstance(days, int | float) and not isinstance(days, bool)
    if days is None or (is_number and 0 <= days <= MAX_DAYS):  # type: ignore[operator]
        # An answer that has expired at once could not be repeated.
        is_too_short = days == 0 and kind == "idempotency"
        return f'needs more than 0 and at most {MAX_DAYS} for "{kind}"' if is_too_short else ""
    return f'must have a number of days from 0 to {MAX_DAYS} or None for "{kind}"'


def _hint_for(kind: object) -> str:
    """Return what to write in RETENTION if a kind, or its period, is wrong."""
    if kind not in RETENTION_KINDS:
        return f"Kinds are {', '.join(RETENTION_KINDS)}."
    return f'Write it like {{"{kind}": 30}}. None means forever.'


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


def _is_url(url: object) -> TypeGuard[str]:
    """Return whether this can be split into the parts of a URL."""
    if not isinstance(url, str) or not all("!" <= character <= "~" for character in url):
        return False
    try:
        urlsplit(url).port  # noqa: B018  # raises if it is not a port
    except ValueError:
        return False
    return True


def base_url_problem(url: object) -> str:
    """Return what is wrong with a base URL, as the end of a sentence; "" if valid."""
    if not _is_url(url):
        return "is not a URL"
    parts = urlsplit(url)
    # An empty query or fragment, as in "https://host?", would swallow the path of every call.
    if not parts.hostname or parts.username is not None or "?" in url or "#" in url:
        return "must consist of scheme, host and path only"
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname)):
        return ""
    return "does not use https, so the token would be sent unencrypted"


def dashboard_url_problem(url: object) -> str:
    """Return what is wrong with the URL of a dashboard, as the end of a sentence; "" if valid."""
    if not _is_url(url):
        return "is not a URL"
    parts = urlsplit(url)
    # An id in the host would lead to any host.
    if parts.scheme not in {"http", "https"} or not parts.hostname or "{" in parts.netloc:
        return "is not an http or https URL"
    return "" if ID_PLACEHOLDER in url else f"has no {ID_PLACEHOLDER}"


def webhook_url_problem(url: object, *, allow_private: bool) -> str:
    """Return what is wrong with the URL of a receiver, as the end of a sentence; "" if valid."""
    if not _is_url(url) or len(url) > _URL_MAX_LENGTH:
        return "is not a URL"
    parts = urlsplit(url)
    if not parts.hostname or parts.username is not None or "#" in url:
        return "must consist of scheme, host, path and query only"
    if parts.scheme == "https" or (parts.scheme == "http" and allow_private):
        return ""
    return "does not use https (http is for private addresses, with ALLOW_PRIVATE)"


def _secret_key(secret: object) -> bytes | None:
    """Return the key in a secret; None if it is not one."""
    if not isinstance(secret, str) or not secret.startswith(SECRET_PREFIX):
        return None
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    least, most = SECRET_LENGTHS
    return HiddenBytes(key) if least <= len(key) <= most else None


def _is_reason(reason: object) -> bool:
    is_text = isinstance(reason, str) and reason == reason.strip()
    return is_text and 0 < len(str(reason)) <= CLOSE_REASON_MAX_LENGTH


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
