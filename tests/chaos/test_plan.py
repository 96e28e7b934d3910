"""The plans of a campaign."""

from __future__ import annotations

from chaos.plan import FAULTS, draw

NUMBERS = {"closes": 200, "kills": 20, "outages": 5, "patience": 6}


def test_plans_of_one_seed_are_the_same():
    assert draw(7, **NUMBERS) == draw(7, **NUMBERS)
    assert draw(7, **NUMBERS) != draw(8, **NUMBERS)


def test_plans_have_the_kills_and_outages_that_were_asked_for():
    plans = draw(7, **NUMBERS)
    assert sum(plan.kill is not None for plan in plans) >= 20
    outages = [plan.outage.seconds for plan in plans if plan.outage]
    assert len(outages) == 5
    assert max(outages) > NUMBERS["patience"] > min(outages)
    assert {fault for plan in plans for fault in plan.faults} >= set(FAULTS)
