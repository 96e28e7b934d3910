"""URLs of rows."""

from __future__ import annotations

from typing import Any, Final

from rest_framework.request import Request
from rest_framework.reverse import reverse

from osvi_django.models import ChatSession, CloseAttempt, CloseJob, CloseJobItem, SupportAction

# The parameters of our own routes; all others belong to the host.
_OWN_NAMES: Final = ("session_id", "pk")


def session_url(session: ChatSession, request: Request) -> str:
    """Return the URL of a session."""
    return _url("session-detail", request, session_id=session.session_id)


def attempt_url(attempt: CloseAttempt, request: Request) -> str:
    """Return the URL of an attempt."""
    return _attempt_url(attempt.session, attempt.pk, request)


def item_attempt_url(item: CloseJobItem, request: Request) -> str | None:
    """Return the URL of the attempt of a job's item; None if there was none."""
    if item.session is None or item.attempt_id is None:
        return None
    return _attempt_url(item.session, item.attempt_id, request)


def _attempt_url(session: ChatSession, pk: int, request: Request) -> str:
    return _url("session-attempt", request, session_id=session.session_id, pk=pk)


def recover_url(session: ChatSession, request: Request) -> str:
    """Return the URL that settles an unconfirmed session."""
    return _url("session-recover", request, session_id=session.session_id)


def action_url(action: SupportAction, request: Request) -> str:
    """Return the URL of an action in a session."""
    return _url("session-action", request, session_id=action.session.session_id, pk=action.pk)


def job_url(name: str, job: CloseJob, request: Request) -> str:
    """Return the URL of a job, or of a part of it."""
    return _url(name, request, pk=job.pk)


def _url(name: str, request: Request, **names: Any) -> str:
    """Return a URL below the path at which the host includes our URLs."""
    match: Any = request.resolver_match
    hosts = {key: value for key, value in match.kwargs.items() if key not in _OWN_NAMES}
    return reverse(f"{match.namespace}:{name}", kwargs=hosts | names, request=request)
