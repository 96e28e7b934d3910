"""One chat session of the sandbox, and the forms in which OSVI returns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

CONTEXT_KEPT = 5  # Chat v1 keeps the last five entries


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


@dataclass(kw_only=True)
class SandboxSession:
    """A chat session of the sandbox; set its fields freely to create a situation."""

    id: str
    agent_uuid: str
    customer_id: str
    summary: str | None
    """What closing it answers; None answers JSON null."""
    status: str = "active"
    """``active``, ``dormant`` or ``closed``."""
    mode: str = "ai"
    """``ai``, or ``support`` while a human has taken over."""
    agent_name: str = "Agent"
    help_requested: bool = False
    active_human: str | None = None
    current_state: str | None = None
    chat_agent_id: int = 42
    account_id: int = 7
    input_fields: dict[str, Any] = field(default_factory=dict)
    state_fields: dict[str, Any] = field(default_factory=dict)
    context: list[str] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)
    """Who said what: ``customer``, ``agent``, ``operator`` or ``guidance``, and the text."""
    created_at: datetime = field(default_factory=now)
    updated_at: datetime = field(default_factory=now)

    @property
    def is_closed(self) -> bool:
        """Return whether it was closed, which is permanent."""
        return self.status == "closed"

    @property
    def started_at(self) -> str:
        """Return the start time as the legacy dialect writes it: UTC without a time zone."""
        return self.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")

    def change(self, **values: Any) -> None:
        """Set fields, and ``updated_at`` with them."""
        vars(self).update(values, updated_at=now())

    def say(self, author: str, text: str) -> None:
        """Add to the conversation, which makes a dormant session active."""
        self.messages.append((author, text))
        self.change(status="active")

    def inject(self, *entries: str) -> None:
        """Add to the context, of which the last five entries are kept."""
        self.change(context=[*self.context, *entries][-CONTEXT_KEPT:])

    def as_json(self) -> dict[str, Any]:
        """Return Chat v1's session object."""
        shown = ("mode", "help_requested", "status", "current_state", "active_human")
        return {
            "id": self.id,
            "chat_agent_id": self.chat_agent_id,
            "account_id": self.account_id,
            "customer_id": self.customer_id,
            **{name: getattr(self, name) for name in shown},
            "metadata": {
                "input_fields": dict(self.input_fields),
                "state_fields": dict(self.state_fields),
                "context": list(self.context),
            },
            "created_at": f"{self.started_at}Z",
            "updated_at": self.updated_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }
