"""The table of a benchmark, in Markdown: each measurement, its comparison and its goal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_HEADER = ("what; against what", "database", "this app", "against", "ratio", "goal", "met")
_ALIGN = ("---", "---", "---:", "---:", "---:", "---:", "---")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line; the goal is for ``ratio``, or for ``app`` if there is nothing to compare it with."""

    what: str
    app: str
    database: str = ""
    against: str = ""
    ratio: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool:
        """Return whether the goals, if any, are met."""
        value = float(self.app) if self.ratio is None else self.ratio
        is_too_much = self.at_most is not None and value > self.at_most
        return not is_too_much and (self.at_least is None or value >= self.at_least)

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the line."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        bounds = (("≤", self.at_most), ("≥", self.at_least))
        goal = "".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        met = ("yes" if self.is_met else "**no**") if goal else ""
        return (self.what, self.database, self.app, self.against, ratio, goal, met)


def table(rows: Iterable[Row]) -> str:
    """Return all lines below a header."""
    return "\n".join(map(_line, (_HEADER, _ALIGN, *(row.cells() for row in rows))))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
