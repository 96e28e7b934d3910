"""Signals, sent after everything is committed, with ``send_robust``: no receiver can undo a close.

``session_closed``: ``session`` (ChatSession), ``summary`` (SessionSummary or None), ``attempt``.
``session_close_failed``: ``session``, ``error`` (OSVIError or OSVINotConfigured), ``attempt``.
The sender is the ``ChatSession`` class.
"""

from __future__ import annotations

from django.dispatch import Signal

session_closed = Signal()
session_close_failed = Signal()
