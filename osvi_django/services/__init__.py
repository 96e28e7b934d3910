"""The use cases: every door (admin, REST, command, task, plain Python) calls these functions."""

from __future__ import annotations

from osvi_django.services.closing import close_session, close_session_by_id
from osvi_django.services.steps import CloseResult

__all__ = ["CloseResult", "close_session", "close_session_by_id"]
