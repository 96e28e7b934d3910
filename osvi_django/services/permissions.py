"""Who may do what: the only place that every entry point asks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.contrib.auth import get_backends, get_user_model
from django.contrib.auth.models import PermissionsMixin
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from osvi_django.database import exact_match
from osvi_django.exceptions import NotAllowed, SessionNotFound
from osvi_django.models import ChatSession, CloseJob, CloseJobItem
from osvi_django.services.access import (
    Purpose,
    allowed_sessions,
    condition_inside,
    is_inside,
    is_narrowed,
    keys_inside,
)
from osvi_django.validation import is_storable

CLOSE: Final = "osvi_django.close_chatsession"
OPERATE: Final = "osvi_django.operate_chatsession"
ERASE: Final = "osvi_django.erase_customer"
VIEW: Final = "osvi_django.view_chatsession"
VIEW_SUMMARY: Final = "osvi_django.view_sessionsummary"
VIEW_JOB: Final = "osvi_django.view_closejob"
EXPORT: Final = "osvi_django.export_chatsession"

# What each permission is for, as the host's function gets it.
_PURPOSES: Final[Mapping[str, Purpose]] = {
    CLOSE: Purpose.CLOSE,
    OPERATE: Purpose.OPERATE,
    VIEW: Purpose.VIEW,
    VIEW_SUMMARY: Purpose.VIEW_SUMMARY,
}
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


def readable_summaries(user: Any, sessions: Iterable[ChatSession]) -> set[int]:
    """Return the keys of those of these sessions in which ``user`` may read what was said."""
    readable = [each.pk for each in sessions if is_permitted(user, VIEW_SUMMARY, each)]
    return keys_inside(readable, user, Purpose.VIEW_SUMMARY)


def require_close(user: Any, session: ChatSession | None = None) -> None:
    """Raise ``NotAllowed`` if ``user`` may not close; None is the host's own code, and may.

    For a session outside the access of ``user``, raises ``SessionNotFound``, as for one that does
    not exist. The permission of a caller that cannot be loaded again was checked when its job was
    made.
    """
    _require(user, CLOSE, session)


def may_operate(user: Any, session: ChatSession | None = None) -> bool:
    """Return whether ``user`` may start sessions, write in them and guide their agents."""
    return _may(user, OPERATE, session)


def require_operate(user: Any, session: ChatSession | None = None) -> None:
    """Raise ``NotAllowed`` or ``SessionNotFound`` if ``user`` may not operate; None may."""
    _require(user, OPERATE, session, _("You do not have permission to operate chat sessions."))


def require_view(user: Any, session: ChatSession | None = None) -> None:
    """Raise ``NotAllowed`` or ``SessionNotFound`` if ``user`` may not see sessions; None may."""
    _require(user, VIEW, session, _("You do not have permission to see chat sessions."))


def is_permitted(user: Any, permission: str, session: ChatSession | None = None) -> bool:
    """Return whether ``user`` has a permission, or has it for this session.

    Whether the session is inside the access of ``user`` is another question. Django's own backend
    knows no object permissions, and other backends may know nothing else.
    """
    has_perm = getattr(user, "has_perm", None)
    if has_perm is None:
        return False
    if session is None:
        return bool(has_perm(permission))
    if not has_perm(permission):
        return bool(has_perm(permission, session))
    return not is_refused(user, permission, session)


def may_export(user: Any) -> bool:
    """Return whether ``user`` may see sessions, and may take a file of them along."""
    return _may(user, EXPORT, None) and _may(user, VIEW, None)


def require_export(user: Any) -> None:
    """Raise ``NotAllowed`` if ``user`` may not export; None is the host's own code, and may."""
    if user is not None and not may_export(user):
        raise NotAllowed(_("You do not have permission to export chat sessions."))


def may_erase(user: Any) -> bool:
    """Return whether ``user`` may export and erase all data of a customer, and keep chats."""
    return _may(user, ERASE, None)


def require_erase(user: Any) -> None:
    """Raise ``NotAllowed`` if ``user`` may not erase customers; None is the host's own code."""
    if user is None or may_erase(user):
        return
    raise NotAllowed(_("You do not have permission to export or erase the data of customers."))


def may_view_all_jobs(user: Any) -> bool:
    """Return whether ``user`` may see the jobs of others as well."""
    return is_permitted(user, VIEW_JOB)


