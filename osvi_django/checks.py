"""System checks of the configuration, which need no database and no network.

E020 and the warnings are those of ``environment_checks.py``.

=================  =============================================================
osvi_django.E001   ``OSVI`` is missing, or an entry of it is not a dictionary
osvi_django.E002   an entry has a key that means nothing
osvi_django.E003   ``API_TOKEN``
osvi_django.E004   ``BASE_URL``
osvi_django.E005   ``CLOSE_WITH``
osvi_django.E006   ``CONNECT_TIMEOUT``
osvi_django.E007   ``READ_TIMEOUT``
osvi_django.E008   ``DEADLINE``
osvi_django.E009   ``CONCURRENCY``
osvi_django.E010   ``LEASE_TIMEOUT``
osvi_django.E011   ``SPOOL_DIR``
osvi_django.E012   ``DATABASE_RETRY_TIMEOUT``
osvi_django.E013   ``OSVI_EXECUTOR``, or what it needs
osvi_django.E014   ``OSVI_BULK_LIMIT``
osvi_django.E015   ``RETENTION``
osvi_django.E016   ``SUMMARIZER``
osvi_django.E017   ``OSVI_THREAD_CONTEXT``
osvi_django.E018   ``IDLE_TIMEOUT``
osvi_django.E019   ``OSVI_MAX_SYNC_CALLS``
osvi_django.E020   chat sessions and users would lie in different databases
osvi_django.E021   ``DASHBOARD_URL``
osvi_django.E022   ``LIVE_INTERVAL``
osvi_django.E023   ``CLOSE_REASONS``
osvi_django.E024   ``NOTE_REQUIRED``
osvi_django.E025   ``SHARE_SUMMARIES``
osvi_django.E026   ``OSVI_WEBHOOKS``, or an entry of it
osvi_django.E027   ``OSVI_WEBHOOK_RETRY``
osvi_django.E028   ``OSVI_SESSIONS_FOR``
osvi_django.E029   ``OSVI_AGENTS_FOR``
osvi_django.E030   ``OSVI_CHANGES_DELAY``
osvi_django.E031   ``OSVI_EVENT_EXECUTOR``
osvi_django.W019   a spool cannot be written, or others could replace what is in it
osvi_django.W020   all users can see which files are in a spool
osvi_django.W021   SQLite is set up so that other pages may fail while sessions are closed
osvi_django.W022   chats are in an account that ``OSVI`` lacks; with ``check --database``
osvi_django.W023   an account has no ``RETENTION``; with ``check --deploy``
=================  =============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from osvi_django.conf import (
    KEYS,
    Account,
    InvalidSetting,
    account_aliases,
    bulk_limit,
    changes_delay,
    check_access_function,
    close_task,
    event_executor,
    executor,
    max_sync_calls,
    thread_context,
    token_problem,
    webhook_retry,
    webhooks,
)

_ENTRY = "osvi_django.E001"
_UNKNOWN_KEY = "osvi_django.E002"
_RECEIVER: Final = "osvi_django.E026"
_QUEUED: Final = "osvi_django.executors.django_tasks"


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """Check every entry of ``settings.OSVI``, and the settings beside it; registered by the app."""
    return [*_check_accounts(), *_check_site(), *_check_webhooks()]


def check_retention(**kwargs: Any) -> list[CheckMessage]:
    """Warn of accounts without a decision on how long personal data is kept."""
    with suppress(InvalidSetting):
        return [_undecided(each) for each in account_aliases() if not Account(each).has_retention]
    return []


def _undecided(alias: str) -> CheckMessage:
    problem = f'OSVI["{alias}"] has no RETENTION, so most personal data is kept forever.'
    hint = 'Decide how many days to keep each kind, such as {"raw_answers": 30, "summaries": 365}.'
    return CheckWarning(problem, hint=hint, id="osvi_django.W023")


def _check_accounts() -> Iterator[CheckMessage]:
    try:
        aliases = account_aliases()
    except InvalidSetting as error:
        yield _message(error, _ENTRY)
        return
    for alias in aliases:
        yield from _check_account(Account(alias))


def _check_site() -> Iterator[CheckMessage]:
    for check_id, read in _SITE_CHECKS.values():
        try:
            read()
        except InvalidSetting as error:
            yield _message(error, check_id)


def _check_webhooks() -> Iterator[CheckMessage]:
    try:
        receivers = webhooks()
    except InvalidSetting:
        return  # the check of the setting itself says so
    known: set[str] = set()
    for receiver in receivers:
        problems = list(receiver.problems())
        yield from (_message(problem, _RECEIVER) for problem in problems)
        if not problems and receiver.key in known:
            hint = "Name all its events and secrets in one entry."
            same = receiver.invalid("URL", "is that of an entry before it", hint)
            yield _message(same, _RECEIVER)
        elif not problems:
            known.add(receiver.key)


def _check_account(account: Account) -> Iterator[CheckMessage]:
    try:
        unknown = account.unknown_keys()
    except InvalidSetting as error:
        yield _message(error, _ENTRY)
        return
    for key in unknown:
        hint = f"Known are {', '.join(sorted(KEYS))}."
        yield _message(account.invalid(key, "is not a setting", hint), _UNKNOWN_KEY)
    for key, (check_id, read) in _CHECKS.items():
        yield from _check_key(account, key, check_id, read)


def _check_key(
    account: Account, key: str, check_id: str, read: Callable[[Account], object]
) -> Iterator[CheckMessage]:
    try:
        read(account)
    except InvalidSetting as error:
        # A deadline is compared with the connect timeout, which has a check of its own.
        if error.key == key:
            yield _message(error, check_id)


def _check_token(account: Account) -> None:
    source = account.api_token_source
    problem = "" if callable(source) else token_problem(source)
    if problem:
        del source
        hint = "Use the token from OSVI's dashboard (Settings, then API), or a callable."
        raise account.invalid("API_TOKEN", problem, hint)


def _check_executor() -> None:
    executor()
    if getattr(settings, "OSVI_EXECUTOR", None) == _QUEUED:
        close_task()


def _message(error: InvalidSetting, check_id: str) -> Error:
    return Error(str(error), hint=error.hint or None, id=check_id)


_CHECKS: Final[dict[str, tuple[str, Callable[[Account], object]]]] = {
    "API_TOKEN": ("osvi_django.E003", _check_token),
    "BASE_URL": ("osvi_django.E004", lambda account: account.base_url),
    "CLOSE_WITH": ("osvi_django.E005", lambda account: account.close_with),
    "CONNECT_TIMEOUT": ("osvi_django.E006", lambda account: account.connect_timeout),
    "READ_TIMEOUT": ("osvi_django.E007", lambda account: account.read_timeout),
    "DEADLINE": ("osvi_django.E008", lambda account: account.deadline),
    "CONCURRENCY": ("osvi_django.E009", lambda account: account.concurrency),
    "LEASE_TIMEOUT": ("osvi_django.E010", lambda account: account.lease_timeout),
    "SPOOL_DIR": ("osvi_django.E011", lambda account: account.spool_dir),
    "DATABASE_RETRY_TIMEOUT": ("osvi_django.E012", lambda account: account.database_retry_timeout),
    "RETENTION": ("osvi_django.E015", lambda account: account.retention),
    "SUMMARIZER": ("osvi_django.E016", lambda account: account.summarizer),
    "IDLE_TIMEOUT": ("osvi_django.E018", lambda account: account.idle_timeout),
    "DASHBOARD_URL": ("osvi_django.E021", lambda account: account.dashboard_url),
    "LIVE_INTERVAL": ("osvi_django.E022", lambda account: account.live_interval),
    "CLOSE_REASONS": ("osvi_django.E023", lambda account: account.close_reasons),
    "NOTE_REQUIRED": ("osvi_django.E024", lambda account: account.note_required),
    "SHARE_SUMMARIES": ("osvi_django.E025", lambda account: account.share_summaries),
}

_SITE_CHECKS: Final[dict[str, tuple[str, Callable[[], object]]]] = {
    "OSVI_EXECUTOR": ("osvi_django.E013", _check_executor),
    "OSVI_EVENT_EXECUTOR": ("osvi_django.E031", event_executor),
    "OSVI_BULK_LIMIT": ("osvi_django.E014", bulk_limit),
    "OSVI_MAX_SYNC_CALLS": ("osvi_django.E019", max_sync_calls),
    "OSVI_THREAD_CONTEXT": ("osvi_django.E017", thread_context),
    "OSVI_WEBHOOKS": ("osvi_django.E026", webhooks),
    "OSVI_WEBHOOK_RETRY": ("osvi_django.E027", webhook_retry),
    "OSVI_SESSIONS_FOR": (
        "osvi_django.E028",
        partial(check_access_function, "OSVI_SESSIONS_FOR"),
    ),
    "OSVI_AGENTS_FOR": ("osvi_django.E029", partial(check_access_function, "OSVI_AGENTS_FOR")),
    "OSVI_CHANGES_DELAY": ("osvi_django.E030", changes_delay),
}
