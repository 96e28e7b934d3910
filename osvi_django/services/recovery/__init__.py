"""Check and settle sessions whose close is unconfirmed."""

from osvi_django.services.recovery.reviewing import take_reviewed_summary
from osvi_django.services.recovery.service import (
    is_refused,
    mark_closed,
    recover_all,
    recover_session,
    reread_all,
)
from osvi_django.services.recovery.unread import RecoveryResult, Settled

__all__ = [
    "RecoveryResult",
    "Settled",
    "is_refused",
    "mark_closed",
    "recover_all",
    "recover_session",
    "reread_all",
    "take_reviewed_summary",
]
