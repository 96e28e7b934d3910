"""Do the work of a request once, however often its caller repeats it: ``Idempotency-Key``.

A row is claimed with a lease before the work, and holds the answer after it. A success is replayed;
after a failure the work is done again, which every service here allows. Keys expire, as answers
hold summaries.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db.models import QuerySet
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from rest_framework import status
from rest_framework.exceptions import APIException, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.conf import configured
from osvi_django.database import DatabaseNow, lease_expired
from osvi_django.models import IdempotentRequest
from osvi_django.rest.rendering import OSVIJSONRenderer
from osvi_django.services.idempotency import expire_request, requests
from osvi_django.services.permissions import requester_of

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
MAX_LENGTH: Final = 255
# Longer than a request takes: it is over only if the process died.
LEASE: Final = 300  # seconds
# The headers of an answer that belong to it; others are those of each response.
_KEPT_HEADERS: Final = ("Location", "Retry-After", "Preference-Applied")


class KeyReused(APIException):
    """The key was used for a request with another body."""

    status_code = status.HTTP_422_UNPROCESSABLE_ENTITY
    default_code = "idempotency_key_reused"
    default_detail = _lazy(
        "This Idempotency-Key was used for a request with another body, so nothing was done. Use a "
        "new key for a new request."
    )


class RequestInProgress(APIException):
    """A request with this key is being worked on."""

    status_code = status.HTTP_409_CONFLICT
    default_code = "request_in_progress"
    default_detail = _lazy(
        "A request with this Idempotency-Key is being worked on. Repeat it in a moment."
    )
    retryable = True
    wait = 1  # seconds: Django REST framework sends it as Retry-After


class Replayed(APIException):
    """The work is done: ``response`` is what was answered."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The exclusive right to do the work of one request."""

    digest: str
    token: uuid.UUID

    def store(self, response: Response) -> None:
        """Store a success, to be replayed, and release the claim after a failure."""
        if not status.is_success(response.status_code):
            self.release()
            return
        kept = {name: response[name] for name in _KEPT_HEADERS if name in response}
        self._rows().update(
            status_code=response.status_code,
            headers=kept,
            body=OSVIJSONRenderer().render(response.data).decode(),
            claim=None,
            lease_until=None,
        )

    def release(self) -> None:
        """Let a repeated request do the work again."""
        self._rows().delete()

    def _rows(self) -> QuerySet[IdempotentRequest]:
        return requests().filter(digest=self.digest, claim=self.token)


def claim_request(request: Request) -> Claim | None:
    """Claim the work of a request; None if it has no key.

    Raises ``Replayed`` with the stored answer, ``KeyReused``, ``RequestInProgress`` and
    ``ValidationError``.
    """
    key = _key_of(request)
    if key is None:
        return None
    claim = Claim(digest=_digest_of(request, key), token=uuid.uuid4())
    with configured():
        expire_request(claim.digest)
    body_digest = hashlib.sha256(request.body).hexdigest()
    lease = {"claim": claim.token, "lease_until": DatabaseNow() + timedelta(seconds=LEASE)}
    new = {**lease, "body_digest": body_digest, "created_at": DatabaseNow()}
    row, is_new = requests().get_or_create(digest=claim.digest, defaults=new)
    if is_new:
        return claim
    if row.body_digest != body_digest:
        raise KeyReused
    if row.status_code is not None:
        raise Replayed(_stored_response(row))
    if not requests().filter(lease_expired(), pk=row.pk, status_code=None).update(**lease):
        raise RequestInProgress
    return claim


def _key_of(request: Request) -> str | None:
    key: str | None = request.headers.get(HEADER)
    if key is None or (key.isascii() and key.isprintable() and 1 <= len(key) <= MAX_LENGTH):
        return key
    problem = _("Use 1 to %(most)d printable ASCII characters.") % {"most": MAX_LENGTH}
    raise ValidationError({HEADER: [problem]})


def _digest_of(request: Request, key: str) -> str:
    """Return what names the request; its parts cannot run into each other."""
    caller = requester_of(request.user)
    parts = [caller.model, caller.key, request.method, request.path.rstrip("/"), key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stored_response(row: IdempotentRequest) -> Response:
    headers = {**row.headers, REPLAYED: "true"}
    return Response(json.loads(row.body), row.status_code, headers=headers)
