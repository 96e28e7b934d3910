"""Fill a database with chat sessions, by SQL alone: a million of them in minutes."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, product
from typing import Any, Final

from django.db import connection
from django.db.models import Model

from osvi_django.models import ChatAgent, ChatSession, CloseAttempt, SessionSummary

_WORDS_PER_SUMMARY: Final = 40
_TEXTS: Final = 5_000
_STEP: Final = 50_000
_SYLLABLES: Final = [f"{first}{then}" for first in "bdfgklmnprstvz" for then in "aeiou"]
# By frequency: the first word is in about four of ten summaries, the last in one of 5,000.
WORDS: Final = ["".join(each) for each in product(_SYLLABLES, _SYLLABLES, _SYLLABLES[::16])]
_CUMULATED: Final = list(accumulate(1 / (rank + 10) for rank in range(len(WORDS))))
_INDEX_OF_AGENTS: Final = "osvi_session_agent"  # which MariaDB needs for the foreign key

# What databases write differently: a text, a whole quotient, and a moment i minutes after another.
_DIALECTS: Final[Mapping[str, Mapping[str, str]]] = {
    "postgresql": {
        "text": "CAST({} AS text)",
        "div": "/",
        "moment": "TIMESTAMPTZ '2026-01-01Z' + i * INTERVAL '1 minute'",
        "uuid": "CAST({} AS uuid)",
    },
    "mysql": {
        "text": "CAST({} AS char)",
        "div": "DIV",
        "moment": "TIMESTAMPADD(MINUTE, i, '2026-01-01')",
        "uuid": "{}",
    },
    "sqlite": {
        "text": "CAST({} AS text)",
        "div": "/",
        "moment": "datetime('2026-01-01', '+' || i || ' minutes')",
        "uuid": "{}",
    },
}
_SESSIONS: Final = """
INSERT INTO osvi_django_chatsession (
    id, session_id, session_key, session_key_reversed, agent_id,
    customer_id, customer_digits, status, closed_at, summary_status,
    started_at, last_activity_at, created_at, updated_at, metadata, mode,
    help_requested, is_close_refused, is_unverified,
    previous_status, active_human, summarizer_error, close_reason
)
WITH RECURSIVE n(i) AS (SELECT {start} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {end}),
     k AS (SELECT i, {key} AS k, {customer} AS c FROM n)
SELECT i, {session_id}, k, REVERSE(k), {agent},
    c, CASE WHEN c LIKE '+%' THEN REVERSE(SUBSTR(c, 2)) ELSE {reversed_number} END,
    CASE WHEN i % 10 = 0 THEN 'dormant' ELSE 'closed' END,
    CASE WHEN i % 10 = 0 THEN NULL ELSE {moment} END,
    CASE WHEN i % 10 = 0 THEN 'pending' ELSE 'stored' END,
    {moment}, {moment}, {moment}, {moment}, '{{}}', 'ai', FALSE, FALSE, FALSE, '', '', '', ''
FROM k
"""
_SUMMARIES: Final = """
INSERT INTO osvi_django_sessionsummary (session_id, text, source, received_at)
SELECT i, t.text || ', order AB-' || {number} || '.', 'osvi', {moment}
FROM (SELECT id AS i FROM osvi_django_chatsession WHERE id >= {start} AND id % 10 <> 0) s
JOIN osvi_benchmark_text t ON t.id = i * 7919 % {texts}
"""
_ATTEMPTS: Final = """
INSERT INTO osvi_django_closeattempt (
    session_id, claim, kind, outcome, note, started_at, finished_at,
    requester_model, requester_key, via, error_code, error_reason, answer, close_reason,
    reason, answer_charset, answer_incomplete
)
SELECT i, {claim}, 'close', 'closed',
    CASE WHEN i % 20 = 1 THEN SUBSTR(t.text, 1, 40) || ' ticket T-' || {number} ELSE '' END,
    {moment}, {moment}, '', '', 'admin', '', '', '', '', '', '', FALSE
