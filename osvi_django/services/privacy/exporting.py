"""Everything that this site stores of one customer, for the customer to have."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, Final

from django.db.models import Model, QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.models import ChatSession, CloseJob, DataExport
from osvi_django.redaction import hides
from osvi_django.services.access import Purpose, is_narrowed, sessions_inside
from osvi_django.services.attempts.types import User
from osvi_django.services.permissions import requester_fields, require_erase
from osvi_django.services.privacy import journal
from osvi_django.services.privacy.erasure import ERASED_BEFORE, KEPT_BY_OSVI, sessions_of
from osvi_django.services.privacy.places import NEUTRAL, OF_SESSION, PERSONAL, Rows
from osvi_django.validation import VIA_MAX_LENGTH, checks_types, require_customer, stripped

# How this site works, and nothing about the customer.
_INTERNAL = frozenset({"id", "claim", "lease_until", "requester_model", "requester_key"})
_STAFF = frozenset({"requested_by", "taken_over_by", "closed_by", "active_human"})

NO_CHATS: Final[Promise | str] = _lazy(
    "This site has no chats of a customer with this id. If that is a surprise, compare the id with "
    "the one that the chats show: each character counts, such as the + of a phone number."
)


@hides("customer_id")
@checks_types
def export_customer(
    customer_id: str,
    *,
    account: str | None = None,
    requested_by: User | None = None,
    via: str = "code",
) -> dict[str, Any]:
    """Return what this site stores of a customer, of one account or of all, by place.

    Of staff it has no names. It is noted in the history of exports. Raises ``NotAllowed`` and
    ``InvalidInput``.
    """
    require_erase(requested_by)
    require_customer(customer_id)
    via = stripped("via", via, VIA_MAX_LENGTH)
    theirs = sessions_inside(
        sessions_of(customer_id, account=account), requested_by, Purpose.EXPORT
    )
    sessions = [_with_rows(each) for each in theirs.iterator()]
    _note(len(sessions), requested_by=requested_by, via=via)
    return {
        "customer_id": customer_id,
        "exported_at": timezone.now(),
        "notice": _notice(customer_id, has_any=bool(sessions), requested_by=requested_by),
        "sessions": sessions,
    }


def _notice(customer_id: str, *, has_any: bool, requested_by: User | None) -> str:
    """Return the sentence for people: what OSVI keeps, or that nothing is here."""
    if has_any:
        return str(KEPT_BY_OSVI)
    was_erased = not is_narrowed(requested_by) and journal.is_erased(customer_id)
    return str(ERASED_BEFORE if was_erased else NO_CHATS)


def _with_rows(session: ChatSession) -> dict[str, Any]:
    return {each.label: list(_rows_of(each, session)) for each in OF_SESSION if _is_theirs(each)}


def _is_theirs(place: Rows) -> bool:
    """Return whether a place is about this customer alone: a job has the chats of others too."""
    return place.model is not CloseJob


def _rows_of(place: Rows, session: ChatSession) -> Iterator[dict[str, Any]]:
    names = columns_of(place.model)
    rows: QuerySet[Any] = place.about(session)
    for row in rows.order_by("pk").values(*names):
        yield {name: _readable(value) for name, value in row.items()}


def columns_of(model: type[Model]) -> list[str]:
    """Return the columns that a customer gets."""
    known = [*PERSONAL[model], *NEUTRAL[model]]
    return [name for name in known if name not in _INTERNAL | _STAFF]


def _readable(value: Any) -> Any:
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(bytes(value)).decode()
    return value


def _note(number: int, *, requested_by: User | None, via: str) -> None:
    DataExport.objects.create(
        file_format=DataExport.Format.JSONL,
        selection=_("one customer"),
        has_words=True,
        rows=number,
        outcome=DataExport.Outcome.COMPLETED,
        finished_at=timezone.now(),
        via=via,
        **requester_fields(requested_by),
    )
