"""The use cases: every door (admin, REST, command, task, plain Python) calls these functions."""

from __future__ import annotations

from osvi_django.services.closing import (
    CloseResult,
    close_session,
    close_session_by_id,
)

__all__ = ["CloseResult", "close_session", "close_session_by_id"]
