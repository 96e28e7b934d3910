"""The example project as the campaign serves it: the same app, in more of a hurry."""

import os

from chaos import timing
from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES, OSVI

OSVI = {
    "default": {
        **OSVI["default"],
        "CONNECT_TIMEOUT": timing.CONNECT_TIMEOUT,
        "READ_TIMEOUT": timing.READ_TIMEOUT,
        "DEADLINE": timing.DEADLINE,
        "LEASE_TIMEOUT": timing.LEASE_TIMEOUT,
        "DATABASE_RETRY_TIMEOUT": timing.DATABASE_RETRY_TIMEOUT,
        "SPOOL_DIR": os.environ["FAULTS_SPOOL_DIR"],
    }
}

if DATABASES["default"]["ENGINE"].endswith("postgresql"):
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 2}

# A password is checked with each request here, and this is no test of passwords.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
