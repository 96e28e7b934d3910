"""Keep a chat for longer than its retention says."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

from django.utils import timezone
from django.utils.formats import date_format
from django.utils.translation import gettext as _

from osvi_django.database import site_date
from osvi_django.exceptions import InvalidInput, SessionNotFound
from osvi_django.models import ChatSession
from osvi_django.services import selectors
from osvi_django.services.access import Purpose, is_inside
from osvi_django.services.attempts.types import User
from osvi_django.services.permissions import require_erase
from osvi_django.validation import checks_types

# How far ahead a chat can be kept: a hundred years, most of which have 24 leap days.
MAX_DAYS: Final = 36_524


@checks_types
def keep_session(
    session: ChatSession, until: date | None, *, requested_by: User | None = None
) -> ChatSession:
    """Remove nothing of a session for its age before the end of a day; None ends that.

    The day is one by the time zone of the site. ``session`` is reloaded. Raises ``NotAllowed``,
    ``SessionNotFound``, and ``InvalidInput`` for a day that is over or more than 100 years ahead.
    """
    require_erase(requested_by)
    if requested_by is not None and not is_inside(session, requested_by, Purpose.ERASE):
        raise SessionNotFound
    if until is not None:
        _require_day(until)
    selectors.rows(session).update(keep_until=until)
    selectors.reload(session)
    return session


def _require_day(until: date) -> None:
    """Raise ``InvalidInput`` for a day that is over, which today is not, or too far ahead."""
    first = site_date(timezone.now())
    last = first + timedelta(days=MAX_DAYS)
    if until < first:
        problem = _(
            "This day is over, so the chat would not be kept. Choose a day from %(first)s to "
            "%(last)s."
        )
    elif until > last:
        problem = _("This day is too far in the future. Choose a day from %(first)s to %(last)s.")
    else:
        return
    days = {"first": date_format(first), "last": date_format(last)}
    raise InvalidInput(problem % days, field="until")
