"""Who may do what: the one place that every door asks."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from osvi_django.exceptions import NotAllowed
from osvi_django.models import ChatSession, CloseJob

CLOSE: Final = "osvi_django.close_chatsession"
OPERATE: Final = "osvi_django.operate_chatsession"
VIEW: Final = "osvi_django.view_chatsession"
VIEW_SUMMARY: Final = "osvi_django.view_sessionsummary"
VIEW_JOB: Final = "osvi_django.view_closejob"


def may_close(user: Any, session: ChatSession | None = None) -> bool:
    """Whether ``user``, of whatever model the host has, may close sessions, or this one."""
    return _may(user, CLOSE, session)


def may_view(user: Any, session: ChatSession | None = None) -> bool:
    """Whether ``user`` may see sessions, or this one, its summary apart."""
    return _may(user, VIEW, session)


def may_read_summary(user: Any, session: ChatSession | None = None) -> bool:
    """Whether ``user`` may read what was said in sessions, or in this one."""
    return _may(user, VIEW_SUMMARY, session)


def require_close(user: Any, session: ChatSession | None = None) -> None:
    """Raise ``NotAllowed`` where ``user`` may not close; None is the host's own code, and may."""
    if user is not None and not may_close(user, session):
        raise NotAllowed


def may_operate(user: Any, session: ChatSession | None = None) -> bool:
    """Whether ``user`` may start sessions, speak in them and guide their agents."""
    return _may(user, OPERATE, session)


def require_operate(user: Any, session: ChatSession | None = None) -> None:
    """Raise ``NotAllowed`` where ``user`` may not operate; None is the host's own code, and may."""
    if user is not None and not may_operate(user, session):
        raise NotAllowed(_("You do not have the permission to operate chat sessions."))


def may_view_all_jobs(user: Any) -> bool:
    """Whether ``user`` may see the jobs of others as well."""
    return _may(user, VIEW_JOB, None)


def visible_jobs(user: Any) -> QuerySet[CloseJob]:
    """The jobs that ``user`` may see: their own, and with the permission those of all others.

    Their own are those, too, in which somebody else tries again what failed in one of theirs.
    """
    if may_view_all_jobs(user):
        return CloseJob.objects.all()
    user_id = getattr(user, "pk", None) or 0
    return CloseJob.objects.filter(Q(requested_by=user_id) | Q(retry_of__requested_by=user_id))


def require_job(user: Any, job: CloseJob) -> None:
    """Raise ``NotAllowed`` where ``user`` may not decide about this job; None may."""
    if user is None or (user.pk is not None and job.requested_by_id == user.pk):
        return
    if not (may_view_all_jobs(user) and may_close(user)):
        raise NotAllowed(_("You do not have the permission to do this with this close job."))


def _may(user: Any, permission: str, session: ChatSession | None) -> bool:
    # Django's own backend knows no permission on one object, and others may know nothing else.
    has_perm = getattr(user, "has_perm", None)
    if has_perm is None:
        return False
    return has_perm(permission) or (session is not None and has_perm(permission, session))
