"""The timeouts of a campaign, all shorter than the defaults."""

from __future__ import annotations

from typing import Final

CONNECT_TIMEOUT: Final = 1  # seconds, as all of these
READ_TIMEOUT: Final = 1.5
DEADLINE: Final = 2
LEASE_TIMEOUT: Final = 7
# Some outages are longer, and gunicorn kills some workers while they wait.
DATABASE_RETRY_TIMEOUT: Final = 6
GUNICORN_TIMEOUT: Final = 5
