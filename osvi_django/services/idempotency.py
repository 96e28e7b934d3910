"""The rows of requests that may be repeated, and their end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from django.db import router
from django.db.models import Q, QuerySet

from osvi_django.conf import longest_retention
from osvi_django.database import DatabaseNow
from osvi_django.models import IdempotentRequest

# Expired rows that are removed in one statement.
_CHUNK: Final = 500


def requests() -> QuerySet[IdempotentRequest]:
    """Return all requests, in the database they are written to."""
    return IdempotentRequest.objects.using(router.db_for_write(IdempotentRequest))


def expire_request(digest: str) -> None:
    """Remove this request and a few others, if they have expired. Raises ``InvalidSetting``."""
    keys = next(_expired_keys(), [])
    expired_requests().filter(Q(digest=digest) | Q(pk__in=keys)).delete()


def expire_requests() -> Iterator[int]:
    """Remove all expired requests; yield how many at a time. Raises ``InvalidSetting``."""
    for keys in _expired_keys():
        yield requests().filter(pk__in=keys).delete()[0]


def expired_requests() -> QuerySet[IdempotentRequest]:
    """Return the requests that are older than the settings allow. Raises ``InvalidSetting``."""
    days = longest_retention("idempotency")
    if days is None:
        return requests().none()
    return requests().filter(created_at__lt=DatabaseNow() - timedelta(days=days))


def _expired_keys() -> Iterator[list[int]]:
    # As keys, because MariaDB cannot limit a DELETE with a subquery.
    old = expired_requests().order_by("created_at", "pk").values_list("pk", flat=True)
    while keys := list(old[:_CHUNK]):
        yield keys
