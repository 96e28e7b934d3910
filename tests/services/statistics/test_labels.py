"""Test how durations are written in the figures."""

from __future__ import annotations

import pytest

from osvi_django.services.statistics import duration_label


@pytest.mark.parametrize(
    ("seconds", "label"),
    [
        (None, "\N{EN DASH}"),
        (0, "0 s"),
        (0.634, "0.63 s"),
        (114, "110 s"),
        (119, "2 min"),
        (630, "10 min"),
        (7_199, "2 h"),
        (172_799, "2 d"),
    ],
)
def test_duration_is_rounded_before_its_unit_is_chosen(seconds, label):
    assert duration_label(seconds) == label
