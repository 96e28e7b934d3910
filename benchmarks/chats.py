"""The chats of a benchmark, the same in the database and in the sandbox OSVI."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

TOKEN = "sandbox-token-16"
AGENT_UUID = "agent_benchmark"
SUMMARY = (
    "The user asked about business hours. The agent confirmed hours are Monday to Friday, "
    "9 AM to 6 PM, and pointed to the online store for weekends."
)


def session_ids(number: int) -> Iterator[str]:
    """Yield a number of session ids, the same in every process."""
    for index in range(number):
        yield str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://benchmark.example/{index}"))
