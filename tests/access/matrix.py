"""What each endpoint answers a user of tenant A about a chat of tenant B: as about an unknown id.

A new URL without a case here fails the tests, and so does a case that docs/access.md lacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """A call with the ids of another tenant, and the status that it is answered with.

    ``session``, ``job``, ``agent`` and ``customer`` in braces stand for these ids, in the path and
    in the values of the body.
    """

    name: str
    method: str
    path: str
    status: int
    body: dict[str, Any] = field(default_factory=dict)
    query: str = ""

    def __str__(self) -> str:
        fields = " ".join(sorted(self.body))
        said = f" with {fields}" if fields else f"?{self.query}" if self.query else ""
        return f"{self.method.upper()} {self.path}{said}"


def _about(name: str, path: str, *calls: tuple[str, int, dict[str, Any]]) -> list[Case]:
    return [
        Case(name=name, method=method, path=path, status=status, body=body)
        for method, status, body in calls
    ]


_BY_AGENT = {"agent_uuid": "{agent}"}
CASES = [
    Case(name="session-list", method="get", path="sessions/", status=200),
    *(
        Case(name="session-list", method="get", path="sessions/", status=200, query=query)
        for query in ("agent_uuid={agent}", "customer_id={customer}", "search={customer}")
    ),
    *_about(
        "session-list",
        "sessions/",
        ("post", 400, {**_BY_AGENT, "customer_id": "{customer}"}),
        ("post", 400, {**_BY_AGENT, "customer_id": "{customer}", "replace": True}),
    ),
    *_about(
        "session-bulk-close",
        "sessions/close/",
        ("post", 202, {"session_ids": ["{session}"]}),
        ("post", 202, {"filter": {"customer_id": "{customer}"}}),
        ("post", 400, {"filter": _BY_AGENT}),
    ),
    Case(
        name="session-export",
        method="get",
        path="sessions/export/",
        status=200,
        query="format=jsonl",
    ),
    *_about("session-sync", "sessions/sync/", ("post", 200, {"customer_id": "{customer}"})),
    *_about("session-detail", "sessions/{session}/", ("get", 404, {})),
    *_about(
        "session-close",
        "sessions/{session}/close/",
        ("post", 404, {}),
        ("post", 400, _BY_AGENT),
        ("post", 404, {"account": "default"}),
        ("post", 404, {"agent_uuid": "agent_of_a"}),
    ),
    *_about("session-recover", "sessions/{session}/recover/", ("post", 404, {})),
    *_about("session-attempt", "sessions/{session}/attempts/{attempt}/", ("get", 404, {})),
    *_about(
        "session-support",
        "sessions/{session}/support/",
        ("post", 404, {"message": "Hello"}),
        ("post", 404, {"command": "takeover"}),
        ("post", 404, {"command": "close"}),
    ),
    *_about("session-context", "sessions/{session}/context/", ("post", 404, {"context": "A fact"})),
    *_about("session-messages", "sessions/{session}/messages/", ("post", 404, {"content": "Hi"})),
    *_about("session-actions", "sessions/{session}/actions/", ("get", 404, {})),
    *_about("session-action", "sessions/{session}/actions/{action}/", ("get", 404, {})),
    *_about(
        "customer-erase",
        "customers/erase/",
        ("post", 200, {"customer_id": "{customer}", "dry_run": True}),
    ),
    *_about("customer-export", "customers/export/", ("post", 200, {"customer_id": "{customer}"})),
    *_about("stats", "stats/", ("get", 200, {})),
    *_about("close-job-list", "close-jobs/", ("get", 200, {})),
    *_about("close-job", "close-jobs/{job}/", ("get", 404, {})),
    *_about("close-job-results", "close-jobs/{job}/results/", ("get", 404, {})),
    *_about("close-job-cancel", "close-jobs/{job}/cancel/", ("post", 404, {})),
    *_about("close-job-retry", "close-jobs/{job}/retry/", ("post", 404, {})),
]


def filled(value: Any, ids: dict[str, Any]) -> Any:
    """Return a value with the ids in place of their names."""
    if isinstance(value, dict):
        return {key: filled(each, ids) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, ids) for each in value]
    return value.format(**ids) if isinstance(value, str) else value
