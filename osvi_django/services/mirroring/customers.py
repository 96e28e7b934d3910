"""Look up which sessions a customer has open."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import router
from django.db.models import (
    F,
    Q,
    QuerySet,
)
from django.utils import timezone

from osvi_django import clock
from osvi_django.client.responses import (
    RemoteSession,
)
from osvi_django.conf import DEFAULT_ACCOUNT
from osvi_django.database import exact_match, refuse_inside_transaction
from osvi_django.exceptions import (
    generic_messages,
)
from osvi_django.models import (
    ChatSession,
)
from osvi_django.redaction import hides
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, is_narrowed, sessions_inside
from osvi_django.services.attempts.clients import client_of
from osvi_django.services.attempts.sync_limit import waiting_slot
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.attempts.types import (
    RequestOrigin,
    Status,
    User,
)
from osvi_django.services.mirroring.probing import probe_sessions
from osvi_django.services.mirroring.sessions import (
    CloseReason,
    ids_of,
    is_as_stored,
    mirror_remote,
    record_remote_closes,
)
from osvi_django.services.permissions import require_operate
from osvi_django.validation import checks_types, require_customer


@dataclass(frozen=True, kw_only=True)
class LookedUp:
    """What a customer has open, newest first, after OSVI was asked.

    ``listed``: how many OSVI lists as active; ``dormant``: how many others are still open there;
    ``unknown``: how many others OSVI did not say anything about.
    """

    sessions: Sequence[ChatSession]
    listed: int
    dormant: int
    unknown: int


@hides("customer_id")
@checks_types
def sync_customer(
    customer_id: str,
    *,
    account: str | None = None,
    requested_by: User | None = None,
    via: str = "code",
) -> list[ChatSession]:
    """Return the ``sessions`` of ``look_up_customer``, as a list."""
    found = look_up_customer(customer_id, account=account, requested_by=requested_by, via=via)
    return list(found.sessions)


@checks_types
def look_up_customer(
    customer_id: str,
    *,
    account: str | None = None,
    requested_by: User | None = None,
    via: str = "code",
) -> LookedUp:
    """Mirror all that a customer has open at OSVI; return it with counts of what OSVI lists.

    An open session that OSVI does not list is closed here, without a summary, if OSVI lists a later
    one of the same agent or refuses to pause it. If it can be paused it is only dormant: it becomes
    dormant here too, and closing it returns its summary. If OSVI does not say, it stays as it is.
    All of this is mirrored; returned and counted is what is inside the access of ``requested_by``.

    If ``account`` is not named it is ``"default"``: a customer may have sessions in each account.
    Raises the same as ``start_session``.
    """
    account = DEFAULT_ACCOUNT if account is None else account
    with generic_messages(is_read_only=True):
        refuse_inside_transaction(router.db_for_write(ChatSession))
        require_operate(requested_by)
        by = RequestOrigin(requested_by=requested_by, via=via, note="")
        require_customer(customer_id)
        client = client_of(account)
    with waiting_slot(via), throttling(client, account) as throttle:
        asked_at, sent_at = timezone.now(), clock.monotonic()
        with generic_messages(is_read_only=True):
            remotes = client.active_sessions(customer_id)
        throttle.record_success(sent_at)
        probed = probe_sessions(
            client, sessions_to_probe(customer_id, remotes, account=account, asked_at=asked_at)
        )
    apply_active_sessions(
        customer_id, remotes, account=account, asked_at=asked_at, probed=probed, by=by
    )
    seen = sessions_inside(of_customer(customer_id, account), requested_by, Purpose.OPERATE)
    sessions = seen.filter(status__in=ChatSession.OPEN)
    found = list(sessions.order_by("-started_at", "-id"))
    listed = len(remotes)
    if is_narrowed(requested_by):
        listed = seen.filter(session_id__in=ids_of(remotes)).count()
    return _looked_up(found, remotes, probed, listed=listed)


def sessions_to_probe(
    customer_id: str, remotes: Mapping[str, RemoteSession], *, account: str, asked_at: datetime
) -> list[ChatSession]:
    """Return the sessions that OSVI did not list, to check whether they are closed.

    Those not checked for the longest time come first. The arguments are those of
    ``apply_active_sessions``.
    """
    unlisted = no_longer_listed(customer_id, remotes, account, asked_at)
    # A customer has at most one active session with an agent: an earlier one is surely closed.
    followed = Q(status=Status.ACTIVE, agent__uuid__in=list(remotes))
    askable = unlisted.exclude(followed).exclude(agent__uuid=None).defer("metadata")
    return list(askable.order_by(F("synced_at").asc(nulls_first=True), "pk"))


def apply_active_sessions(
    customer_id: str,
    remotes: Mapping[str, RemoteSession],
    *,
    account: str,
    asked_at: datetime,
    probed: Mapping[int, bool],
    by: RequestOrigin,
    left: Collection[int] = (),
) -> list[ChatSession]:
    """Mirror what OSVI listed for a customer, by agents' UUIDs, when asked at ``asked_at``.

    ``probed``: for sessions that it did not list, by their keys, whether they are closed; ``left``:
    the keys of those that were left as they are on purpose; ``by``: who asked. Raises
    ``OSVIBadAnswer`` if something that it listed cannot be a session.
    """
    found = [
        mirror_remote(remote, account=account, agent_uuid=agent_uuid, by=by, asked_at=asked_at)
        for agent_uuid, remote in remotes.items()
    ]
    unlisted = no_longer_listed(customer_id, remotes, account, asked_at)
    followed = unlisted.filter(status=Status.ACTIVE, agent__in={each.agent_id for each in found})
    record_remote_closes(list(followed), by, CloseReason.LATER_CHAT)
    store_probed(unlisted, probed, by)
    unknown = unlisted.exclude(agent__uuid=None).exclude(pk__in=[*probed, *left])
    sessions = of_customer(customer_id, account).exclude(status=Status.CLOSED)
    sessions.exclude(pk__in=list(unknown.values_list("pk", flat=True))).update(synced_at=asked_at)
    return found


def open_sessions_of(customer_id: str, account: str) -> list[ChatSession]:
    """Return what a customer has open here."""
    sessions = of_customer(customer_id, account).filter(status__in=ChatSession.OPEN)
    return list(sessions.select_related(None).select_related("agent"))


def unlisted_if_unchanged(
    sessions: Sequence[ChatSession], remotes: Mapping[str, RemoteSession]
) -> list[ChatSession] | None:
    """Return those of a customer's sessions that OSVI does not list, if they were dormant before.

    None if anything has changed: then it must be stored.
    """
    of = {each.session_id: each for each in sessions}
    listed = [(of.pop(remote.session_id, None), remote) for remote in remotes.values()]
    is_same = all(session and is_as_stored(session, remote) for session, remote in listed)
    unlisted = list(of.values())
    is_same = is_same and all(each.status == Status.DORMANT for each in unlisted)
    return unlisted if is_same else None


def store_unchanged(keys: Collection[int], asked_at: datetime) -> None:
    """Store when sessions of which nothing has changed were looked up."""
    sessions = selectors.all_sessions()
    sessions.filter(pk__in=keys).update(synced_at=asked_at)


def store_probed(
    unlisted: QuerySet[ChatSession], probed: Mapping[int, bool], by: RequestOrigin
) -> None:
    """Close the sessions that OSVI said are closed, and make the others dormant."""
    closed = {key for key, is_closed in probed.items() if is_closed}
    record_remote_closes(list(unlisted.filter(pk__in=closed)), by, CloseReason.NOT_LISTED)
    # OSVI cannot be asked about sessions of an agent without a UUID.
    dormant = unlisted.filter(
        Q(pk__in=probed.keys() - closed) | Q(agent__uuid=None), status=Status.ACTIVE
    )
    dormant.update(status=Status.DORMANT)


def no_longer_listed(
    customer_id: str, remotes: Mapping[str, RemoteSession], account: str, asked_at: datetime
) -> QuerySet[ChatSession]:
    """Return sessions that are open here and not listed, and unchanged since OSVI was asked."""
    sessions = of_customer(customer_id, account)
    known = sessions.filter(status__in=ChatSession.OPEN, updated_at__lt=asked_at)
    return known.exclude(session_id__in=ids_of(remotes))


def _looked_up(
    sessions: Sequence[ChatSession],
    remotes: Mapping[str, RemoteSession],
    probed: Mapping[int, bool],
    *,
    listed: int,
) -> LookedUp:
    ids = ids_of(remotes)
    others = [each for each in sessions if each.session_id not in ids]
    dormant = [
        each
        for each in others
        if each.status == Status.DORMANT and (each.pk in probed or not each.agent.uuid)
    ]
    return LookedUp(
        sessions=sessions,
        listed=listed,
        dormant=len(dormant),
        unknown=len(others) - len(dormant),
    )


def of_customer(customer_id: str, account: str) -> QuerySet[ChatSession]:
    alias = router.db_for_write(ChatSession)
    sessions = ChatSession.objects.using(alias).select_related("agent", "summary", "taken_over_by")
    return sessions.filter(exact_match("customer_id", customer_id), agent__account=account)
