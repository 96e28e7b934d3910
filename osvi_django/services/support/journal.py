"""The journal of support actions: find them, and write what happens to one."""

from __future__ import annotations

import logging
import uuid
from datetime import timedelta
from typing import Any, Final

from django.db import Error, router
from django.db.models import F, QuerySet
from django.utils import timezone

from osvi_django import database
from osvi_django.client.responses import Answer, names_another
from osvi_django.database import persist, safe_error_name
from osvi_django.exceptions import OSVIError, OSVINotConfigured, error_reason
from osvi_django.models import ChatSession, SupportAction
from osvi_django.redaction import HiddenText
from osvi_django.services import selectors
from osvi_django.services.attempts import error_policy
from osvi_django.services.support.actions import ActionOutcome
from osvi_django.validation import checks_types

logger = logging.getLogger(__name__)

_ANSWER_MAX: Final = 100_000  # characters
# No call takes so long.
SURELY_OVER: Final = timedelta(days=2)


@checks_types
def actions_of(session: ChatSession) -> QuerySet[SupportAction]:
    """Return what was done in a session, read from the database it is written to."""
    return all_actions().filter(session=session)


def action_of_form(session: ChatSession, form_key: uuid.UUID | None) -> SupportAction | None:
    """Return the action of the form with this key in a session, done or in progress."""
    if form_key is None:
        return None
    return actions_of(session).filter(form_key=form_key).defer("answer").first()


def all_actions() -> QuerySet[SupportAction]:
    """Return all actions, read from the database they are written to."""
    return SupportAction.objects.using(router.db_for_write(SupportAction))


def actions_beside(session: ChatSession) -> QuerySet[SupportAction]:
    """Return all actions in the database of this session."""
    return SupportAction.objects.using(selectors.using(session))


def lock_session(session: ChatSession) -> None:
    """Keep others from writing to a session until the caller's transaction ends.

    By an UPDATE that changes nothing: in SQLite, a transaction that has read cannot start to write.
    """
    selectors.rows(session).update(active_human=F("active_human"))


def store_answer(action: SupportAction, answer: Answer) -> None:
    """Store OSVI's answer before it is parsed, but nothing about another session."""
    is_anothers = names_another(answer, action.session.session_id)
    text = "" if is_anothers else stored_text(answer)
    change_action(action, http_status=answer.status, answer=text)


def stored_text(answer: Answer) -> str:
    """Return as much of an answer as is stored."""
    return HiddenText(answer.text[:_ANSWER_MAX])


def fail_action(action: SupportAction, error: OSVIError | OSVINotConfigured) -> None:
    """Store why an action was not done, or may not have been; the error names the action."""
    error.action = action
    outcome = ActionOutcome(error_policy.attempt_outcome(error).value)
    changes: dict[str, Any] = {"error_code": error.code, "error_reason": error_reason(error)}
    if outcome not in SupportAction.UNKNOWN:
        changes["form_key"] = None  # nothing was done, so the same form may be sent again
    logger.warning("action %s of session %s: %s", action.pk, action.session_id, error.code)
    change_action(action, outcome=outcome, finished_at=timezone.now(), **changes)


def change_action(action: SupportAction, **changes: Any) -> None:
    """Change an action in memory and in the database, and only log if that is unavailable."""
    for name, value in changes.items():
        setattr(action, name, value)
    alias = selectors.using(action.session)
    rows = SupportAction.objects.using(alias).filter(pk=action.pk)
    try:
        persist(lambda: rows.update(**changes), using=alias, patience=database.PATIENCE_BEFORE)
    except Error as error:
        logger.error("action %s could not be written: %s", action.pk, safe_error_name(error))
