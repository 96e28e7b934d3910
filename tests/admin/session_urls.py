"""URLs of the pages of a session."""

from __future__ import annotations

from django.urls import reverse


def session_url(session, name="change"):
    """Return the URL of a page of this session."""
    return reverse(f"admin:osvi_django_chatsession_{name}", args=[session.pk])


def desk_url(session):
    """Return the URL of the desk of this session."""
    return session_url(session, "desk")
