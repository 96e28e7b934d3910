"""Send nothing to an account before the time that OSVI asked this process to wait for.

Jobs and single calls share this knowledge, as the same OSVI answers all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from django.utils.translation import ngettext

from osvi_django import clock
from osvi_django.client import OSVIClient
from osvi_django.client.throttle import AccountThrottle, concurrency_of, throttle_for
from osvi_django.exceptions import OSVINotConfigured, OSVIThrottled


@contextmanager
def throttling(client: OSVIClient, account: str) -> Iterator[AccountThrottle]:
    """Send nothing if OSVI has asked to wait; record it if OSVI does so in the block.

    Raises ``OSVIThrottled`` before the block if it is too early.
    """
    throttle = _throttle_for(account, client.base_url)
    if seconds := math.ceil(throttle.seconds_of_retry_after):
        sentence = ngettext(
            "OSVI is busy and asked this site to wait. Nothing was sent, and nothing has changed. "
            "Try again in %(seconds)d second.",
            "OSVI is busy and asked this site to wait. Nothing was sent, and nothing has changed. "
            "Try again in %(seconds)d seconds.",
            seconds,
        )
        raise OSVIThrottled(sentence % {"seconds": seconds}, retry_after=seconds)
    sent_at = clock.monotonic()
    try:
        yield throttle
    except OSVIThrottled as error:
        if error.retry_after:
            throttle.record_failure(sent_at, error)
        raise


def _throttle_for(account: str, base_url: str) -> AccountThrottle:
    """Return the throttle that this process's jobs share; a single call needs no CONCURRENCY."""
    try:
        size = concurrency_of(account)
    except OSVINotConfigured:
        size = 1
    return throttle_for(account, base_url, size)
