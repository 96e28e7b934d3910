"""Name a customer without naming the customer: a hash with a secret key.

A hash begins with a fingerprint of its key, so that this site can tell “another customer” from
“another key”.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator
from typing import Final

from django.conf import settings
from django.utils.crypto import salted_hmac

from osvi_django.models.privacy import HASH_LENGTH

_SALT: Final = "osvi_django.erasure"
MARKER_PREFIX: Final = "erased-"
_MARKER_LENGTH: Final = 24
_FINGERPRINT_LENGTH: Final = 8
_BETWEEN: Final = ":"


def customer_hash(customer_id: str) -> str:
    """Return the hash of a customer with the key of today."""
    return _hash(customer_id, settings.SECRET_KEY)


def customer_hashes(customer_id: str) -> Iterator[str]:
    """Yield the hashes of a customer with the key of today, and with those before it.

    These are ``SECRET_KEY`` and ``SECRET_KEY_FALLBACKS``.
    """
    for key in _keys():
        yield _hash(customer_id, key)


def known_fingerprints() -> set[str]:
    """Return the fingerprints of the keys that this site has."""
    return {_fingerprint(key) for key in _keys()}


def fingerprint_of(hashed: str) -> str:
    """Return the fingerprint of the key that a hash was made with."""
    return hashed.partition(_BETWEEN)[0]


def new_marker() -> str:
    """Return a random text in place of an id; without digits, which a search would find."""
    letters = (secrets.choice(string.ascii_lowercase) for _number in range(_MARKER_LENGTH))
    return MARKER_PREFIX + "".join(letters)


def _keys() -> Iterator[str | bytes]:
    yield from (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)


def _hash(customer_id: str, key: str | bytes) -> str:
    hashed = _keyed(_SALT, customer_id, key)
    return f"{_fingerprint(key)}{_BETWEEN}{hashed}"[:HASH_LENGTH]


def _fingerprint(key: str | bytes) -> str:
    return _keyed(f"{_SALT}.key", "", key)[:_FINGERPRINT_LENGTH]


def _keyed(salt: str, text: str, key: str | bytes) -> str:
    return salted_hmac(salt, text, secret=key, algorithm="sha256").hexdigest()
