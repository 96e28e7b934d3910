"""The example project with django-tasks-db or Celery, and with shorter timeouts."""

import os

from example_project.settings import *  # noqa: F403
from example_project.settings import DATABASES, INSTALLED_APPS, OSVI
from tests.executors.queues import PACKAGE

# Before Django 6 the queues are an app of their own.
_QUEUES = ["django_tasks"] if PACKAGE == "django_tasks" else []
INSTALLED_APPS = [*INSTALLED_APPS, *_QUEUES, "django_tasks_db", "tests.executors.support"]

OSVI_EXECUTOR = os.environ["DRILL_EXECUTOR"]
OSVI = {
    "default": {
        **OSVI["default"],
        "CONNECT_TIMEOUT": 1,
        "READ_TIMEOUT": 1.9,
        "DEADLINE": 2,
        "LEASE_TIMEOUT": 6.5,
        "CONCURRENCY": 2,
        "SPOOL_DIR": os.environ["DRILL_SPOOL_DIR"],
    }
}

# A copy: a test imports this module beside the example project's own settings.
DATABASES = {"default": {**DATABASES["default"], "TEST": {"NAME": os.environ["DRILL_DATABASE"]}}}

TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

CELERY_BROKER_URL = os.environ.get("DRILL_BROKER_URL")
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
