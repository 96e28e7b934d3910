"""Refuse to send what may have been sent before: the same text, or the same form."""

from __future__ import annotations

from osvi_django.database import exact_match
from osvi_django.exceptions import SentBefore
from osvi_django.models import SupportAction
from osvi_django.services.support.actions import ActionOutcome
from osvi_django.services.support.journal import actions_beside, lock_session


def is_written(action: SupportAction) -> bool:
    """Return whether an earlier try was committed without our learning of it."""
    if action.pk is None:
        return False
    lock_session(action.session)
    # On SQLite, the key of a row that is rolled back is given to the next one.
    rows = actions_beside(action.session).filter(pk=action.pk, started_at=action.started_at)
    return rows.exists()


def refuse_same_form(action: SupportAction) -> None:
    """Raise ``SentBefore`` if another action has the key of this one, which is not written."""
    if action.form_key is None:
        return
    first = actions_beside(action.session).filter(form_key=action.form_key).first()
    if first is not None:
        error = SentBefore(SentBefore.same_form)
        error.action = first if first.session_id == action.session_id else None
        raise error from None


def refuse_same_text(action: SupportAction) -> None:
    """Raise ``SentBefore`` if the outcome of the same text is unknown.

    In the caller's transaction. A concurrent caller waits here, and then finds what was written.
    """
    lock_session(action.session)
    last = _last_with_same_text(action)
    if last is not None and last.outcome in SupportAction.UNKNOWN:
        error = SentBefore()
        error.action = last
        raise error


def _last_with_same_text(action: SupportAction) -> SupportAction | None:
    """Return the last action with the same text in this session that was or may have been sent."""
    actions = actions_beside(action.session).defer("answer")
    same = actions.filter(
        exact_match("text", action.text), session=action.session, kind=action.kind
    )
    sent = same.filter(outcome__in=(*SupportAction.UNKNOWN, ActionOutcome.DONE))
    return sent.order_by("-started_at", "-id").first()
