"""What the page of figures shows: each panel has a table, and most have a picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from django.utils.formats import date_format, localize
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy as _lazy
from django.utils.translation import ngettext

from osvi_django.admin.charts import (
    Measure,
    Picture,
    Series,
    horizontal_bars,
    lines,
    stacked_bars,
)
from osvi_django.admin.moments import duration_text
from osvi_django.admin.pages import Way
from osvi_django.models import CloseAttempt
from osvi_django.services.attention import Attention
from osvi_django.services.statistics import (
    ComparedTimes,
    DateRange,
    Figures,
    Share,
    Shares,
    Step,
    duration_label,
)

_NOTHING_CLOSED: Final = _lazy("No chats were closed in these days or in the days before.")
_NO_TIMES: Final = _lazy("No times are known for these days or for the days before.")
_DASH: Final = "\N{EN DASH}"
_MOST_NAMED: Final = 3
# Where the chats of failed attempts are, if they still need a person.
_LISTS_OF_FAILURES: Final = {
    CloseAttempt.Outcome.REJECTED: Attention.REFUSED,
    CloseAttempt.Outcome.NO_ANSWER: Attention.UNCONFIRMED,
}
# The column of the list by which each of these kinds is counted.
_PERSON: Final = "closed_by__id__exact"
_AGENT: Final = "agent__id__exact"
_REASON: Final = "close_reason__exact"
_VIA: Final = "closed_via__exact"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table; ``url``: of the list of what it counts, or "" if there is none."""

    label: str
    cells: Sequence[Any]
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A part of the page. Its table can be unfolded if it is long, and is shown otherwise."""

    name: str
    title: str
    said: str = ""
    headings: Sequence[str] = ()
    rows: Sequence[Row] = ()
    picture: Picture | None = None
    is_folded: bool = False
    is_wide: bool = False
    ways: Sequence[Way] = ()


@dataclass(frozen=True, kw_only=True)
class Lists:
    """The list of chats, to which the numbers link."""

    url: str

    def of(self, **filters: Any) -> str:
        """Return the URL of the list with these filters."""
        return f"{self.url}?{urlencode(filters)}"

    def closed_in(self, days: DateRange, **filters: Any) -> str:
        """Return the URL of the list of the chats that were closed in a range."""
        limits = {"closed_from": days.first.isoformat(), "closed_until": days.last.isoformat()}
        return self.of(**limits, **filters)


def panels_of_now(found: Figures, lists: Lists) -> list[Panel]:
    """Return what does not depend on the range."""
    return [
        _open(found, lists),
        _waiting(found, lists),
        _recent(found, lists),
        _failures(found, lists),
    ]


def panels_of_range(found: Figures, lists: Lists) -> list[Panel]:
    """Return what was closed in the range, and how fast, compared with the range before."""
    kinds = (
        ("people", _("By person"), found.people, _PERSON),
        ("agents", _("By agent"), found.agents, _AGENT),
        ("reasons", _("By reason"), found.reasons, _REASON),
        ("vias", _("By way"), found.vias, _VIA),
    )
    return [
        _closed_by_step(found),
        _outcomes(found, lists),
        *(_kind(found, lists, *kind) for kind in kinds),
        _times("close", _("How long OSVI took to close"), found.close_times),
        _times("help", _("How long customers waited for a person"), found.help_times),
        _times_by_step(found),
    ]


def change_shown(now: int, before: int) -> str:
    """Return by how many percent a number has changed; a dash if there were none before."""
    if not before:
        return _DASH
    percent = round(100 * (now - before) / before)
    sign = "+" if percent > 0 else "\N{MINUS SIGN}" if percent < 0 else ""
    return _("%(number)s%%") % {"number": f"{sign}{localize(abs(percent))}"}


def range_shown(days: DateRange) -> str:
    """Return a day, or the first and the last of several."""
    first, last = (date_format(day) for day in (days.first, days.last))
    return first if first == last else f"{first} {_DASH} {last}"


def _open(found: Figures, lists: Lists) -> Panel:
    rows = [
        Row(label=capfirst(each.label), cells=[each.number], url=lists.of(status=each.key))
        for each in found.open
    ]
    taken = Row(label=_("Of these taken over by people"), cells=[found.with_people])
    some = any(each.number for each in found.open)
    return Panel(
        name="open",
        title=_("Open now"),
        said="" if some else _("No chat is open."),
        headings=[_("Status"), _("Number")],
        rows=[*rows, taken] if some else [],
        picture=_bars("open", _("Open chats by status"), rows) if some else None,
    )


def _waiting(found: Figures, lists: Lists) -> Panel:
    waiting = found.waiting
    rows = [Row(label=capfirst(each.label), cells=[each.number]) for each in waiting.by_time]
    if not waiting.number:
        return Panel(
            name="waiting",
            title=_("Waiting for a person now"),
            said=_("No customer waits for a person."),
        )
    said = ngettext(
        "%(number)s customer waits, for %(longest)s.",
        "%(number)s customers wait, the first of them for %(longest)s.",
        waiting.number,
    )
    longest = duration_text(waiting.longest_seconds or 0)
    if waiting.is_at_least:
        longest = _("at least %(duration)s") % {"duration": longest}
    return Panel(
        name="waiting",
        title=_("Waiting for a person now"),
        said=said % {"number": localize(waiting.number), "longest": longest},
        headings=[_("Since"), _("Customers")],
        rows=rows,
        picture=_bars("waiting", _("How long customers have been waiting"), rows),
        ways=[Way(label=_("Show these chats"), url=lists.of(attention=Attention.HELP.value))],
    )


def _recent(found: Figures, lists: Lists) -> Panel:
    rows = [
        Row(label=capfirst(each.label), cells=[each.today, each.week, each.month])
        for each in found.recent
    ]
    sums = [sum(row.cells[place] for row in rows) for place in range(3)]
    some = bool(rows)
    return Panel(
        name="recent",
        title=_("Closed lately"),
        said="" if some else _("No chats were closed in the last 30 days."),
        headings=[_("Outcome"), _("Today"), _("7 days"), _("30 days")],
        rows=[*rows, Row(label=_("All"), cells=sums)] if some else [],
    )


def _failures(found: Figures, lists: Lists) -> Panel:
    rows = [
        Row(
            label=f"{capfirst(each.label)}. {each.reason}" if each.reason else capfirst(each.label),
            cells=[str(each.http_status or _DASH), each.number],
        )
        for each in found.failures
    ]
    kinds = {each.outcome for each in found.failures}
    ways = [
        Way(label=capfirst(str(attention.label)), url=lists.of(attention=attention.value))
        for outcome, attention in _LISTS_OF_FAILURES.items()
        if outcome in kinds
    ]
    measures = [
        Measure(label=capfirst(each.label) + _code(each.code, each.http_status), value=each.number)
        for each in found.failures
    ]
    return Panel(
        name="failures",
        title=_("Failed in the last 24 hours"),
        said="" if rows else _("No attempt to close a chat failed."),
        headings=[_("Reason"), _("HTTP status"), _("Attempts")],
        rows=rows,
        picture=_picture("failures", _("Failed attempts by reason"), measures) if rows else None,
        ways=ways,
    )


def _code(code: str, http_status: int | None) -> str:
    """Return a code and a status in parentheses, as far as they are known."""
    known = [str(each) for each in (code, http_status) if each]
    return f" ({', '.join(known)})" if known else ""


def _closed_by_step(found: Figures) -> Panel:
    series = [
        Series(label=capfirst(outcome.label), values=[step.outcomes[place] for step in found.steps])
        for place, outcome in enumerate(found.outcomes)
    ]
    if not found.closed.number:
        return Panel(
            name="closed",
            title=_("Closed over time"),
            said=_("No chats were closed in these days."),
            is_wide=True,
        )
    most = max(found.steps, key=lambda step: step.number)
    description = _("%(number)s in all. Most, %(most)s: %(days)s.") % {
        "number": localize(found.closed.number),
        "most": localize(most.number),
        "days": range_shown(most.days),
    }
    return Panel(
        name="closed",
        title=_("Closed over time"),
        said=_size_of(found.steps),
        headings=[_("Days"), *(each.label for each in series), _("All")],
        rows=[
            Row(label=range_shown(each.days), cells=[*each.outcomes, each.number])
            for each in found.steps
        ],
        picture=stacked_bars(
            name="osvi-chart-closed",
            title=_("Closed chats over time, by outcome"),
            description=description,
            steps=_names_of(found.steps),
            series=series,
            show=_whole,
        ),
        is_folded=True,
        is_wide=True,
    )


def _size_of(steps: Sequence[Step]) -> str:
    """Return how many days a step has; "" if it is one."""
    days = steps[0].days.days
    said = ngettext("Each step is %(number)s day.", "Each step is %(number)s days.", days)
    return "" if days == 1 else said % {"number": days}


def _outcomes(found: Figures, lists: Lists) -> Panel:
    shown = [replace(each, label=capfirst(each.label)) for each in found.outcomes]
    rows = [_compared(each, lists.closed_in(found.days, summary=each.key)) for each in shown]
    return _panel_of_shares("outcomes", _("By outcome"), shown, rows)


def _kind(
    found: Figures, lists: Lists, name: str, title: str, shares: Shares, column: str
) -> Panel:
    named = [_named(each, column) for each in shares.rows]
    rows = [_compared(each, _url_of(each, column, found, lists)) for each in named]
    others = [_others(shares.others)] if shares.others else []
    shown = [*named, *others]
    return _panel_of_shares(name, title, shown, [*rows, *(_compared(each) for each in others)])


def _named(share: Share, column: str) -> Share:
    """Return a share with a capital letter in its label, unless that is a name or the host's."""
    is_ours = column == _VIA or not share.key
    return replace(share, label=capfirst(share.label)) if is_ours else share


