"""The names of what is counted, and the kinds with the most chats."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from django.contrib.auth import get_user_model
from django.utils.formats import localize
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy

from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services.statistics.types import Share, Shares

Outcome = ChatSession.SummaryStatus
# The size of each unit in seconds, its words, and how many of it are two of the next one.
_UNITS: Final[Sequence[tuple[int, Promise, float]]] = (
    (1, _lazy("%(number)s s"), 2 * 60),
    (60, _lazy("%(number)s min"), 2 * 60),
    (3_600, _lazy("%(number)s h"), 2 * 24),
    (86_400, _lazy("%(number)s d"), math.inf),
)
Counts = Mapping[Any, tuple[int, int]]


class _Name(NamedTuple):
    """What something is called by programs and by people, and the key of its row."""

    key: str | None
    label: str
    pk: Any = None


_VIAS: Final[Mapping[str, Promise]] = {
    "admin": _lazy("the admin"),
    "rest": _lazy("REST"),
    "command": _lazy("a command"),
    "task": _lazy("a task"),
    "recovery": _lazy("recovery"),
    "code": _lazy("this site's own code"),
    "": _lazy("closed by OSVI, or not known"),
}


def outcome_label(value: str) -> str:
    """Return the name of an outcome."""
    if value == Outcome.STORED:
        return _("summary stored")
    return str(Outcome(value).label) if value in Outcome else value


def outcomes_of(counts: Counts) -> list[Share]:
    """Return all outcomes that there are, in the order of the enumeration, and unknown ones."""
    order = [Outcome.STORED, *(each for each in Outcome if each is not Outcome.STORED)]
    known = [each.value for each in order if each.value in counts]
    unknown = sorted(set(counts) - set(known))
    return [_share(each, _Name(each, outcome_label(each)), counts) for each in [*known, *unknown]]


def vias_of(counts: Counts, top: int) -> Shares:
    """Return through what chats were closed."""
    return _largest(
        counts, top, lambda keys: [_Name(key, str(_VIAS.get(key, key))) for key in keys]
    )


def reasons_of(counts: Counts, top: int) -> Shares:
    """Return the reasons for closing."""
    nothing = _("no reason given")
    return _largest(counts, top, lambda keys: [_Name(key, key or nothing) for key in keys])


def people_of(counts: Counts, top: int, *, using: str) -> Shares:
    """Return who closed chats, by the names with which they log in."""

    def names(keys: Sequence[Any]) -> list[_Name]:
        users = get_user_model()._default_manager.using(using)  # noqa: SLF001  # documented
        found = users.in_bulk([key for key in keys if key is not None])
        return [_name_of_user(found.get(key)) for key in keys]

    return _largest(counts, top, names)


def agents_of(counts: Counts, top: int, *, using: str) -> Shares:
    """Return the agents whose chats were closed."""

    def names(keys: Sequence[Any]) -> list[_Name]:
        agents = ChatAgent.objects.using(using)
        found = agents.in_bulk([key for key in keys if key is not None])
        return [_name_of_agent(found.get(key)) for key in keys]

    return _largest(counts, top, names)


def _name_of_user(user: Any) -> _Name:
    if user is None:
        return _Name(None, _("no user"))
    return _Name(str(user.get_username()), str(user.get_username()), user.pk)


def _name_of_agent(agent: ChatAgent | None) -> _Name:
    if agent is None:
        return _Name(None, _("deleted agents"))
    return _Name(agent.uuid, str(agent), agent.pk)


def _largest(counts: Counts, top: int, names: Callable[[Sequence[Any]], Sequence[_Name]]) -> Shares:
    """Return the kinds with the most chats, with their names, and the others together."""
    order = sorted(counts, key=lambda key: (*(-number for number in counts[key]), str(key)))
    shown, rest = order[:top], order[top:]
    named = zip(shown, names(shown), strict=True)
    rows = [_share(key, name, counts) for key, name in named]
    return Shares(rows=rows, others=_others(rest, counts))


def _others(keys: Sequence[Any], counts: Counts) -> Share | None:
    if not keys:
        return None
    now, before = added(counts[key] for key in keys)
    return Share(key=None, label=_("others"), number=now, before=before, kinds=len(keys))


def added(numbers: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the sums of pairs."""
    pairs = list(numbers)
    return sum(now for now, _before in pairs), sum(before for _now, before in pairs)


def _share(key: Any, name: _Name, counts: Counts) -> Share:
    now, before = counts[key]
    return Share(key=name.key, label=name.label, pk=name.pk, number=now, before=before)


def duration_label(seconds: float | None) -> str:
    """Return a duration in a few characters, in the unit that fits it."""
    if seconds is None:
        return "\N{EN DASH}"
    # What is shown decides: two minutes less a second are "2 min" and not "120 s".
    fitting = [unit for unit in _UNITS if _in_two_digits(seconds / unit[0]) < unit[2]]
    size, words, _most = fitting[0]
    return str(words) % {"number": localize(_in_two_digits(seconds / size))}


def _in_two_digits(number: float) -> float:
    shown = float(f"{number:.2g}")
    return int(shown) if shown >= 10 or shown == int(shown) else shown
