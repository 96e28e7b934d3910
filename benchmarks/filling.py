"""Fill a PostgreSQL or MariaDB database with the history of a large site, in a few statements.

Of the sessions 97 % are closed, and 93 % of these have a summary. The open ones are the newest.
Some wait for a person, some are unconfirmed, and a few are being closed.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

from django.contrib.auth import get_user_model
from django.db import connection, transaction
from django.db.models import Model
from django.utils import timezone

from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SessionSummary,
)

AGENTS: Final = 200
USERS: Final = 50
SECONDS: Final = 2 * 365 * 24 * 3600  # between the first session and now

_ORDERS: Final = ("refund", "delivery", "invoice", "password", "warranty", "opening hours")

# The values of the columns of session number n, out of :total.
_IS_OPEN: Final = "(n > :total * 97 / 100)"
_ID: Final = (
    "concat(substr(h, 1, 8), '-', substr(h, 9, 4), '-', substr(h, 13, 4), '-', "
    "substr(h, 17, 4), '-', substr(h, 21, 12))"
)
_CUSTOMER: Final = (
    "concat('+1', lpad(concat('', mod(mod(n, 800000) * 12345701, 10000000000)), 10, '0'))"
)
_STATUS: Final = (
    f"CASE WHEN NOT {_IS_OPEN} THEN 'closed' WHEN mod(n, 100) < 60 THEN 'dormant' "
    "WHEN mod(n, 100) < 97 THEN 'active' WHEN mod(n, 100) < 99 THEN 'unconfirmed' "
    "ELSE 'closing' END"
)
_SUMMARY: Final = (
    f"CASE WHEN {_IS_OPEN} THEN 'pending' WHEN mod(n, 100) < 93 THEN 'stored' "
    "WHEN mod(n, 100) < 96 THEN 'not_provided' WHEN mod(n, 100) < 97 THEN 'lost' "
    "ELSE 'pending' END"
)
_COLUMNS: Final = {
    "session_id": _ID,
    "session_key": "h",
    "session_key_reversed": "reverse(h)",
    "customer_id": _CUSTOMER,
    "customer_digits": f"reverse(substr({_CUSTOMER}, 2))",
    "agent_id": f":first_agent + mod(n, {AGENTS})",
    "status": _STATUS,
    "previous_status": "''",
    "mode": f"CASE WHEN {_IS_OPEN} AND mod(n, 200) = 1 THEN 'support' ELSE 'ai' END",
    "help_requested": f"{_IS_OPEN} AND mod(n, 50) = 0",
    "help_requested_at": f"CASE WHEN {_IS_OPEN} AND mod(n, 50) = 0 THEN :active END",
    "taken_over_by_id": f"CASE WHEN {_IS_OPEN} AND mod(n, 200) = 1 THEN :first_user END",
    "taken_over_at": f"CASE WHEN {_IS_OPEN} AND mod(n, 200) = 1 THEN :active END",
    "active_human": "''",
    "metadata": "'{}'",
    "summary_status": _SUMMARY,
    "summarizer_error": "''",
    "started_at": ":started",
    "closed_at": f"CASE WHEN NOT {_IS_OPEN} THEN :active END",
    "closed_by_id": (
        f"CASE WHEN NOT {_IS_OPEN} AND mod(n, 3) = 0 THEN :first_user + mod(n, {USERS}) END"
    ),
    "close_reason": (
        f"CASE WHEN {_IS_OPEN} THEN '' WHEN mod(n, 7) = 0 THEN 'Spam' ELSE 'Solved' END"
    ),
    "closed_via": (
        f"CASE WHEN {_IS_OPEN} THEN '' WHEN mod(n, 3) = 0 THEN 'admin' "
        "WHEN mod(n, 5) < 2 THEN 'command' WHEN mod(n, 5) = 2 THEN 'rest' ELSE '' END"
    ),
    # From half a second to a minute, and of those that waited, from seconds to an hour.
    "close_seconds": f"CASE WHEN NOT {_IS_OPEN} THEN 0.5 + 60 / (1 + mod(n * 7919, 997) / 9.0) END",
    "help_waited_seconds": (
        f"CASE WHEN NOT {_IS_OPEN} AND mod(n, 8) = 0 THEN 5 + mod(n * 7907, 3600) END"
    ),
    "is_close_refused": f"{_IS_OPEN} AND mod(n, 500) = 2",
    "last_activity_at": ":active",
    "is_unverified": "n < 0",
    "lease_until": f"CASE WHEN {_IS_OPEN} AND mod(n, 100) = 99 THEN :active END",
    "created_at": ":started",
    "updated_at": ":active",
}
_TOPIC: Final = " ".join(f"WHEN {number} THEN '{word}'" for number, word in enumerate(_ORDERS))
_TEXT: Final = (
    f"concat('The customer asked about the ', CASE mod(id, {len(_ORDERS)}) {_TOPIC} END, "
    "' of order ', id, '. The agent explained what is possible, and the customer was content ',"
    "'with ', substr(session_key, 1, 6), '.')"
)


def fill(total: int) -> None:
    """Add so many sessions with their summaries, and agents and users if there are none."""
    with transaction.atomic():
        _run(_sessions(total))
        _run(_summaries())
        _run(_attempts())
    _run(("ANALYZE TABLE " + ", ".join(_tables())) if _is_mariadb() else "VACUUM ANALYZE")


def named() -> dict[str, Any]:
    """Return rows and moments to ask for, and give a rare agent and a job three sessions each."""
    rare, _created = ChatAgent.objects.get_or_create(uuid="agent_rare")
    job, is_new = CloseJob.objects.get_or_create(note="three of many")
    if is_new:
        sessions = list(ChatSession.objects.filter(status="closed").order_by("pk")[:3])
        ChatSession.objects.filter(pk__in=[each.pk for each in sessions]).update(agent=rare)
        CloseJobItem.objects.bulk_create(
            CloseJobItem(job=job, session=each, requested_session_id=each.session_id)
            for each in sessions
        )
    agent = ChatAgent.objects.order_by("pk")[0]
    middle = ChatSession.objects.order_by("pk")[ChatSession.objects.count() // 2]
    now = timezone.now()
    return {
        "agent": agent.pk,
        "session": middle.pk,
        "uuid": agent.uuid,
        "rare_uuid": rare.uuid,
        "customer": quote(middle.customer_id),
        "digits": middle.customer_id[-4:],
        "closer": "user-0",
        "job": job.pk,
        "lately": f"{now - timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}",
        "long_ago": f"{now - timedelta(days=600):%Y-%m-%dT%H:%M:%SZ}",
    }


def _sessions(total: int) -> str:
    agents = [ChatAgent(uuid=f"agent_{number}", name=f"Agent {number}") for number in range(AGENTS)]
    users = [get_user_model()(username=f"user-{number}") for number in range(USERS)]
    if not ChatAgent.objects.exists():
        ChatAgent.objects.bulk_create(agents)
        get_user_model().objects.bulk_create(users)
    numbers = _numbers(total)
    values = ", ".join(_COLUMNS.values())
    given = {
        "active": _moment(f"(:total - n) * {SECONDS / total} + 60"),
        "started": _moment(f"(:total - n) * {SECONDS / total} + 7200"),
        "total": total,
        "first_agent": ChatAgent.objects.order_by("pk").values_list("pk", flat=True)[0],
        "first_user": get_user_model().objects.get(username="user-0").pk,
    }
    for name, value in given.items():
        values = values.replace(f":{name}", str(value))
    columns = ", ".join(_COLUMNS)
    return (
        f"INSERT INTO {_table(ChatSession)} ({columns}) "
        f"SELECT {values} FROM (SELECT n, md5(concat('session ', n)) AS h FROM {numbers}) numbered"
    )


def _summaries() -> str:
    return (
        f"INSERT INTO {_table(SessionSummary)} (session_id, text, source, received_at) "
        f"SELECT id, {_TEXT}, 'osvi', closed_at FROM {_table(ChatSession)} "
        "WHERE summary_status = 'stored'"
    )


def _attempts() -> str:
    """Return the statement for the attempts of the newest closes, one of 20 of which failed."""
    outcome = "CASE WHEN mod(id, 20) = 0 THEN 'rejected' ELSE 'closed' END"
    code = "CASE WHEN mod(id, 20) = 0 THEN 'rejected' ELSE '' END"
    columns = {
        "session_id": "id",
        "kind": "'close'",
        "via": "'admin'",
        "requester_model": "''",
        "requester_key": "''",
        "note": "''",
        "close_reason": "''",
        "reason": "''",
        "claim": "md5(session_id)" if _is_mariadb() else "md5(session_id)::uuid",
        "outcome": outcome,
        "error_code": code,
        "error_reason": "''",
        "answer": "''",
        "answer_charset": "''",
        "answer_incomplete": "mod(id, 2) < 0",
        "osvi_seconds": "close_seconds",
        "started_at": "closed_at",
        "finished_at": "closed_at",
    }
    return (
        f"INSERT INTO {_table(CloseAttempt)} ({', '.join(columns)}) "
        f"SELECT {', '.join(columns.values())} FROM {_table(ChatSession)} "
        f"WHERE closed_at > {_moment('90 * 24 * 3600')}"
    )


def _numbers(total: int) -> str:
    if _is_mariadb():
        return f"(SELECT seq AS n FROM seq_1_to_{total}) numbers"
    return f"generate_series(1, {total}::bigint) numbers(n)"


def _moment(seconds: str) -> str:
    """Return the expression for a time so many seconds ago."""
    if _is_mariadb():
        return f"(UTC_TIMESTAMP(6) - INTERVAL ({seconds}) SECOND)"
    return f"(now() - ({seconds}) * interval '1 second')"


def _is_mariadb() -> bool:
    return connection.vendor == "mysql"


def _table(model: type[Model]) -> str:
    return model._meta.db_table  # noqa: SLF001  # it is documented


def _tables() -> list[str]:
    return [_table(model) for model in (ChatAgent, ChatSession, CloseAttempt, SessionSummary)]


def _run(sql: str, parameters: Any = None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
