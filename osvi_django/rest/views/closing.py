"""Close one session, and recover it."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.exceptions import SessionNotFound
from osvi_django.rest.input_serializers import (
    CloseSerializer,
    EmptySerializer,
)
from osvi_django.rest.output_serializers import (
    closed_body,
)
from osvi_django.rest.parsing import (
    RESPOND_ASYNC,
    prefers_async,
    require_account,
    validated_body,
)
from osvi_django.rest.responses import accepted
from osvi_django.rest.views.base import OSVIAPIView
from osvi_django.services import close_session_by_id
from osvi_django.services.by_id import create_close_job_by_id
from osvi_django.services.permissions import require_close
from osvi_django.services.recovery import recover_session
from osvi_django.services.selectors import find_session


class SessionCloseView(OSVIAPIView):
    """``POST sessions/{session_id}/close/``; ``agent_uuid``, ``account``, ``note`` are optional."""

    description = _("Close a chat session and return its summary.")

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Close it: 200 and the session, its summary, and whether this call changed anything.

        A caller that prefers not to wait gets a 202 and a job of one session.
        """
        return closed(request, session_id, **validated_body(CloseSerializer, request))


class SessionRecoverView(OSVIAPIView):
    """``POST sessions/{session_id}/recover/``: settle an unconfirmed session."""

    description = _("Ask OSVI whether an unconfirmed chat session is closed, and store the result.")

    def post(self, request: Request, session_id: str, **kwargs: Any) -> Response:
        """Ask OSVI: 200, the session, and in ``settled`` and ``detail`` the result."""
        validated_body(EmptySerializer, request)
        session = find_session(session_id)
        if session is None:
            require_close(request.user)
            raise SessionNotFound
        found = recover_session(session, requested_by=request.user, via="rest")
        result = {"settled": found.settled.value, "detail": found.detail}
        return Response(closed_body(found.session, request) | result)


def closed(request: Request, session_id: str, **options: Any) -> Response:
    """Close a session and return it, or a job for it if the caller prefers not to wait."""
    if "account" in options:
        require_close(request.user, find_session(session_id))
        require_account(options["account"])
    if prefers_async(request):
        return _accept(request, session_id, **options)
    result = close_session_by_id(session_id, requested_by=request.user, via="rest", **options)
    return Response(closed_body(result.session, request) | {"changed": result.changed})


def _accept(request: Request, session_id: str, **options: Any) -> Response:
    job = create_close_job_by_id(session_id, requested_by=request.user, via="rest", **options)
    response = accepted(job, request)
    response["Preference-Applied"] = RESPOND_ASYNC
    return response