def purpose_of(user: Any) -> Purpose:
    """Return for what a user sees sessions in pages: to view them, or what else they may."""
    if may_view(user):
        return Purpose.VIEW
    if may_operate(user):
        return Purpose.OPERATE
    return Purpose.CLOSE if may_close(user) else Purpose.VIEW


def visible_jobs(user: Any) -> QuerySet[CloseJob]:
    """Return the jobs that ``user`` may see: their own, or with the permission all jobs.

    Their own include retries by others of what failed in one of theirs. They are read from the
    database they are written to, so that a new one is there at once. If the host narrows what
    ``user`` may see, the jobs of others are seen that have only sessions inside it.
    """
    jobs = CloseJob.objects.using(router.db_for_write(CloseJob))
    sees_all = may_view_all_jobs(user)
    if sees_all and not is_narrowed(user):
        return jobs
    others = _jobs_inside(user, using=jobs.db) if sees_all else None
    if not requester_of(user).key:
        return jobs.none() if others is None else jobs.filter(others)
    own = _asked_by(user) | _asked_by(user, of="retry_of__")
    return jobs.filter(own if others is None else own | others)


def visible_items(items: QuerySet[CloseJobItem], user: Any) -> QuerySet[CloseJobItem]:
    """Return those of a job's items that ``user`` may see, who may see the job.

    Those are of sessions inside the access of ``user``, to view or else to close, and of ids that
    this site does not know.
    """
    purpose = Purpose.VIEW if may_view(user) else Purpose.CLOSE
    allowed = allowed_sessions(user, purpose, using=items.db)
    if allowed is None:
        return items
    return items.filter(Q(session__isnull=True) | Q(session__in=allowed))


def _jobs_inside(user: Any, *, using: str) -> Q:
    """Return the condition for jobs that have sessions, all of them inside the access of a user."""
    items = CloseJobItem.objects.filter(job=OuterRef("pk")).order_by()
    inside = condition_inside(user, Purpose.VIEW, path="session", using=using)
    return Q(Exists(items)) & ~Q(Exists(items.exclude(inside)))


def require_job(user: Any, job: CloseJob) -> None:
    """Raise ``NotAllowed`` if ``user`` may not decide about this job; None may."""
    if user is None or is_requester(user, job):
        return
    decides = may_view_all_jobs(user) and may_close(user)
    if not decides or (is_narrowed(user) and not visible_jobs(user).filter(pk=job.pk).exists()):
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


def is_user(user: Any, key: Any) -> bool:
    """Return whether this caller is the user of this site with this key."""
    return key is not None and _is_user_row(user) and user.pk == key


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _key_of(user: Any) -> str:
    """Return the first key that a caller has, as text; "" for a caller without a name."""
    names = (getattr(user, each, None) for each in ("pk", "id", "username", "name"))
    return next((str(name) for name in names if name not in {None, ""}), "")


def _fitting(text: str) -> str:
    """Return a text that every database can store and compare, different for different texts."""
    if len(text) <= _LENGTH and is_storable(text):
        return text
    return "sha256:" + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _may(user: Any, permission: str, session: ChatSession | None) -> bool:
    if not is_permitted(user, permission, session):
        return False
    return session is None or is_inside(session, user, _PURPOSES[permission])


def _require(user: Any, permission: str, session: ChatSession | None, sentence: str = "") -> None:
    if user is None:
        return
    is_outside = session is not None and not is_inside(session, user, _PURPOSES[permission])
    about = None if is_outside else session
    if not (isinstance(user, Requester) or is_permitted(user, permission, about)):
        raise NotAllowed(sentence) if sentence else NotAllowed
    if is_outside:
        raise SessionNotFound


def is_refused(user: Any, permission: str, session: ChatSession) -> bool:
    """Return whether a backend of the host refuses this session, as Django lets it do."""
    is_asked = isinstance(user, PermissionsMixin) and not user.is_superuser
    if not is_asked:
        return False
    backends = (each for each in get_backends() if hasattr(each, "has_perm"))
    try:
        # As Django asks them: the first one that grants or refuses it decides.
        any(each.has_perm(user, permission, obj=session) for each in backends)
    except PermissionDenied:
        return True
    return False
