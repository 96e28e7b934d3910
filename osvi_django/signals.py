"""Signals, sent after everything is committed, with ``send_robust``: no receiver can undo a close.

``session_closed``: ``session`` (ChatSession), ``summary`` (SessionSummary or None), ``attempt``.
``session_close_failed``: ``session``, ``error`` (OSVIError or OSVINotConfigured), ``attempt``.
``help_requested``: ``session``, once for each time that a customer asks for a person.
``session_taken_over``: ``session``, when people answer the customer from now on.
``session_summarized``: ``session``, ``summary``, if a summary is stored after the close.
The sender is the ``ChatSession`` class.

``close_job_completed``: ``job`` (CloseJob), finished or stopped. The sender is its class.
"""

from __future__ import annotations

from django.dispatch import Signal

session_closed = Signal()
session_close_failed = Signal()
help_requested = Signal()
session_taken_over = Signal()
session_summarized = Signal()
close_job_completed = Signal()
