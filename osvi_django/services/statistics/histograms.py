"""Medians and percentiles that every database gives alike.

Each duration belongs to a bucket, 9 % wider than the one before, and a percentile is the middle
of its bucket. So it is within 5 % of the exact one, a count of buckets is all that a database must
return, and ranges can be added.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from django.db.models import F
from django.db.models.expressions import Combinable
from django.db.models.functions import Floor, Ln

from osvi_django.services.statistics.types import Times

_WIDTH: Final = math.log(1.09)
# So that nothing is the logarithm of zero.
_LEAST: Final = 0.001  # seconds
_MEDIAN: Final = 0.5
_P95: Final = 0.95


def bucket_of(column: str) -> Combinable:
    """Return the expression for the bucket of a column of seconds; null for null."""
    return Floor(Ln(F(column) + _LEAST) / _WIDTH)


def times_of(counts: Counter[int]) -> Times:
    """Return the times of buckets with their counts."""
    return Times(
        number=counts.total(), median=_percentile(counts, _MEDIAN), p95=_percentile(counts, _P95)
    )


def _percentile(counts: Counter[int], share: float) -> float | None:
    """Return the seconds within which this share of all is; None if there are none."""
    left = math.ceil(share * counts.total())
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0:
            return _middle_of(bucket)
    return None


def _middle_of(bucket: int) -> float:
    """Return the middle of a bucket, in as many digits as are meant."""
    seconds = max(0.0, math.exp((bucket + 0.5) * _WIDTH) - _LEAST)
    return float(f"{seconds:.3g}")
