"""Say in words what staff have selected in the list of sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.contrib.admin import ModelAdmin
from django.contrib.admin.views.main import ChangeList
from django.http import HttpRequest
from django.utils.text import Truncator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

SELECTION_MAX_LENGTH: Final = 500
TICKED: Final = _lazy("ticked in the list")
# Filters whose choices say enough by themselves, and those whose titles begin the sentence.
_PLAIN: Final = ("status", "link")
_BEGINNING: Final = ("quiet", "taken_over", "closed_by")


def selection_of(model_admin: ModelAdmin[Any], request: HttpRequest) -> str:
    """Return by which filters all rows of a list were selected, or that they were ticked."""
    if request.POST.get("select_across", "0") != "1":
        return str(TICKED)
    return words_of_list(model_admin.get_changelist_instance(request))


def words_of_list(changelist: ChangeList) -> str:
    """Return by which filters the rows of a list were chosen."""
    words = list(_words_of(changelist))
    if changelist.query:  # what was searched for may be a person's number
        words.append(_("found by a search"))
    said = ", ".join(words) or _("the whole list")
    return Truncator(said).chars(SELECTION_MAX_LENGTH)


def _words_of(changelist: ChangeList) -> Iterator[str]:
    for spec in changelist.filter_specs:
        name, title = getattr(spec, "parameter_name", ""), str(spec.title)
        # The first choice of each filter is that it is not used.
        chosen = [each for each in list(spec.choices(changelist))[1:] if each.get("selected")]
        yield from (_phrase(name, title, str(each["display"])) for each in chosen)
        # A value that is no longer offered, or a host's filter with fields in place of choices.
        if not chosen and any(getattr(spec, "used_parameters", {}).values()):
            yield _("filtered by %(field)s") % {"field": title}


def _phrase(name: str, title: str, choice: str) -> str:
    if name in _PLAIN:
        return choice
    return f"{title} {choice}" if name in _BEGINNING else f"{title}: {choice}"
