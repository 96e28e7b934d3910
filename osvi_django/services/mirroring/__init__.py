"""Keep the mirror of OSVI's sessions up to date."""

from osvi_django.services.mirroring.agents import account_of, move_to_agent
from osvi_django.services.mirroring.customers import (
    LookedUp,
    apply_active_sessions,
    look_up_customer,
    sessions_to_probe,
    sync_customer,
)
from osvi_django.services.mirroring.live import refresh_watched
from osvi_django.services.mirroring.sessions import (
    context_in,
    mirror_by_id,
    mirror_session,
    mirror_started,
    remove_unknown,
)

__all__ = [
    "LookedUp",
    "account_of",
    "apply_active_sessions",
    "context_in",
    "look_up_customer",
    "mirror_by_id",
    "mirror_session",
    "mirror_started",
    "move_to_agent",
    "refresh_watched",
    "remove_unknown",
    "sessions_to_probe",
    "sync_customer",
]
