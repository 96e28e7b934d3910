"""Names of the places that hold personal data, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.apps import apps
from django.utils.translation import gettext_lazy as _

from osvi_django.services.privacy.erasure import LOGINS, SPOOL
from osvi_django.services.privacy.history import HISTORY

_OTHER_PLACES: Final[Mapping[str, Any]] = {
    SPOOL: _("files that wait in the spool"),
    HISTORY: _("entries of the history"),
    LOGINS: _("login sessions with texts that were not sent"),
}


def name_of_place(place: str) -> Any:
    """Return the name of a place of an erasure."""
    if place in _OTHER_PLACES:
        return _OTHER_PLACES[place]
    return apps.get_model("osvi_django", place)._meta.verbose_name_plural  # noqa: SLF001  # documented
