"""The OSVI clients that services use.

None of their calls holds a database connection: OSVI may take a minute to answer, and a few
connections are enough for a site only if calls that wait for OSVI hold none.
"""

from __future__ import annotations

from osvi_django.client import OSVIClient
from osvi_django.database import release_connections


def client_of(account: str, *, patience: float = float("inf")) -> OSVIClient:
    """Return the client of an account. Raises ``OSVINotConfigured``.

    ``patience``: the most seconds for a call, if the settings allow more.
    """
    return OSVIClient.for_account(account, before_call=release_connections, patience=patience)
