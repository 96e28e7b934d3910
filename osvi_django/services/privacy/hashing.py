"""Name a customer without naming the customer: a hash with a secret key."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator
from typing import Final

from django.conf import settings
from django.utils.crypto import salted_hmac

_SALT: Final = "osvi_django.erasure"
MARKER_PREFIX: Final = "erased-"
_MARKER_LENGTH: Final = 24


def customer_hash(customer_id: str) -> str:
    """Return the hash of a customer with the key of today."""
    return _hash(customer_id, settings.SECRET_KEY)


def customer_hashes(customer_id: str) -> Iterator[str]:
    """Yield the hashes of a customer with the key of today, and with those before it.

    These are ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS``.
    """
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
        yield _hash(customer_id, key)


def new_marker() -> str:
    """Return a random text in place of an id; without digits, which a search would find."""
    letters = (secrets.choice(string.ascii_lowercase) for _number in range(_MARKER_LENGTH))
    return MARKER_PREFIX + "".join(letters)


def _hash(customer_id: str, key: str | bytes) -> str:
    return salted_hmac(_SALT, customer_id, secret=key, algorithm="sha256").hexdigest()
