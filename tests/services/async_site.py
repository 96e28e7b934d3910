"""The views of an ASGI site whose database has ``ATOMIC_REQUESTS``."""

from __future__ import annotations

from django.db import transaction
from django.http import JsonResponse
from django.urls import path

from osvi_django.models import ChatSession
from osvi_django.services import aclose_session


@transaction.non_atomic_requests
async def close(request, session_id):
    """Close a chat."""
    session = await ChatSession.objects.aget(session_id=session_id)
    result = await aclose_session(session, note="Said goodbye")
    return JsonResponse({"summary": result.summary.text, "status": session.status})


urlpatterns = [path("close/<session_id>/", close)]
