"""Test that each command ends with a sentence if the database is unavailable, or at Ctrl-C."""

from __future__ import annotations

import pytest
from django.db import DataError, InterfaceError, OperationalError

from tests.commands.test_tables import USES
from tests.helpers.database import raise_on_queries

pytestmark = pytest.mark.django_db(transaction=True)

ONCE = [
    *(use for use in USES if "--watch" not in use and use[0] != "osvi_summarize"),
    ("osvi_erase", "--journal"),
    ("osvi_erase", "--replay"),
]


def is_any(_sql, _params):
    return True


@pytest.mark.parametrize("use", ONCE, ids=" ".join)
@pytest.mark.parametrize("error", [OperationalError, InterfaceError])
def test_command_without_database_says_so(osvi_sandbox, call, use, error):
    with raise_on_queries(is_any, error("a secret")):
        said = call(*use)
    assert said.code == 1
    assert "atabase is unavailable" in said.error + said.err
    assert "secret" not in said.out + said.err + said.error


@pytest.mark.parametrize("use", USES, ids=" ".join)
def test_command_interrupted_at_its_start_exits_with_130(osvi_sandbox, call, use):
    with raise_on_queries(is_any, KeyboardInterrupt):
        said = call(*use)
    assert (said.code, said.error) == (130, "Stopped.")
    assert osvi_sandbox.requests == []


def test_error_of_a_statement_is_not_taken_for_an_outage(call):
    with raise_on_queries(is_any, DataError("x")), pytest.raises(DataError):
        call("osvi_stats")
