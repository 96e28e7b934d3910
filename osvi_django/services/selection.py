"""Which sessions a filter means: doors that close many at once ask here."""

from __future__ import annotations

from collections.abc import Collection
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Final

from django.db import router
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput, NotAllowed
from osvi_django.models import ID_MAX_LENGTH, ChatSession
from osvi_django.services.mirroring import exactly, is_storable_id
from osvi_django.services.permissions import may_view
from osvi_django.services.steps import User
from osvi_django.services.times import as_stored

NOT_CLOSED: Final = tuple(
    status for status in ChatSession.Status if status != ChatSession.Status.CLOSED
)


def select_sessions(
    *,
    statuses: Collection[str] = NOT_CLOSED,
    agent_uuid: str | None = None,
    customer_id: str | None = None,
    started_before: datetime | None = None,
    unchanged_since: datetime | None = None,
    requested_by: User | None = None,
) -> QuerySet[ChatSession]:
    """The sessions for which all of this is so; None says nothing, and an empty id is an error.

    What one may not see one may not choose by: raises ``NotAllowed``, and ``InvalidInput``.
    """
    if requested_by is not None and not may_view(requested_by):
        raise NotAllowed(
            _("You do not have the permission to see chat sessions, so name those to close by id.")
        )
    wanted = Q(status__in=statuses)
    if agent_uuid is not None:
        wanted &= exactly("agent__uuid", require_id("agent_uuid", agent_uuid))
    if customer_id is not None:
        wanted &= exactly("customer_id", require_id("customer_id", customer_id))
    if started_before is not None:
        wanted &= Q(started_at__lt=_as_stored(started_before, named="started_before"))
    if unchanged_since is not None:
        wanted &= Q(updated_at__lt=_as_stored(unchanged_since, named="unchanged_since"))
    return ChatSession.objects.using(router.db_for_write(ChatSession)).filter(wanted)


def require_id(named: str, value: object) -> str:
    """The value, where it can be one of OSVI's ids. Raises ``InvalidInput``."""
    if not is_storable_id(value):
        problem = _("%(named)s is not an id that OSVI gave: it has 1 to %(length)d characters.")
        raise InvalidInput(problem % {"named": named, "length": ID_MAX_LENGTH}, field=named)
    return value


def _as_stored(moment: datetime, *, named: str) -> datetime:
    if moment.year in {MINYEAR, MAXYEAR}:  # in another zone it may be no moment any more
        raise InvalidInput(_("%(named)s is too far away.") % {"named": named}, field=named)
    return as_stored(moment)
