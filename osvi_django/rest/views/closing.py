"""Close one session, and recover it."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.exceptions import error_for_code
from osvi_django.models import CloseJobItem
from osvi_django.rest.input_serializers import (
    CloseSerializer,
    EmptySerializer,
)
from osvi_django.rest.output_serializers import (
    closed_body,
    recovery_body,
)
from osvi_django.rest.parsing import (
    require_account,
    validated_body,
)
from osvi_django.rest.preferences import Preferences, preferences_of
from osvi_django.rest.responses import accepted, finished_after
from osvi_django.rest.views.base import CLOSE_SCOPE, SessionView
from osvi_django.services import close_session_by_id, selectors
from osvi_django.services.access import Purpose
from osvi_django.services.by_id import create_close_job_by_id
from osvi_django.services.jobs import store
from osvi_django.services.permissions import require_close
from osvi_django.services.recovery import recover_session
from osvi_django.services.selectors import find_session_for


class ClosingView(SessionView):
    """A view for callers who may close the session that its path names."""

    purpose = Purpose.CLOSE
    post_scope = CLOSE_SCOPE

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Raise ``NotAllowed``, also if the session is unknown."""
        require_close(request.user, self.find_session())
        super().require_allowed(request, **kwargs)


class SessionCloseView(ClosingView):
    """``POST sessions/{session_id}/close/``; ``agent_uuid``, ``account``, ``note`` are optional."""

    description = _("Close a chat session and return its summary.")

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Close it: 200 and the session, its summary, and whether this call changed anything.

        A caller that prefers not to wait gets a 202 and a job of one session.
        """
        return closed(request, session_id, **validated_body(CloseSerializer, request))


class SessionRecoverView(ClosingView):
    """``POST sessions/{session_id}/recover/``: settle an unconfirmed session."""

    description = _("Ask OSVI whether an unconfirmed chat session is closed, and store the result.")

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Ask OSVI: 200, the session, and in ``settled`` and ``detail`` the result."""
        validated_body(EmptySerializer, request)
        session = self.get_session()
        found = recover_session(session, requested_by=request.user, via="rest")
        return Response(closed_body(found.session, request) | recovery_body(found, request))


def closed(request: Request, session_id: str, **options: Any) -> Response:
    """Close a session and return it, or a job for it if the caller prefers not to wait."""
    if "account" in options:
        require_close(request.user, find_session_for(request.user, session_id, Purpose.CLOSE))
        require_account(options["account"])
    preferred = preferences_of(request)
    if preferred.is_async:
        return preferred.note_applied(_accept(request, session_id, preferred, **options))
    result = close_session_by_id(session_id, requested_by=request.user, via="rest", **options)
    done = {"changed": result.changed, "goodbye": result.goodbye or None}
    return Response(closed_body(result.session, request) | done)


def _accept(request: Request, session_id: str, preferred: Preferences, **options: Any) -> Response:
    """Create a job, and wait for it as long as the caller does."""
    job = create_close_job_by_id(session_id, requested_by=request.user, via="rest", **options)
    if not (preferred.wait and finished_after(job, preferred.wait)):
        return accepted(job, request)
    item = store.items_with_sessions(job).get()
    if item.session is not None and item.outcome in CloseJobItem.SUCCEEDED:
        return Response(closed_body(item.session, request) | _done_by(item))
    attempt = selectors.last_attempt(item.session) if item.session and item.attempt_id else None
    error = error_for_code(item.error_code, item.error_reason, attempt=attempt)
    if error is None:  # it was cancelled meanwhile
        return accepted(job, request)
    raise error


def _done_by(item: CloseJobItem) -> dict[str, Any]:
    changed = item.outcome == CloseJobItem.Outcome.CLOSED
    return {"changed": changed, "goodbye": item.goodbye or None}
