"""The figures: what is open, what was closed, by whom and how fast, for a range of days."""

from __future__ import annotations

from osvi_django.services.statistics.labels import duration_label
from osvi_django.services.statistics.service import MAX_TOP, TOP, figures
from osvi_django.services.statistics.types import (
    ComparedTimes,
    DateRange,
    FailureCount,
    Figures,
    OpenCount,
    RecentCount,
    Share,
    Shares,
    Step,
    Times,
    WaitCount,
    Waiting,
)

__all__ = [
    "MAX_TOP",
    "TOP",
    "ComparedTimes",
    "DateRange",
    "FailureCount",
    "Figures",
    "OpenCount",
    "RecentCount",
    "Share",
    "Shares",
    "Step",
    "Times",
    "WaitCount",
    "Waiting",
    "duration_label",
    "figures",
]
