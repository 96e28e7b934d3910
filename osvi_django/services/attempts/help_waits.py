"""How long customers waited for a person."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Case, DateTimeField, DurationField, ExpressionWrapper, F, Value, When

from osvi_django.database import Seconds
from osvi_django.models import ChatSession


def help_waited(now: datetime) -> Case:
    """Return the longest wait of a session, with the one that ends now if it is one.

    A customer whose chat a person has taken over does not wait. It must be assigned before the
    columns that it is read from.
    """
    passed = ExpressionWrapper(
        Value(now, DateTimeField()) - F("help_requested_at"), output_field=DurationField()
    )
    waited = Seconds(passed)
    return Case(
        When(help_requested_at=None, then=F("help_waited_seconds")),
        When(mode=ChatSession.Mode.SUPPORT, then=F("help_waited_seconds")),
        When(help_waited_seconds__gte=waited, then=F("help_waited_seconds")),
        default=waited,
    )
