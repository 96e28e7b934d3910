"""``manage.py osvi_stats``: print the figures."""

from __future__ import annotations

import json

import pytest

from osvi_django.testing.factories import (
    ChatAgentFactory,
    CloseAttemptFactory,
    ClosedSessionFactory,
)
from tests.commands.conftest import run_command
from tests.helpers.datetimes import db_datetime

pytestmark = pytest.mark.django_db

MARCH = ("osvi_stats", "--first", "2026-03-09", "--last", "2026-03-15")


@pytest.fixture
def closes():
    """Create closes of one agent more than the command names."""
    for number, agent in enumerate(ChatAgentFactory.create_batch(2)):
        for _number in range(number + 1):
            ClosedSessionFactory(
                agent=agent,
                closed_at=db_datetime("2026-03-10T12:00Z"),
                close_seconds=3.0,
                help_waited_seconds=5400.0,
            )
    CloseAttemptFactory(outcome="rejected", error_code="rejected")


def test_figures_are_printed(closes):
    out, err, code = run_command(*MARCH, "--top", "1")
    assert (err, code) == ("", 0)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "Closed from 2026-03-09 to 2026-03-15; from 2026-03-02 to 2026-03-08" in lines
    for line in ("3 0 closed", "3 0 summary stored", "2 0 Agent", "1 0 others", "3 0 no user"):
        assert any(each.startswith(line) for each in lines), line
    assert any(each.startswith("1 refused by OSVI. ") for each in lines)
    times = [each for each in lines if each.endswith("median")]
    assert [each.split()[1] for each in times] == ["s", "min"]


def test_figures_of_empty_site_are_printed():
    out, err, code = run_command("osvi_stats")
    assert (err, code) == ("", 0)
    assert "\N{EN DASH}" in out


def test_figures_are_printed_as_json(closes):
    out, _err, code = run_command(*MARCH, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["days"] == {"first": "2026-03-09", "last": "2026-03-15"}
    assert found["closed"]["number"] == 3


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--first", "March"), "--first needs a day"),
        (("--first", "2026-03-02", "--last", "2026-03-01"), "--last is before first"),
        (("--top", "0"), "--top must be"),
    ],
)
def test_invalid_options_exit_with_2(options, word):
    _out, err, code = run_command("osvi_stats", *options)
    assert code == 2
    assert word in err
