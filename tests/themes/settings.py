"""Settings of a host project with the admin theme in ``OSVI_TEST_THEME``."""

from __future__ import annotations

import os

from example_project.settings import *  # noqa: F403

THEME = os.environ["OSVI_TEST_THEME"]

_BEFORE_ADMIN = {
    "unfold": ["unfold"],
    "unfold_mixed": ["unfold"],
    "unfold_below": ["unfold"],
    "jazzmin": ["jazzmin"],
    "grappelli": ["grappelli"],
    "admin_interface": ["admin_interface", "colorfield"],
}.get(THEME, [])
_AFTER_ADMIN = {
    "object_actions": ["django_object_actions"],
    "guardian": ["guardian"],
}.get(THEME, [])

INSTALLED_APPS = [*_BEFORE_ADMIN, *INSTALLED_APPS, *_AFTER_ADMIN, "tests.themes"]  # noqa: F405
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
if THEME == "guardian":
    AUTHENTICATION_BACKENDS.append("guardian.backends.ObjectPermissionBackend")

ROOT_URLCONF = "tests.themes.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "themes.sqlite3",  # noqa: F405 - tests have another
        "ATOMIC_REQUESTS": True,
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,  # seconds
            "init_command": "PRAGMA journal_mode=WAL",
        },
    }
}
OSVI_EXECUTOR = None
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # the quickest
# Some themes evaluate scripts; what our own pages need is tested with Django's admin.
MIDDLEWARE = [each for each in MIDDLEWARE if not each.startswith("example_project.policy.")]  # noqa: F405
# A browser waits for fonts of another machine.
JAZZMIN_SETTINGS = {"use_google_fonts_cdn": False}
