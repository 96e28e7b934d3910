"""The example project as the campaign serves it: the same app, in more of a hurry."""

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES, OSVI

CONNECT_TIMEOUT, READ_TIMEOUT, DEADLINE, LEASE = 1, 1.5, 2, 5  # seconds

OSVI = {
    "default": {
        **OSVI["default"],
        "CONNECT_TIMEOUT": CONNECT_TIMEOUT,
        "READ_TIMEOUT": READ_TIMEOUT,
        "DEADLINE": DEADLINE,
        "LEASE": LEASE,
        "SPOOL_DIR": os.environ["FAULTS_SPOOL_DIR"],
    }
}

if DATABASES["default"]["ENGINE"].endswith("postgresql"):
    DATABASES["default"]["OPTIONS"] = {"connect_timeout": 2}

# A password is checked with each request here, and this is no test of passwords.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
