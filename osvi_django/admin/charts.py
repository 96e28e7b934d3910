"""The geometry of three kinds of pictures: stacked bars, lines and horizontal bars.

Every coordinate is a text with a decimal point that is made here, because a template writes a
number as the reader's language does.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, count, takewhile
from typing import Any, ClassVar, Final

Show = Callable[[float], str]

# All lengths are units of the picture: a pixel, if it is shown in its own size.
_WIDTH: Final = 800
_HEIGHT: Final = 240
_TOP: Final = 12
_LEFT: Final = 30
_RIGHT: Final = 22
_BOTTOM: Final = 26
_GAP: Final = 8
_TEXT: Final = 12
_BAR_MOST: Final = 48
_BAR_SHARE: Final = 0.78
# So that one chat is seen beside a million.
_LEAST: Final = 1.0
_TICKS: Final = 4

_ROW_WIDTH: Final = 400
_ROW_TEXT: Final = 17
_ROW_BAR: Final = 12
_ROW_BEFORE: Final = 7
_ROW_GAP: Final = 9
_ROW_LEAST: Final = 2.0

# A series has a colour and a pattern; further ones begin again.
STYLES: Final = 6
_DAY: Final = 86_400
_SECONDS: Final = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30),
    *(60, 120, 300, 600, 1_200, 1_800),
    *(3_600, 7_200, 14_400, 28_800, 43_200),
)
# How wide characters are, as shares of the size of the text.
_WIDE: Final = frozenset("MWmw@%&")
_NARROW: Final = frozenset("iljtfrI.,:;'|!()[] ")


@dataclass(frozen=True, kw_only=True)
class Series:
    """What is drawn in one colour: a value for each step, None for none that is known."""

    label: str
    values: Sequence[float | None]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One horizontal bar, and if ``before`` is given, a thin one below it to compare with."""

    label: str
    value: float
    before: float | None = None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A text at a place, such as the number of a line of the grid."""

    x: str
    y: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Box:
    """A rectangle; ``text``: what it stands for."""

    x: str
    y: str
    width: str
    height: str
    style: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line through points; ``path``: for the attribute ``d``, without the steps of no value."""

    style: str
    path: str
    dots: Sequence[Mark]


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a colour with its pattern stands for."""

    style: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What all pictures have. ``name``: the beginning of the ids in it."""

    template: ClassVar[str]

    name: str
    title: str
    description: str
    width: str
    height: str
    keys: Sequence[Key]


@dataclass(frozen=True, kw_only=True)
class _Plot(Picture):
    """A picture with steps from left to right, and a grid of values."""

    left: str
    right: str
    marks: Sequence[Mark]
    steps: Sequence[Mark]


@dataclass(frozen=True, kw_only=True)
class StackedBars(_Plot):
    """A bar for each step, with a part for each series."""

    template = "admin/osvi_django/figures/stacked_bars.html"

    boxes: Sequence[Box]


@dataclass(frozen=True, kw_only=True)
class Lines(_Plot):
    """A line for each series."""

    template = "admin/osvi_django/figures/lines.html"

    curves: Sequence[Curve]


@dataclass(frozen=True, kw_only=True)
class BarRow:
    """A horizontal bar, its label above and its value beside it; ``full``: the label uncut."""

    label: Mark
    full: str
    boxes: Sequence[Box]
    values: Sequence[Mark]


