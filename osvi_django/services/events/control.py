"""What staff do about deliveries and receivers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from django.db import router, transaction
from django.db.models import QuerySet

from osvi_django.display import plain
from osvi_django.models import ChatSession, WebhookDelivery, WebhookReceiver
from osvi_django.services.access import Purpose, allowed_sessions
from osvi_django.services.events import queue
from osvi_django.services.events.outbox import request_delivery
from osvi_django.services.permissions import require_operate
from osvi_django.validation import checks_types, require_kind

logger = logging.getLogger(__name__)
_CHUNK: Final = 1_000


@checks_types
def send_events_again(
    deliveries: Iterable[WebhookDelivery], *, requested_by: Any = None, via: str = "code"
) -> int:
    """Send events as if they were new, with the same id; return how many.

    Those that are being sent now are left out, and those outside the access of ``requested_by``.
    They may arrive after later events of their session. Raises ``NotAllowed``.
    """
    require_operate(requested_by)
    using = router.db_for_write(WebhookDelivery)
    keys = []
    for each in deliveries:
        require_kind("deliveries", each, WebhookDelivery)
        keys.append(each.pk)
    seen = deliveries_inside(queue.all_deliveries(using), requested_by)
    with transaction.atomic(using=using):
        number = sum(
            queue.make_due(seen.filter(pk__in=keys[start : start + _CHUNK]))
            for start in range(0, len(keys), _CHUNK)
        )
        transaction.on_commit(request_delivery, using=using)
    logger.info("%s events are sent again, via %s", number, plain(via))
    return number


def deliveries_inside(
    deliveries: QuerySet[WebhookDelivery], user: Any
) -> QuerySet[WebhookDelivery]:
    """Return the events about sessions inside a user's access.

    If the host narrows it, events about close jobs, which may have any sessions, are not in it.
    """
    allowed = allowed_sessions(user, Purpose.VIEW, using=deliveries.db)
    if allowed is None:
        return deliveries
    ids = ChatSession.objects.using(deliveries.db).filter(pk__in=allowed).order_by()
    return deliveries.filter(subject__in=ids.values("session_id"))


@checks_types
def switch_on_receiver(
    receiver: WebhookReceiver, *, requested_by: Any = None, via: str = "code"
) -> int:
    """Send events to a receiver again, first those that wait; return how many these are.

    Raises ``NotAllowed``.
    """
    require_operate(requested_by)
    using = router.db_for_write(WebhookReceiver)
    with transaction.atomic(using=using):
        rows = WebhookReceiver.objects.using(using).filter(pk=receiver.pk)
        rows.update(disabled_at=None, paused_until=None, failures=0, last_error="")
        waiting = queue.all_deliveries(using).filter(
            receiver=receiver.key, state=WebhookDelivery.State.PENDING
        )
        number = queue.make_due(waiting)
        transaction.on_commit(request_delivery, using=using)
    logger.info("receiver %s is switched on, via %s", receiver.key, plain(via))
    return number
