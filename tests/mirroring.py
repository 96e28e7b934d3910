"""A session that is here and at OSVI: where nearly every test begins."""

from __future__ import annotations

from osvi_django.testing.factories import ChatSessionFactory
from tests.outside import Meanwhile

SUMMARY = "The customer asked for a refund.\nThe agent <b>gave</b> it."


def at_the_start(osvi, *faults):
    """Let the next starts meet these, and the questions before them nothing."""
    for fault in faults:
        osvi.script(None, Meanwhile(lambda: None), fault)


def mirror(osvi, *, summary=SUMMARY, **fields):
    """Make a session with these fields, and the same one at this sandbox."""
    session = ChatSessionFactory(**fields)
    osvi.add_session(
        session_id=session.session_id,
        agent_uuid=session.agent.uuid,
        customer_id=session.customer_id,
        summary=summary,
        # OSVI has it open, whatever we do with it here.
        status=session.status if session.is_open else "active",
    )
    return session
