"""The example project with few connections: at most four, if the database has a pool for them."""

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES

if DATABASES["default"]["ENGINE"].endswith("postgresql"):
    DATABASES["default"]["OPTIONS"] = {
        "pool": {"min_size": 1, "max_size": 4, "timeout": 2},
        "application_name": "osvi-pooled",
    }

# A password is checked with each request here, and this is no test of passwords.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

OSVI_MAX_SYNC_CALLS = int(os.environ.get("MAX_SYNC_CALLS", "8"))
