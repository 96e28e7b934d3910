"""Who may do what: the only place that every entry point asks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import router
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from osvi_django.database import exact_match
from osvi_django.exceptions import NotAllowed
from osvi_django.models import ChatSession, CloseJob
from osvi_django.validation import storable

CLOSE: Final = "osvi_django.close_chatsession"
OPERATE: Final = "osvi_django.operate_chatsession"
VIEW: Final = "osvi_django.view_chatsession"
VIEW_SUMMARY: Final = "osvi_django.view_sessionsummary"
VIEW_JOB: Final = "osvi_django.view_closejob"

_LENGTH: Final = 255


@dataclass(frozen=True, kw_only=True)
class Requester:
    """A caller as the journal names it: the model or class of the caller, and its key as text.

    It also stands for a caller that cannot be loaded again when its job runs, such as a stateless
    token: what it was allowed when it asked stays allowed.
    """

    model: str = ""
    key: str = ""


def requester_of(user: Any) -> Requester:
    """Return the names of a caller; both are empty for None, the host's own code.

    A user of this site is named by the label of the user model, and any other caller by the path of
    its class: a user object made from a token is not the user with the same number.
    """
    if user is None or isinstance(user, Requester):
        return user or Requester()
    model = settings.AUTH_USER_MODEL if _is_user_row(user) else _path_of(user.__class__)
    return Requester(model=_fitting(model), key=_fitting(_key_of(user)))


def requester_fields(user: Any) -> dict[str, Any]:
    """Return the fields that say who asked, for a row of a job or of a journal."""
    requester = requester_of(user)
    return {
        "requested_by": user if _is_user_row(user) else None,
        "requester_model": requester.model,
        "requester_key": requester.key,
    }


def requester_for(job: CloseJob) -> Any:
    """Return the caller for whom a job runs: its user, or the name of a caller that is not one."""
    if job.has_requester:
        return job.requested_by
    requester = Requester(model=job.requester_model, key=job.requester_key)
    return requester if requester.model else None


def may_close(user: Any, session: ChatSession | None = None) -> bool:
    """Return whether ``user``, of any model, may close sessions, or this one."""
    return _may(user, CLOSE, session)


def may_view(user: Any, session: ChatSession | None = None) -> bool:
    """Return whether ``user`` may see sessions, or this one, apart from its summary."""
    return _may(user, VIEW, session)


def may_read_summary(user: Any, session: ChatSession | None = None) -> bool:
    """Return whether ``user`` may read what was said in sessions, or in this one."""
    return _may(user, VIEW_SUMMARY, session)


def require_close(user: Any, session: ChatSession | None = None) -> None:
    """Raise ``NotAllowed`` if ``user`` may not close; None is the host's own code, and may.

    The permission of a caller that cannot be loaded again was checked when its job was made.
    """
    if user is None or isinstance(user, Requester):
        return
    if not may_close(user, session):
        raise NotAllowed


def may_operate(user: Any, session: ChatSession | None = None) -> bool:
    """Return whether ``user`` may start sessions, write in them and guide their agents."""
    return _may(user, OPERATE, session)


def require_operate(user: Any, session: ChatSession | None = None) -> None:
    """Raise ``NotAllowed`` if ``user`` may not operate; None is the host's own code, and may."""
    if user is not None and not may_operate(user, session):
        raise NotAllowed(_("You do not have permission to operate chat sessions."))


def may_view_all_jobs(user: Any) -> bool:
    """Return whether ``user`` may see the jobs of others as well."""
    return _may(user, VIEW_JOB, None)


def visible_jobs(user: Any) -> QuerySet[CloseJob]:
    """Return the jobs that ``user`` may see: their own, or with the permission all jobs.

    Their own include retries by others of what failed in one of theirs. They are read from the
    database they are written to, so that a new one is there at once.
    """
    jobs = CloseJob.objects.using(router.db_for_write(CloseJob))
    if may_view_all_jobs(user):
        return jobs
    if not requester_of(user).key:
        return jobs.none()
    return jobs.filter(_asked_by(user) | _asked_by(user, of="retry_of__"))


def require_job(user: Any, job: CloseJob) -> None:
    """Raise ``NotAllowed`` if ``user`` may not decide about this job; None may."""
    if user is None or is_requester(user, job):
        return
    if not (may_view_all_jobs(user) and may_close(user)):
        raise NotAllowed(_("You do not have permission to do this with this close job."))


def is_requester(user: Any, job: CloseJob) -> bool:
    """Return whether ``user`` asked for this job."""
    if _is_user_row(user):
        return bool(job.requested_by_id == user.pk)
    requester = requester_of(user)
    asked = Requester(model=job.requester_model, key=job.requester_key)
    return bool(requester.key) and job.requested_by_id is None and requester == asked


def _asked_by(user: Any, *, of: str = "") -> Q:
    """Return the condition for jobs that ``user`` asked for."""
    if _is_user_row(user):
        return Q(**{f"{of}requested_by": user.pk})
    requester = requester_of(user)
    same = exact_match(f"{of}requester_key", requester.key)
    return same & exact_match(f"{of}requester_model", requester.model)


def _is_user_row(user: Any) -> bool:
    """Return whether this user was read from the database, or written to it."""
    is_user = isinstance(user, get_user_model()) and user.pk is not None
    return is_user and not user._state.adding  # noqa: SLF001  # it is documented


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _key_of(user: Any) -> str:
    """Return the first key that a caller has, as text; "" for a caller without a name."""
    names = (getattr(user, each, None) for each in ("pk", "id", "username", "name"))
    return next((str(name) for name in names if name not in {None, ""}), "")


def _fitting(text: str) -> str:
    """Return a text that every database can store and compare, different for different texts."""
    if len(text) <= _LENGTH and storable(text) == text:
        return text
    return "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _may(user: Any, permission: str, session: ChatSession | None) -> bool:
    # Django's own backend knows no object permissions, and other backends may know nothing else.
    has_perm = getattr(user, "has_perm", None)
    if has_perm is None:
        return False
    return has_perm(permission) or (session is not None and has_perm(permission, session))
