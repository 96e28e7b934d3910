"""Settings of a host project that grants permissions for single sessions by django-guardian."""

from __future__ import annotations

from example_project.settings import *  # noqa: F403

INSTALLED_APPS = [*INSTALLED_APPS, "guardian"]  # noqa: F405
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    f"{__name__.rpartition('.')[0]}.guardian_pages.RefusingBackend",
    "guardian.backends.ObjectPermissionBackend",
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "guardian.sqlite3",  # noqa: F405 - tests have another
    }
}
OSVI_EXECUTOR = None
