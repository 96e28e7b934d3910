"""Start a session with an agent."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import IntegrityError, router
from django.utils import timezone
from django.utils.translation import gettext as _

from osvi_django import clock, database
from osvi_django.client import OSVIClient
from osvi_django.client.validation import start_payload
from osvi_django.database import exact_match, persist, refuse_inside_transaction
from osvi_django.exceptions import (
    AlreadyOpen,
    OSVIBadAnswer,
    OSVINoAnswer,
    generic_messages,
)
from osvi_django.models import (
    ChatSession,
    SupportAction,
)
from osvi_django.redaction import hides
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, is_inside
from osvi_django.services.attempts import claims
from osvi_django.services.attempts.sync_limit import waiting_slot
from osvi_django.services.attempts.throttling import throttling
from osvi_django.services.attempts.types import (
    RequestOrigin,
    Status,
    User,
)
from osvi_django.services.closing import close_session
from osvi_django.services.mirroring.agents import account_of
from osvi_django.services.mirroring.customers import no_longer_listed, of_customer, store_probed
from osvi_django.services.mirroring.probing import probe_sessions
from osvi_django.services.mirroring.sessions import (
    CloseReason,
    mirror_remote,
    record_remote_closes,
    refuse_form_sent_before,
)
from osvi_django.services.permissions import requester_fields, require_operate
from osvi_django.services.sharing import earlier_summaries, number_to_share
from osvi_django.services.start_locks import start_lock
from osvi_django.validation import (
    checks_types,
    require_customer,
    require_id,
    storable,
    uuid_or_none,
)

ActionKind = SupportAction.Kind


@hides("customer_id", "input_fields", "context", "note")
@checks_types
def start_session(
    *,
    agent_uuid: str,
    customer_id: str,
    input_fields: Mapping[str, Any] | None = None,
    context: Sequence[str] | None = None,
    account: str | None = None,
    replace: bool = False,
    note: str = "",
    close_reason: str = "",
    requested_by: User | None = None,
    via: str = "code",
    form_key: uuid.UUID | None = None,
) -> ChatSession:
    """Start a session at OSVI, mirror it, and write down who started it.

    A start ends what the customer has open with this agent, so OSVI is asked about that first:
    raises ``AlreadyOpen`` if there is such a chat. With ``replace`` it is closed before the start,
    as by ``close_session`` with this ``note`` and ``close_reason``, which keeps its summary and
    requires the permission to close; if that close fails, its error is raised and nothing is
    started.

    Of all calls with the same ``form_key``, a UUID of the form or the task that asks, one starts a
    session, so that a second one does not replace it: the others raise ``SentBefore``.

    If the setting ``SHARE_SUMMARIES`` says so, the customer's latest summaries are given to OSVI
    before ``context``, as far as ``requested_by`` may read them.

    If ``account`` is not named it is the one that knows the agent, else ``"default"``. Raises
    ``NotAllowed``, ``InvalidInput``, ``InsideTransaction``, ``Busy`` and what the client raises.
    """
    with generic_messages():
        refuse_inside_transaction(router.db_for_write(ChatSession))
        require_operate(requested_by)
        by = RequestOrigin(requested_by=requested_by, via=via, note="")
        form_key = uuid_or_none("form_key", form_key)
        require_id("agent_uuid", agent_uuid)
        require_customer(customer_id)
        account = account_of(agent_uuid, account, by=requested_by)
        client, terms = claims.prepare(account)
        given: dict[str, Any] = {"input_fields": input_fields, "context": context or ()}
        start_payload(agent_uuid=agent_uuid, customer_id=customer_id, **given)
        shared = number_to_share(account, own=len(given["context"]))
    start = _Start(client=client, account=account, agent_uuid=agent_uuid, customer_id=customer_id)
    with (
        waiting_slot(via),
        throttling(client, account) as throttle,
        start_lock(account, agent_uuid, customer_id, terms=terms) as lock,
    ):
        refuse_form_sent_before(form_key)
        began = timezone.now()
        if old := _open_session(start, by):
            if not replace:
                raise _already_open(old, requested_by)
            lock.renew()
            if not is_inside(old, requested_by, Purpose.CLOSE):
                raise _already_open(old, requested_by)
            why = {"note": note, "close_reason": close_reason}
            close_session(old, requested_by=requested_by, via=via, **why)
            lock.renew()
            _require_no_other(old, start, by)
        lock.renew()
        _settle_unlisted(start, by, began)
        lock.renew()
        # The chat that was closed above is one of those whose summaries are shared.
        known = earlier_summaries(
            customer_id, account=account, number=shared, requested_by=requested_by
        )
        given["context"] = [*known, *given["context"]]
        sent_at = clock.monotonic()
        with generic_messages():
            remote = client.create_session(agent_uuid=agent_uuid, customer_id=customer_id, **given)
        throttle.record_success(sent_at)
        session = mirror_remote(remote, account=account, agent_uuid=agent_uuid, by=by)
        _write_start(session, given["context"], by, began, form_key)
    _close_all_but_the_last(session, by, began)
    return session


@dataclass(frozen=True, kw_only=True)
class _Start:
    """The customer and agent of the session to start, and who asks for it."""

    client: OSVIClient
    account: str
    agent_uuid: str
    customer_id: str


def _open_session(start: _Start, by: RequestOrigin) -> ChatSession | None:
    """Return the mirrored session that OSVI has open for the customer and agent, or None.

    Raises what the client raises for a call that changes nothing.
    """
    asked_at = timezone.now()
    with _before_a_start():
        remote = start.client.active_session(start.customer_id, agent_uuid=start.agent_uuid)
        if remote is None:
            return None
        return mirror_remote(
            remote,
            account=start.account,
            agent_uuid=start.agent_uuid,
            by=by,
            asked_at=asked_at,
        )


def _require_no_other(old: ChatSession, start: _Start, by: RequestOrigin) -> None:
    """Raise ``AlreadyOpen`` if another chat was started while the earlier one was being closed."""
    another = _open_session(start, by)
    # A session that is closed here cannot be closed again, whatever OSVI still lists.
    if another is not None and another.pk != old.pk:
        raise _already_open(another, by.requested_by)


def _settle_unlisted(start: _Start, by: RequestOrigin, asked_at: datetime) -> None:
    """Find out whether sessions that are active here and not listed are closed or dormant.

    The start does not end these; without this check, they would look as if it had.
    """
    unlisted = no_longer_listed(start.customer_id, {}, start.account, asked_at)
    sessions_to_probe = unlisted.filter(
        exact_match("agent__uuid", start.agent_uuid), status=Status.ACTIVE
    )
    if sessions := list(sessions_to_probe):
        probed = probe_sessions(start.client, sessions)
        store_probed(sessions_to_probe.filter(pk__in=list(probed)), probed, by)


def _already_open(session: ChatSession, user: User | None) -> AlreadyOpen:
    """Return the error, which names the session if it is inside the access of the user."""
    if not is_inside(session, user, Purpose.OPERATE):
        return AlreadyOpen()
    error = AlreadyOpen(AlreadyOpen.named % {"session": session.session_id})
    error.session = session
    return error


@contextmanager
def _before_a_start() -> Iterator[None]:
    """Say in an error of the check before a start that nothing was started."""
    try:
        with generic_messages(is_read_only=True):
            yield
    except (OSVINoAnswer, OSVIBadAnswer) as error:
        sentence = _(
            "OSVI did not give a usable answer about the customer's open chats, so no chat was "
            "started. Try again in a moment."
        )
        error.args = (sentence,)
        raise


def _write_start(
    session: ChatSession,
    context: Sequence[str],
    by: RequestOrigin,
    began: datetime,
    form_key: uuid.UUID | None,
) -> None:
    """Write who started it and the agent's context, as if the context came after the start."""
    actions_done = [
        (ActionKind.START, ""),
        *((ActionKind.CONTEXT, storable(each)) for each in context),
    ]
    actions = [
        SupportAction(
            session=session,
            kind=kind,
            text=text,
            **requester_fields(by.requested_by),
            via=by.via,
            outcome=SupportAction.Outcome.DONE,
            started_at=began,
            finished_at=timezone.now(),
        )
        for kind, text in actions_done
    ]
    journal = SupportAction.objects.using(selectors.using(session))

    def work() -> None:
        # An earlier try may have been committed without our learning of it.
        if not journal.filter(session=session, kind=ActionKind.START, started_at=began).exists():
            for action in actions:
                action.pk = None
            journal.bulk_create(actions)

    actions[0].form_key = form_key
    try:
        persist(work, using=journal.db, patience=database.PATIENCE_BEFORE)
    except IntegrityError:  # the key is another form's: the session is started anyway
        actions[0].form_key = None
        persist(work, using=journal.db, patience=database.PATIENCE_BEFORE)


def _close_all_but_the_last(session: ChatSession, by: RequestOrigin, began: datetime) -> None:
    """Close here what OSVI closed for a later chat of the customer with this agent.

    Those are the sessions that others, who do not use this site, have started since OSVI was asked
    what is open: all but the one that OSVI started last. ``session`` may be one of them.
    """
    others = of_customer(session.customer_id, session.agent.account)
    others = others.filter(agent=session.agent, status=Status.ACTIVE, created_at__gte=began)
    others = others.exclude(pk=session.pk)
    followed = list(others.filter(started_at__lt=session.started_at))
    if others.filter(started_at__gt=session.started_at).exists():
        followed.append(session)
    for each in followed:  # one at a time, as two processes that lock several may deadlock
        record_remote_closes([each], by, CloseReason.REPLACED)
    if session in followed:
        selectors.reload(session)
