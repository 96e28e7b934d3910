"""Deliver what is in the outbox.

Any number of processes may do so at once. Each receiver has a thread, so that one that is slow does
not delay the others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial

from django.db import Error, connections, router

from osvi_django import clock
from osvi_django.conf import InvalidSetting, Webhook
from osvi_django.contexts import ThreadContext
from osvi_django.database import safe_error_name
from osvi_django.models import WebhookDelivery
from osvi_django.services.events import queue, receivers
from osvi_django.services.events.payloads import body_of, message_id_of
from osvi_django.services.events.sending import NOT_WRITTEN, TOTAL_TIMEOUT, Outcome, Sender
from osvi_django.services.events.signing import signed_headers
from osvi_django.validation import checks_types

logger = logging.getLogger(__name__)

_Work = Callable[[], int]


@checks_types
def deliver_events(stop: threading.Event | None = None) -> int:
    """Send all events that are due, until ``stop`` is set; return how many tries were made.

    Raises the database's errors. Events that could not be sent are due again later.
    """
    using, stop = _using(), stop or threading.Event()
    enabled = receivers.pauses_of_enabled(using=using)
    works = [partial(_deliver_to, each, using, stop) for each, pause in enabled if not pause]
    if len(works) < 2 or connections[using].in_atomic_block:
        return sum(each() for each in works)
    return _run_together(works)


def seconds_until_due() -> float | None:
    """Return in how many seconds to deliver again; None if nothing waits."""
    using = _using()
    waits = [
        max(pause, seconds)
        for receiver, pause in receivers.pauses_of_enabled(using=using)
        if (seconds := queue.seconds_until_due(receiver.key, using=using)) is not None
    ]
    return min(waits, default=None)


def tidy() -> None:
    """Give up what has waited for too long, and delete what has been over for long."""
    using = _using()
    with suppress(InvalidSetting):  # manage.py check says so
        if given_up := queue.give_up_old(using=using):
            logger.error("%s events were given up: they have waited for too long", given_up)
        if purged := sum(queue.purge(using=using)):
            logger.info("%s deliveries that were over were deleted", purged)


def _using() -> str:
    return router.db_for_write(WebhookDelivery)


def _run_together(works: Sequence[_Work]) -> int:
    """Run each of these in a thread with its own connections. Raises the first error at the end."""
    running: list[Future[int]] = []
    for each in works:
        running.append(Future())
        work = partial(_carry_out, running[-1], each)
        # Not those of a ThreadPoolExecutor, which starts none while a process ends.
        threading.Thread(target=ThreadContext().run, args=(work,), name="osvi-event").start()
    wait(running)
    return sum(each.result() for each in running)


def _carry_out(future: Future[int], send: _Work) -> None:
    try:
        future.set_result(send())
    except BaseException as error:  # noqa: BLE001  # raised again by the thread that waits
        future.set_exception(error)
    finally:
        connections.close_all()


def _deliver_to(receiver: Webhook, using: str, stop: threading.Event) -> int:
    tries = 0
    while not stop.is_set() and (claimed := queue.claim(receiver.key, using=using)):
        tried, may_go_on = _deliver_batch(receiver, claimed, using, stop)
        tries += tried
        if not may_go_on:
            break
    return tries


def _deliver_batch(
    receiver: Webhook, claimed: list[WebhookDelivery], using: str, stop: threading.Event
) -> tuple[int, bool]:
    """Send these one after the other; return how many were tried, and whether to send more."""
    # Not all of them may be sent under the lease if the receiver is slow.
    ends_at = clock.monotonic() + queue.LEASE - 2 * TOTAL_TIMEOUT
    left, outcome, is_delivered = list(claimed), Outcome(), False
    try:
        with Sender(receiver) as sender:
            while left and not _ends_batch(outcome) and clock.monotonic() < ends_at:
                if stop.is_set():
                    break
                outcome = _try(sender, receiver, left[0], using)
                is_delivered |= outcome.is_delivered
                del left[0]
    finally:
        _release(left, using)
    if is_delivered:
        receivers.note_success(receiver, using=using)
    _note_end(receiver, outcome, using)
    return len(claimed) - len(left), not _ends_batch(outcome)


def _ends_batch(outcome: Outcome) -> bool:
    return outcome.is_gone or outcome.is_about_receiver


def _note_end(receiver: Webhook, outcome: Outcome, using: str) -> None:
    if outcome.is_gone:
        receivers.switch_off(receiver, using=using)
    elif outcome.is_about_receiver:
        receivers.note_failure(receiver, outcome.code, outcome.retry_after, using=using)


def _release(left: Sequence[WebhookDelivery], using: str) -> None:
    if left:
        with suppress(Error):  # otherwise their lease ends
            queue.release(left, using=using)


def _try(sender: Sender, receiver: Webhook, delivery: WebhookDelivery, using: str) -> Outcome:
    message_id = message_id_of(delivery)
    outcome = _post(sender, receiver, delivery, message_id)
    queue.store(delivery, outcome, using=using)
    about = (delivery.event, message_id, receiver.key, outcome.status, outcome.code or "delivered")
    level = logging.INFO if outcome.is_delivered else logging.WARNING
    logger.log(level, "event %s %s to receiver %s: HTTP status %s, %s", *about)
    return outcome


def _post(sender: Sender, receiver: Webhook, delivery: WebhookDelivery, message_id: str) -> Outcome:
    try:
        body = body_of(delivery, receiver)
    except Error:
        raise
    except Exception:  # it must not keep the others from being sent
        logger.exception("event %s cannot be written", message_id)
        return Outcome(code=NOT_WRITTEN)
    headers = signed_headers(message_id, int(time.time()), body, receiver.secrets)
    return sender.post(body, headers)


def log_failure(error: BaseException) -> None:
    """Log what has ended a delivery, without the text of a database's error."""
    has_traceback = None if isinstance(error, Error) else error
    logger.error(
        "events could not be delivered: %s", safe_error_name(error), exc_info=has_traceback
    )
