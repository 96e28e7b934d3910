"""The table of a benchmark, in Markdown: what was measured, against what, and the goal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_HEAD = ("what; against what", "database", "this app", "against", "ratio", "goal", "met")
_ALIGN = ("---", "---", "---:", "---:", "---:", "---:", "---")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line; the goal is for ``ratio``, or for ``app`` where there is nothing to compare."""

    what: str
    app: str
    database: str = ""
    against: str = ""
    ratio: float | None = None
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the goals, if any, are reached."""
        value = float(self.app) if self.ratio is None else self.ratio
        is_too_much = self.at_most is not None and value > self.at_most
        return not is_too_much and (self.at_least is None or value >= self.at_least)

    def cells(self) -> tuple[str, ...]:
        """The line's words."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        bounds = (("≤", self.at_most), ("≥", self.at_least))
        goal = "".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        met = ("yes" if self.is_met else "**no**") if goal else ""
        return (self.what, self.database, self.app, self.against, ratio, goal, met)


def table(rows: Iterable[Row]) -> str:
    """All lines, below a head."""
    return "\n".join(map(_line, (_HEAD, _ALIGN, *(row.cells() for row in rows))))


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
