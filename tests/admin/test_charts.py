"""Tests of the geometry of the pictures."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from itertools import pairwise

import pytest
from django.test import override_settings
from django.utils import translation

from osvi_django.admin.charts import (
    STYLES,
    Measure,
    Series,
    fitting,
    horizontal_bars,
    lines,
    stacked_bars,
    text_width,
)
from osvi_django.services.statistics import duration_label

ABOUT = {"name": "chart", "title": "Title", "description": "What is seen"}
HUGE = 123_456_789_012


def columns(*values, steps=None):
    """Return stacked bars of these series."""
    series = [Series(label=f"s{number}", values=each) for number, each in enumerate(values)]
    steps = steps or [f"{number + 1} Nov" for number in range(len(values[0]))]
    return stacked_bars(steps=steps, series=series, show=str, **ABOUT)


def curves(*values):
    """Return lines of these series."""
    series = [Series(label=f"s{number}", values=each) for number, each in enumerate(values)]
    steps = [f"{number + 1} Nov" for number in range(len(values[0]))]
    return lines(steps=steps, series=series, show=duration_label, **ABOUT)


def bars(*values, keys=(), labels=None):
    """Return horizontal bars of these values, or of pairs of them with those before."""
    pairs = [each if isinstance(each, tuple) else (each, None) for each in values]
    labels = labels or [f"bar {number}" for number in range(len(pairs))]
    measures = [
        Measure(label=label, value=now, before=before)
        for label, (now, before) in zip(labels, pairs, strict=True)
    ]
    return horizontal_bars(measures=measures, keys=keys, show=str, **ABOUT)


def texts_of(part):
    """Yield all texts in a dataclass that are a coordinate or a length."""
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name in {"x", "y", "width", "height", "left", "right"}:
            yield value
        if is_dataclass(value):
            yield from texts_of(value)
        elif isinstance(value, list):
            for each in value:
                yield from texts_of(each)


def right_of(box):
    return float(box.x) + float(box.width)


def bottom_of(box):
    return float(box.y) + float(box.height)


class TestStackedBars:
    def test_parts_of_bar_are_stacked_in_proportion(self):
        chart = columns([2], [1])
        first, second = chart.boxes
        assert (first.style, second.style) == ("0", "1")
        assert bottom_of(second) == pytest.approx(float(first.y), abs=0.02)
        assert float(first.height) == pytest.approx(2 * float(second.height), abs=0.02)
        assert first.text == "1 Nov: s0: 2"

    def test_part_without_value_has_no_box(self):
        assert len(columns([0, 1], [None, 2]).boxes) == 2

    @pytest.mark.parametrize("number", [1, 2, 31, 62, 366])
    def test_bars_of_any_number_of_steps_are_side_by_side(self, number):
        chart = columns([5] * number)
        assert len(chart.boxes) == number
        assert float(chart.boxes[0].x) >= float(chart.left)
        assert right_of(chart.boxes[-1]) <= float(chart.right)
        for one, other in pairwise(chart.boxes):
            assert right_of(one) < float(other.x)
        for one, other in pairwise(chart.steps):
            assert float(other.x) - float(one.x) > text_width(one.text)
        assert float(chart.steps[0].x) > text_width(chart.steps[0].text) / 2
        widest = text_width(chart.steps[-1].text) / 2
        assert float(chart.steps[-1].x) + widest <= float(chart.width)

    def test_one_chat_is_seen_beside_very_many(self):
        chart = columns([HUGE, 1], [1, 0])
        assert min(float(box.height) for box in chart.boxes) == 1
        assert all(float(box.y) >= 0 and bottom_of(box) <= 240 for box in chart.boxes)
        assert float(chart.left) > text_width(chart.marks[-1].text)

    @pytest.mark.parametrize(
        ("most", "ticks"),
        [
            (0, ["0", "1"]),
            (1, ["0", "1"]),
            (4, ["0", "1", "2", "3", "4"]),
            (9, ["0", "5", "10"]),
            (75, ["0", "20", "40", "60", "80"]),
            (1_000_000, ["0", "500000", "1000000"]),
        ],
    )
    def test_grid_has_round_numbers(self, most, ticks):
        assert [mark.text for mark in columns([most]).marks] == ticks

    def test_styles_begin_again_after_the_last(self):
        chart = columns(*[[1]] * (STYLES + 1))
        assert [key.style for key in chart.keys] == ["0", "1", "2", "3", "4", "5", "0"]


class TestLines:
    def test_line_is_broken_where_nothing_is_known(self):
        [curve] = curves([1.0, 2.0, None, 3.0, None]).curves
        assert curve.path.count("M") == 2
        assert curve.path.count("L") == 1
        assert len(curve.dots) == 3
        assert curve.dots[0].text == "1 Nov: s0: 1 s"

    def test_larger_value_is_higher(self):
        low, high = (float(dot.y) for dot in curves([1.0, 2.0]).curves[0].dots)
        assert low > high > 0

    @pytest.mark.parametrize(
        ("most", "ticks"),
        [
            (0.0, ["0 s", "0.1 s"]),
            (0.31, ["0 s", "0.1 s", "0.2 s", "0.3 s", "0.4 s"]),
            (95.0, ["0 s", "30 s", "60 s", "90 s", "2 min"]),
            (9_000.0, ["0 s", "60 min", "2 h", "3 h"]),
            (400_000.0, ["0 s", "2 d", "4 d", "6 d"]),
        ],
    )
    def test_grid_has_round_times(self, most, ticks):
        assert [mark.text for mark in curves([most]).marks] == ticks

    def test_steps_without_any_value_have_no_dots(self):
        [curve] = curves([None]).curves
        assert (curve.path, curve.dots) == ("", [])


class TestHorizontalBars:
    def test_longest_bar_leaves_room_for_its_value(self):
        chart = bars(HUGE, 1, 0)
        long, short, none = (row.boxes[0] for row in chart.rows)
        end = right_of(long) + text_width(str(HUGE))
        assert end <= float(chart.width)
        assert float(short.width) == 2
        assert none.width == "0"
        assert [row.values[0].text for row in chart.rows] == [str(HUGE), "1", "0"]

    def test_bar_before_is_below_in_another_pattern(self):
        chart = bars((4, 8), (2, 0), keys=["Now", "Before"])
        now, before = chart.rows[0].boxes
        assert (now.style, before.style) == ("0", "1")
        assert float(before.y) > bottom_of(now)
        assert float(before.width) == pytest.approx(2 * float(now.width), abs=0.02)
        assert before.text == "bar 0: Before: 8"
        assert bottom_of(before) < float(chart.rows[1].label.y)
        assert [key.label for key in chart.keys] == ["Now", "Before"]

    def test_zeros_have_no_bars(self):
        assert {box.width for row in bars(0, 0).rows for box in row.boxes} == {"0"}

    @pytest.mark.parametrize("label", ["W" * 200, "返金" * 200, "i" * 900, "a" * 500, "&" * 99])
    def test_long_label_is_cut_and_kept_as_whole(self, label):
        chart = bars(1, labels=[label])
        [row] = chart.rows
        assert row.label.text.endswith("…")
        assert text_width(row.label.text) <= float(chart.width)
        assert row.full == label

    def test_lines_of_label_are_one(self):
        assert fitting("Night\n  desk ", 300) == "Night desk"

    def test_combining_marks_take_no_room(self):
        assert text_width("e\u0301") == text_width("e")


@pytest.mark.parametrize(
    "chart", [lambda: columns([1, 2, 3], [3, 2, 1]), lambda: curves([1.5, 2]), lambda: bars(1, 7)]
)
def test_geometry_is_the_same_in_every_language(chart):
    with translation.override("en"):
        english = list(texts_of(chart()))
    with translation.override("de"), override_settings(USE_THOUSAND_SEPARATOR=True):
        german = list(texts_of(chart()))
    assert english == german
    assert len(english) > 5
    assert all(float(each) >= 0 for each in english)