@dataclass(frozen=True, kw_only=True)
class HorizontalBars(Picture):
    """A bar for each of some things, one below the other."""

    template = "admin/osvi_django/figures/horizontal_bars.html"

    rows: Sequence[BarRow]


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Where the values and the steps of a plot are."""

    ticks: Sequence[float]
    labels: Sequence[str]
    steps: Sequence[str]

    @property
    def left(self) -> float:
        return max(_LEFT, max(map(text_width, self.labels)) + _GAP)

    @property
    def slot(self) -> float:
        """Return how wide a step is."""
        return (_WIDTH - _RIGHT - self.left) / len(self.steps)

    def middle(self, step: int) -> float:
        return self.left + (step + 0.5) * self.slot

    def height(self, value: float) -> float:
        """Return how high above the base line a value is."""
        return value / self.ticks[-1] * (_HEIGHT - _TOP - _BOTTOM)

    def marks(self) -> list[Mark]:
        """Return the numbers of the lines of the grid."""
        shown = zip(self.ticks, self.labels, strict=True)
        base, x = _HEIGHT - _BOTTOM, _at(self.left - _GAP / 2)
        return [Mark(x=x, y=_at(base - self.height(each)), text=label) for each, label in shown]

    def named_steps(self) -> list[Mark]:
        """Return the labels of as many steps as there is room for."""
        room = max(map(text_width, self.steps)) + 2 * _GAP
        stride = math.ceil(room / self.slot)
        y, most = _at(_HEIGHT - _BOTTOM / 3), _WIDTH - room / 2 + _GAP
        return [
            Mark(x=_at(self.middle(step)), y=y, text=self.steps[step])
            for step in range(0, len(self.steps), stride)
            if self.middle(step) <= most
        ]


def stacked_bars(
    *,
    name: str,
    title: str,
    description: str,
    steps: Sequence[str],
    series: Sequence[Series],
    show: Show,
) -> StackedBars:
    """Return a bar for each step, of which each series is a part; there must be a step."""
    totals = [sum(each.values[step] or 0 for each in series) for step in range(len(steps))]
    grid = _grid(max(totals), steps, _round(1), show)
    return StackedBars(
        name=name,
        title=title,
        description=description,
        boxes=[box for step in range(len(steps)) for box in _stack(grid, step, series, show)],
        **_frame(grid, series),
    )


def lines(
    *,
    name: str,
    title: str,
    description: str,
    steps: Sequence[str],
    series: Sequence[Series],
    show: Show,
) -> Lines:
    """Return a line of seconds for each series; there must be a step."""
    most = max((value or 0 for each in series for value in each.values), default=0)
    grid = _grid(most, steps, _seconds(), show)
    curves = [_curve(grid, number, each, show) for number, each in enumerate(series)]
    return Lines(
        name=name, title=title, description=description, curves=curves, **_frame(grid, series)
    )


def horizontal_bars(
    *,
    name: str,
    title: str,
    description: str,
    measures: Sequence[Measure],
    keys: Sequence[str] = (),
    show: Show,
) -> HorizontalBars:
    """Return a bar for each measure; ``keys``: what bars, and thin bars, stand for."""
    shown = [each.value for each in measures] + [each.before or 0 for each in measures]
    room = _ROW_WIDTH - max(text_width(show(each)) for each in shown) - _GAP
    scale = room / (max(shown) or 1)
    high = _ROW_TEXT + _ROW_BAR + _ROW_GAP
    if any(each.before is not None for each in measures):
        high += _ROW_BEFORE + 2
    rows = [
        _bar_row(each, number * high, scale, show, keys) for number, each in enumerate(measures)
    ]
    return HorizontalBars(
        name=name,
        title=title,
        description=description,
        width=_at(_ROW_WIDTH),
        height=_at(high * len(measures)),
        keys=_keys(keys),
        rows=rows,
    )


def text_width(text: str) -> float:
    """Return about how wide a text is, rather more than less."""
    return sum(map(_share_of, text)) * _TEXT


def fitting(text: str, room: float) -> str:
    """Return a text, or its beginning with an ellipsis if there is not as much room."""
    text = " ".join(text.split())
    if text_width(text) <= room:
        return text
    widths = accumulate(_share_of(character) * _TEXT for character in text)
    fits = takewhile(lambda width: width <= room - _TEXT, widths)
    return f"{text[: len(list(fits))].rstrip()}…"


def _share_of(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in {"W", "F"}:
        return 1.1
    if character in _WIDE:
        return 1.05
    if character in _NARROW:
        return 0.36
    return 0.72 if character.isupper() else 0.6


def _at(length: float) -> str:
    """Return a length as SVG has it, in every language."""
    return f"{length:.2f}".rstrip("0").rstrip(".")


def _style(number: int) -> str:
    return str(number % STYLES)


def _keys(labels: Sequence[str]) -> list[Key]:
    return [Key(style=_style(number), label=label) for number, label in enumerate(labels)]


def _round(first: float) -> Iterator[float]:
    """Yield steps of 1, 2 and 5, and ten, a hundred and so on times as many."""
    return (first * digit * 10**power for power in count() for digit in (1, 2, 5))


def _seconds() -> Iterator[float]:
    """Yield steps that are round as seconds, minutes, hours and days."""
    return chain(_SECONDS, _round(_DAY))


def _grid(most: float, labels: Sequence[str], sizes: Iterator[float], show: Show) -> _Grid:
    """Return the grid for values up to ``most``, with the smallest of these sizes that fits."""
    size = next(each for each in sizes if each * _TICKS >= most)
    ticks = [size * number for number in range(max(1, math.ceil(most / size)) + 1)]
    return _Grid(ticks=ticks, labels=[show(each) for each in ticks], steps=labels)


def _frame(grid: _Grid, series: Sequence[Series]) -> dict[str, Any]:
    return {
        "width": _at(_WIDTH),
        "height": _at(_HEIGHT),
        "left": _at(grid.left),
        "right": _at(_WIDTH - _RIGHT),
        "marks": grid.marks(),
        "steps": grid.named_steps(),
        "keys": _keys([each.label for each in series]),
    }


def _stack(grid: _Grid, step: int, series: Sequence[Series], show: Show) -> Iterator[Box]:
    wide = min(_BAR_MOST, grid.slot * _BAR_SHARE)
    y = float(_HEIGHT - _BOTTOM)
    for number, each in enumerate(series):
        if value := each.values[step]:
            high = max(_LEAST, grid.height(value))
            y -= high
            yield Box(
                x=_at(grid.middle(step) - wide / 2),
                y=_at(y),
                width=_at(wide),
                height=_at(high),
                style=_style(number),
                text=f"{grid.steps[step]}: {each.label}: {show(value)}",
            )


def _curve(grid: _Grid, number: int, series: Series, show: Show) -> Curve:
    dots, path, is_broken = [], [], True
    for step, value in enumerate(series.values):
        if value is not None:
            x, y = grid.middle(step), _HEIGHT - _BOTTOM - grid.height(value)
            text = f"{grid.steps[step]}: {series.label}: {show(value)}"
            dots.append(Mark(x=_at(x), y=_at(y), text=text))
            path.append(f"{'M' if is_broken else 'L'}{_at(x)} {_at(y)}")
        is_broken = value is None
    return Curve(style=_style(number), path="".join(path), dots=dots)


def _bar_row(measure: Measure, top: float, scale: float, show: Show, keys: Sequence[str]) -> BarRow:
    values = [(measure.value, float(_ROW_BAR))]
    if measure.before is not None:
        values.append((measure.before, float(_ROW_BEFORE)))
    boxes, shown, y = [], [], top + _ROW_TEXT
    for number, (value, high) in enumerate(values):
        wide = max(_ROW_LEAST, value * scale) if value else 0.0
        said = f"{keys[number]}: {show(value)}" if keys else show(value)
        boxes.append(
            Box(
                x="0",
                y=_at(y),
                width=_at(wide),
                height=_at(high),
                style=_style(number),
                text=f"{measure.label}: {said}",
            )
        )
        if number == 0:
            shown.append(Mark(x=_at(wide + _GAP / 2), y=_at(y + high - 2), text=show(value)))
        y += high + 2
    label = fitting(measure.label, _ROW_WIDTH)
    return BarRow(
        label=Mark(x="0", y=_at(top + _ROW_TEXT - 5), text=label),
        full=measure.label,
        boxes=boxes,
        values=shown,
    )
