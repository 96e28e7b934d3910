"""A host that includes our URLs below a prefix with a name in it, in a namespace of its own."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [
    path("<slug:tenant>/chats/", include("osvi_django.urls", namespace="tenant-chats")),
]
