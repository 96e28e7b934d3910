"""The URLs that a host includes: ``path("api/osvi/", include("osvi_django.urls"))``."""

from __future__ import annotations

from osvi_django.rest.urls import urlpatterns

app_name = "osvi_django"

__all__ = ["app_name", "urlpatterns"]
