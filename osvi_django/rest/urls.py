"""The REST endpoints, below wherever the host includes ``osvi_django.urls``."""

from __future__ import annotations

from django.urls import path

from osvi_django.rest.views import SessionCloseView, SessionDetailView, SessionListView

# The vendor calls a session id a string and says no more: one may hold slashes.
urlpatterns = [
    path("sessions/", SessionListView.as_view(), name="session-list"),
    path("sessions/<path:session_id>/close/", SessionCloseView.as_view(), name="session-close"),
    path("sessions/<path:session_id>/", SessionDetailView.as_view(), name="session-detail"),
]
