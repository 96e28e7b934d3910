"""The receivers of events that the settings name, and what is stored about them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

from django.db.models import F, QuerySet
from django.utils import timezone

from osvi_django.conf import InvalidSetting, Webhook, webhooks
from osvi_django.database import DatabaseNow, since
from osvi_django.models import WebhookReceiver
from osvi_django.models.events import HOST_MAX_LENGTH

logger = logging.getLogger(__name__)

# After a failure that other events would meet as well: doubled each time.
_FIRST_PAUSE: Final = 1.0  # seconds
_LONGEST_PAUSE: Final = 60.0  # seconds


def usable_receivers() -> list[Webhook]:
    """Return the receivers whose settings are valid: one that is not must not stop a close."""
    try:
        receivers = webhooks()
    except InvalidSetting as error:
        logger.error("no event can be delivered: %s", error)
        return []
    by_key = {each.key: each for each in reversed(receivers) if _is_usable(each)}
    return list(reversed(by_key.values()))


def _is_usable(receiver: Webhook) -> bool:
    problem = next(receiver.problems(), None)
    if problem is not None:
        logger.error("a receiver of events is left out: %s", problem)
    return problem is None


def pauses_of_enabled(*, using: str) -> list[tuple[Webhook, float]]:
    """Return the receivers that are not off, and for how many seconds each is not to be called."""
    receivers = usable_receivers()
    if not receivers:
        return []
    stored = {each.key: each for each in _rows((each.key for each in receivers), using)}
    _insert([each for each in receivers if each.key not in stored], using)
    pauses = ((each, _pause_of(stored.get(each.key), using)) for each in receivers)
    return [(each, pause) for each, pause in pauses if pause is not None]


def note_success(receiver: Webhook, *, using: str) -> None:
    """Write that a receiver has got events."""
    _rows([receiver.key], using).update(
        failures=0, last_error="", paused_until=None, last_success_at=timezone.now()
    )


def note_failure(
    receiver: Webhook, code: str, retry_after: float | None = None, *, using: str
) -> None:
    """Write that a receiver does not answer, and leave it alone for a while."""
    rows = _rows([receiver.key], using)
    rows.update(failures=F("failures") + 1, last_error=code)
    failures = rows.values_list("failures", flat=True).first() or 1
    pause = max(min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE), retry_after or 0)
    rows.update(paused_until=DatabaseNow() + timedelta(seconds=pause))
    logger.warning(
        "receiver %s at %s: %s; next try in %d s", receiver.key, receiver.host, code, pause
    )


def switch_off(receiver: Webhook, *, using: str) -> None:
    """Write that a receiver wants no more events."""
    _rows([receiver.key], using).filter(disabled_at=None).update(
        disabled_at=timezone.now(), last_error="gone"
    )
    logger.error("receiver %s at %s answered 410, and is off", receiver.key, receiver.host)


def _rows(keys: Iterable[str], using: str) -> QuerySet[WebhookReceiver]:
    return WebhookReceiver.objects.using(using).filter(key__in=list(keys))


def _insert(receivers: Iterable[Webhook], using: str) -> None:
    new = [WebhookReceiver(key=each.key, host=each.host[:HOST_MAX_LENGTH]) for each in receivers]
    if new:
        WebhookReceiver.objects.using(using).bulk_create(new, ignore_conflicts=True)


def _pause_of(stored: WebhookReceiver | None, using: str) -> float | None:
    """Return the seconds until a receiver may be called; None if it is off."""
    if stored is not None and stored.disabled_at is not None:
        return None
    until: Any = stored and stored.paused_until
    return max(0.0, -since(until, using=using).total_seconds()) if until else 0.0
