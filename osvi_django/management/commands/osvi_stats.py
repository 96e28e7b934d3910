"""``manage.py osvi_stats``: print the figures."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any, Final

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _

from osvi_django.database import OSVIJSONEncoder
from osvi_django.exceptions import InvalidInput
from osvi_django.management.options import WRONG_ARGUMENTS, option_of, problem_of
from osvi_django.management.output import OSVICommand
from osvi_django.services.statistics import (
    TOP,
    ComparedTimes,
    Figures,
    Share,
    Shares,
    duration_label,
    figures,
)

_OPTIONS: Final = {name: option_of(name) for name in ("first", "last", "top")}


class Command(OSVICommand):
    """Print what is open, what was closed, by whom and how fast."""

    help = _("Print how many chats are open and were closed, by whom and how fast.")
    is_output_required = True

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the days, the number of names, and the format."""
        parser.add_argument(
            "--first",
            metavar="DAY",
            help=_("The first day, such as 2026-01-31; 30 days are usual."),
        )
        parser.add_argument("--last", metavar="DAY", help=_("The last day; today is usual."))
        parser.add_argument(
            "--top",
            type=int,
            default=TOP,
            metavar="N",
            help=_("How many people, agents, reasons and so on are named."),
        )
        parser.add_argument("--json", action="store_true", help=_("Print JSON for a program."))

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the figures of the days that are asked for."""
        days = {name: _day(name, options[name]) for name in ("first", "last")}
        try:
            found = figures(**days, top=options["top"])
        except InvalidInput as error:
            raise CommandError(problem_of(error, _OPTIONS), returncode=WRONG_ARGUMENTS) from None
        if options["json"]:
            self.say(json.dumps(asdict(found), cls=OSVIJSONEncoder))
            return
        for line in _lines(found):
            self.say(line)


def _day(name: str, text: str | None) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        problem = _("--%(name)s needs a day, such as 2026-01-31.") % {"name": name}
        raise CommandError(problem, returncode=WRONG_ARGUMENTS) from None


def _lines(found: Figures) -> Iterator[str]:
    yield _("Open now")
    yield from _columns(((each.number,), each.label) for each in found.open)
    yield from _columns([((found.with_people,), _("of these taken over by people"))])
    longest = duration_label(found.waiting.longest_seconds)
    yield _("Customers who wait for a person now, the first of them since: %(longest)s") % {
        "longest": longest
    }
    yield from _columns(((each.number,), each.label) for each in found.waiting.by_time)
    yield _("Closed today, in the last 7 and in the last 30 days")
    yield from _columns(((each.today, each.week, each.month), each.label) for each in found.recent)
    yield _("Attempts to close that failed in the last 24 hours")
    yield from _columns(
        ((each.number,), f"{each.label}. {each.reason}".rstrip()) for each in found.failures
    )
    yield from _lines_of_range(found)


def _lines_of_range(found: Figures) -> Iterator[str]:
    yield _("Closed from %(first)s to %(last)s; from %(before_first)s to %(before_last)s") % {
        "first": found.days.first,
        "last": found.days.last,
        "before_first": found.before.first,
        "before_last": found.before.last,
    }
    yield from _columns([_pair(found.closed)])
    yield _("By outcome")
    yield from _columns(map(_pair, found.outcomes))
    for title, shares in (
        (_("By person"), found.people),
        (_("By agent"), found.agents),
        (_("By reason"), found.reasons),
        (_("By way"), found.vias),
    ):
        yield title
        yield from _columns(map(_pair, _all_of(shares)))
    yield _("How long OSVI took to close")
    yield from _times(found.close_times)
    yield _("How long customers waited for a person")
    yield from _times(found.help_times)


def _times(times: ComparedTimes) -> Iterator[str]:
    pairs = {
        _("median"): (times.now.median, times.before.median),
        _("95 of 100 within"): (times.now.p95, times.before.p95),
    }
    for label, values in pairs.items():
        yield from _columns([(tuple(map(duration_label, values)), label)])


def _all_of(shares: Shares) -> list[Share]:
    return [*shares.rows, *([shares.others] if shares.others else [])]


def _pair(share: Share) -> tuple[tuple[int, int], str]:
    return (share.number, share.before), share.label


def _columns(rows: Iterable[tuple[Sequence[object], str]]) -> Iterator[str]:
    for values, label in rows:
        yield "".join(f"{value!s:>9}" for value in values) + f"  {label}"