FROM (SELECT id AS i FROM osvi_django_chatsession WHERE id >= {start} AND id % 10 <> 0) s
JOIN osvi_benchmark_text t ON t.id = i * 7907 % {texts}
"""


def session_id_of(number: int) -> str:
    """Return the id of the session with this number."""
    return str(uuid.UUID(hashlib.md5(str(number).encode()).hexdigest()))


def customer_of(number: int) -> str:
    """Return the customer of the session with this number: a phone number, or another id."""
    customer = number // 25
    if customer % 10 == 0:
        return f"customer-{customer}"
    return f"+1{customer * 7_919_317 % 8_000_000_000 + 2_000_000_000}"


def fill(start: int, end: int) -> None:
    """Add the sessions with these numbers, their attempts, notes and summaries."""
    agent, _is_new = ChatAgent.objects.get_or_create(uuid="agent_1", name="Maya")
    _prepare()
    with _without_indexes():
        for first in range(start, end, _STEP):
            values = _values(first, min(first + _STEP, end), agent.pk)
            for statement in (_SESSIONS, _SUMMARIES, _ATTEMPTS):
                _run(statement.format(**values))
    _settle()


def _values(start: int, end: int, agent: int) -> dict[str, Any]:
    dialect = _DIALECTS[connection.vendor]
    text, div = dialect["text"].format, dialect["div"]
    number = text("i")
    dashed = "||'-'||".join(f"SUBSTR(k, {at}, {n})" for at, n in _PARTS_OF_UUID)
    phone = text(f"(i {div} 25) % 8000000000 * 7919317 % 8000000000 + 2000000000")
    other = f"'customer-' || {text(f'i {div} 25')}"
    return {
        "start": start,
        "end": end,
        "agent": agent,
        "texts": _TEXTS,
        "number": number,
        "key": f"MD5({number})",
        "session_id": dashed,
        "customer": f"CASE WHEN (i {div} 25) % 10 = 0 THEN {other} ELSE '+1' || {phone} END",
        "reversed_number": f"REVERSE({text(f'i {div} 25')})",
        "claim": dialect["uuid"].format(f"'{_START_OF_CLAIM}' || SUBSTR(MD5({number}), 1, 12)"),
        "moment": dialect["moment"],
    }


_START_OF_CLAIM: Final = "00000000-0000-4000-8000-"
_PARTS_OF_UUID: Final = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))


def _prepare() -> None:
    """Make the texts of the summaries, which differ in their last word alone if they are alike."""
    if connection.vendor == "mysql":
        _run("SET SESSION sql_mode = CONCAT(@@sql_mode, ',PIPES_AS_CONCAT')")
        _run(f"SET SESSION max_recursive_iterations = {2 * _STEP}")
    _run(
        "CREATE TEMPORARY TABLE IF NOT EXISTS osvi_benchmark_text "
        "(id integer PRIMARY KEY, text text)"
    )
    _run("DELETE FROM osvi_benchmark_text")
    rng = random.Random(12)
    texts = (
        rng.choices(WORDS, cum_weights=_CUMULATED, k=_WORDS_PER_SUMMARY) for _ in range(_TEXTS)
    )
    with connection.cursor() as cursor:
        rows = [(number, " ".join(words).capitalize()) for number, words in enumerate(texts)]
        cursor.executemany("INSERT INTO osvi_benchmark_text VALUES (%s, %s)", rows)


@contextmanager
def _without_indexes() -> Iterator[None]:
    """Build the indexes of the lists after the rows, which takes far less time."""
    indexes = [each for each in ChatSession._meta.indexes if each.name != _INDEX_OF_AGENTS]  # noqa: SLF001
    with connection.schema_editor() as editor:
        for index in indexes:
            editor.remove_index(ChatSession, index)
    yield
    with connection.schema_editor() as editor:
        for index in indexes:
            editor.add_index(ChatSession, index)


def _settle() -> None:
    """Do what databases do in the background after a while."""
    if connection.vendor == "mysql":
        models: tuple[type[Model], ...] = (ChatSession, SessionSummary, CloseAttempt)
        for model in models:
            _run(f"ANALYZE TABLE {model._meta.db_table}")  # noqa: SLF001
    else:
        _run("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


def _run(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        if cursor.description:
            cursor.fetchall()