def _others(share: Share) -> Share:
    label = ngettext("%(number)s other", "%(number)s others", share.kinds)
    label = label % {"number": localize(share.kinds)}
    return Share(key=None, label=label, number=share.number, before=share.before)


def _url_of(share: Share, column: str, found: Figures, lists: Lists) -> str:
    """Return the URL of the list of what a share counts."""
    if column in {_REASON, _VIA}:
        return lists.closed_in(found.days, **{column: share.key})
    if share.pk is not None:
        return lists.closed_in(found.days, **{column: share.pk})
    return lists.closed_in(found.days, closed_by__isnull=True) if column == _PERSON else ""


def _compared(share: Share, url: str = "") -> Row:
    change = change_shown(share.number, share.before)
    return Row(label=share.label, cells=[share.number, share.before, change], url=url)


def _panel_of_shares(name: str, title: str, shares: Sequence[Share], rows: Sequence[Row]) -> Panel:
    some = bool(shares)
    measures = [Measure(label=each.label, value=each.number, before=each.before) for each in shares]
    full = _("Closed chats: %(kind)s") % {"kind": title}
    return Panel(
        name=name,
        title=title,
        said="" if some else str(_NOTHING_CLOSED),
        headings=[title, _("These days"), _("Days before"), _("Change")],
        rows=rows,
        picture=_picture(name, full, measures, keys=_both()) if some else None,
    )


