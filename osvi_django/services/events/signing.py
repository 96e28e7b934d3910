"""The headers of a webhook, by Standard Webhooks 1.0.0."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from osvi_django.redaction import hides


@hides("keys")
def signed_headers(
    message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]
) -> dict[str, str]:
    """Return the headers for exactly these bytes, with a signature by each key."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    signatures = (f"v1,{base64.b64encode(each).decode()}" for each in digests)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
