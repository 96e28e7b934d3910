"""URLs of a host that includes ours below a prefix with a parameter, in its own namespace."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [
    path("<slug:tenant>/chats/", include("osvi_django.urls", namespace="tenant-chats")),
]