def _times(name: str, title: str, times: ComparedTimes) -> Panel:
    pairs = {
        _("Median"): (times.now.median, times.before.median),
        _("95 of 100 within"): (times.now.p95, times.before.p95),
    }
    some = any(value is not None for pair in pairs.values() for value in pair)
    rows = [
        Row(label=label, cells=[duration_label(each) for each in pair])
        for label, pair in pairs.items()
    ]
    counted = Row(label=_("Times known"), cells=[times.now.number, times.before.number])
    measures = [
        Measure(label=label, value=now or 0, before=before or 0)
        for label, (now, before) in pairs.items()
    ]
    return Panel(
        name=name,
        title=title,
        said="" if some else str(_NO_TIMES),
        headings=[_("Time"), _("These days"), _("Days before")],
        rows=[*rows, counted] if some else [],
        picture=_picture(name, title, measures, keys=_both(), show=duration_label)
        if some
        else None,
    )


def _times_by_step(found: Figures) -> Panel:
    title = _("How long OSVI took, over time")
    times = [each.close_times for each in found.steps]
    median = Series(label=_("Median"), values=[each.median for each in times])
    p95 = Series(label=_("95 of 100 within"), values=[each.p95 for each in times])
    known = [each.p95 for each in times if each.p95 is not None]
    if not known:
        said = _("No times are known for these days.")
        return Panel(name="speed", title=title, said=said, is_wide=True)
    description = _("95 of 100 closes were answered within %(least)s at best, %(most)s at worst.")
    limits = {"least": duration_label(min(known)), "most": duration_label(max(known))}
    return Panel(
        name="speed",
        title=title,
        said=_size_of(found.steps),
        headings=[_("Days"), median.label, p95.label],
        rows=[
            Row(
                label=range_shown(each.days),
                cells=[
                    duration_label(each.close_times.median),
                    duration_label(each.close_times.p95),
                ],
            )
            for each in found.steps
        ],
        picture=lines(
            name="osvi-chart-speed",
            title=title,
            description=description % limits,
            steps=_names_of(found.steps),
            series=[median, p95],
            show=duration_label,
        ),
        is_folded=True,
        is_wide=True,
    )


def _names_of(steps: Sequence[Step]) -> list[str]:
    """Return the first days of steps in a few characters."""
    # Translators: a day below a picture, in the syntax of Django's "date" filter.
    return [date_format(each.days.first, _("M j")) for each in steps]


def _both() -> list[str]:
    return [_("These days"), _("Days before")]


def _bars(name: str, title: str, rows: Sequence[Row]) -> Picture:
    return _picture(name, title, [Measure(label=each.label, value=each.cells[0]) for each in rows])


def _picture(
    name: str,
    title: str,
    measures: Sequence[Measure],
    *,
    keys: Sequence[str] = (),
    show: Any = None,
) -> Picture:
    show = show or _whole
    largest = sorted(measures, key=lambda each: -each.value)[:_MOST_NAMED]
    return horizontal_bars(
        name=f"osvi-chart-{name}",
        title=title,
        description="; ".join(f"{each.label}: {show(each.value)}" for each in largest),
        measures=measures,
        keys=keys,
        show=show,
    )


def _whole(number: float) -> str:
    return str(localize(number))
