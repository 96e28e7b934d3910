"""The settings of the example project in a campaign: the same site with shorter timeouts."""

import os
from typing import Any

from chaos import timing
from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES, OSVI

_account: dict[str, Any] = OSVI["default"]
_account |= {
    "CONNECT_TIMEOUT": timing.CONNECT_TIMEOUT,
    "READ_TIMEOUT": timing.READ_TIMEOUT,
    "DEADLINE": timing.DEADLINE,
    "LEASE_TIMEOUT": timing.LEASE_TIMEOUT,
    "DATABASE_RETRY_TIMEOUT": timing.DATABASE_RETRY_TIMEOUT,
    "SPOOL_DIR": os.environ["FAULTS_SPOOL_DIR"],
}

if str(DATABASES["default"]["ENGINE"]).endswith("postgresql"):
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 2}

# Each request here checks a password, and a campaign does not test passwords.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
