"""The REST endpoints, below the path at which the host includes ``osvi_django.urls``.

Each URL works with and without its final slash, and without a redirect, which would turn a POST
into a GET. ``reverse`` gives the form with the slash.
"""

from __future__ import annotations

from typing import Final

from django.urls import URLPattern, path, re_path, register_converter
from django.urls.converters import PathConverter
from rest_framework.views import APIView

from osvi_django.rest.views.base import NotFoundView
from osvi_django.rest.views.closing import SessionCloseView, SessionRecoverView
from osvi_django.rest.views.customers import CustomerEraseView, CustomerExportView
from osvi_django.rest.views.exports import SessionExportView
from osvi_django.rest.views.figures import StatsView
from osvi_django.rest.views.jobs import (
    BulkCloseView,
    JobCancelView,
    JobListView,
    JobResultsView,
    JobRetryView,
    JobView,
)
from osvi_django.rest.views.sessions import AttemptView, SessionDetailView, SessionListView
from osvi_django.rest.views.support import (
    ActionListView,
    ActionView,
    ContextView,
    MessagesView,
    SupportView,
    SyncView,
)


class AnyTextConverter(PathConverter):
    """Match any text: the vendor says only that a session id is a string."""

    regex = "(?s:.+)"


class UpToSlashConverter(PathConverter):
    """Match the same at the end of a URL without a final slash."""

    regex = "(?s:.*[^/])"


register_converter(AnyTextConverter, "osvi_id")
register_converter(UpToSlashConverter, "osvi_id_up_to_slash")

_SESSION: Final = "sessions/<osvi_id:session_id>"


def _endpoint(route: str, view: type[APIView], name: str, *, bare: str = "") -> list[URLPattern]:
    """Return the two forms of one URL; ``reverse`` uses the last of the same name.

    ``bare``: the route without the slash, if that is not simply ``route``.
    """
    shown = view.as_view()
    return [path(bare or route, shown, name=name), path(f"{route}/", shown, name=name)]


urlpatterns = [
    *_endpoint("close-jobs", JobListView, "close-job-list"),
    *_endpoint("close-jobs/<str:pk>", JobView, "close-job"),
    *_endpoint("close-jobs/<str:pk>/results", JobResultsView, "close-job-results"),
    *_endpoint("close-jobs/<str:pk>/cancel", JobCancelView, "close-job-cancel"),
    *_endpoint("close-jobs/<str:pk>/retry", JobRetryView, "close-job-retry"),
    *_endpoint("customers/erase", CustomerEraseView, "customer-erase"),
    *_endpoint("customers/export", CustomerExportView, "customer-export"),
    *_endpoint("stats", StatsView, "stats"),
    *_endpoint("sessions", SessionListView, "session-list"),
    # Before the routes that accept any text as an id.
    *_endpoint("sessions/close", BulkCloseView, "session-bulk-close"),
    *_endpoint("sessions/export", SessionExportView, "session-export"),
    *_endpoint("sessions/sync", SyncView, "session-sync"),
    *_endpoint(f"{_SESSION}/close", SessionCloseView, "session-close"),
    *_endpoint(f"{_SESSION}/recover", SessionRecoverView, "session-recover"),
    *_endpoint(f"{_SESSION}/attempts/<int:pk>", AttemptView, "session-attempt"),
    *_endpoint(f"{_SESSION}/actions/<int:pk>", ActionView, "session-action"),
    *_endpoint(f"{_SESSION}/support", SupportView, "session-support"),
    *_endpoint(f"{_SESSION}/context", ContextView, "session-context"),
    *_endpoint(f"{_SESSION}/messages", MessagesView, "session-messages"),
    *_endpoint(f"{_SESSION}/actions", ActionListView, "session-actions"),
    *_endpoint(
        _SESSION,
        SessionDetailView,
        "session-detail",
        bare="sessions/<osvi_id_up_to_slash:session_id>",
    ),
    # Only below our own names: other URLs with the same beginning may be the host's.
    re_path(r"^(?:sessions|close-jobs|customers|stats)/", NotFoundView.as_view()),
]
