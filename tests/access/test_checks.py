"""Tests of the system checks of the functions that narrow access."""

from __future__ import annotations

import pytest

from osvi_django.checks import check_settings


@pytest.mark.parametrize(
    ("name", "check_id"),
    [("OSVI_SESSIONS_FOR", "osvi_django.E028"), ("OSVI_AGENTS_FOR", "osvi_django.E029")],
)
def test_check_of_function_that_takes_too_little_reports_its_id(settings, name, check_id):
    setattr(settings, name, "tests.helpers.tenants.takes_no_purpose")
    (found,) = (each for each in check_settings() if each.id == check_id)
    assert found.msg == f"{name} cannot be called with a user and a purpose."
    assert "(user, purpose)" in found.hint
    setattr(settings, name, "tests.helpers.tenants.nothing")
    assert check_id not in {each.id for each in check_settings()}
