"""The REST endpoints, below wherever the host includes ``osvi_django.urls``."""

from __future__ import annotations

from django.urls import path, register_converter
from django.urls.converters import PathConverter

from osvi_django.rest.jobs import (
    BulkCloseView,
    JobCancelView,
    JobListView,
    JobResultsView,
    JobRetryView,
    JobView,
)
from osvi_django.rest.operating import (
    ActionListView,
    ContextView,
    MessagesView,
    SupportView,
    SyncView,
)
from osvi_django.rest.views import (
    AttemptView,
    SessionCloseView,
    SessionDetailView,
    SessionListView,
    SessionRecoverView,
)


class AnyTextConverter(PathConverter):
    """The vendor calls a session id a string and says no more: one may hold slashes, lines too."""

    regex = "(?s:.+)"


register_converter(AnyTextConverter, "osvi_id")

urlpatterns = [
    path("close-jobs/", JobListView.as_view(), name="close-job-list"),
    path("close-jobs/<str:pk>/", JobView.as_view(), name="close-job"),
    path("close-jobs/<str:pk>/results/", JobResultsView.as_view(), name="close-job-results"),
    path("close-jobs/<str:pk>/cancel/", JobCancelView.as_view(), name="close-job-cancel"),
    path("close-jobs/<str:pk>/retry/", JobRetryView.as_view(), name="close-job-retry"),
    path("sessions/", SessionListView.as_view(), name="session-list"),
    # Before those that take any text for an id.
    path("sessions/close/", BulkCloseView.as_view(), name="session-bulk-close"),
    path("sessions/sync/", SyncView.as_view(), name="session-sync"),
    path(
        "sessions/<osvi_id:session_id>/close/",
        SessionCloseView.as_view(),
        name="session-close",
    ),
    path(
        "sessions/<osvi_id:session_id>/recover/",
        SessionRecoverView.as_view(),
        name="session-recover",
    ),
    path(
        "sessions/<osvi_id:session_id>/attempts/<int:pk>/",
        AttemptView.as_view(),
        name="session-attempt",
    ),
    path(
        "sessions/<osvi_id:session_id>/support/",
        SupportView.as_view(),
        name="session-support",
    ),
    path(
        "sessions/<osvi_id:session_id>/context/",
        ContextView.as_view(),
        name="session-context",
    ),
    path(
        "sessions/<osvi_id:session_id>/messages/",
        MessagesView.as_view(),
        name="session-messages",
    ),
    path(
        "sessions/<osvi_id:session_id>/actions/",
        ActionListView.as_view(),
        name="session-actions",
    ),
    path("sessions/<osvi_id:session_id>/", SessionDetailView.as_view(), name="session-detail"),
]
