"""factory_boy factories of this app's models, for hosts' tests and for its own.

They need the extra ``osvi-django[testing]``::

    session = ChatSessionFactory(agent__name="Night desk")
    closed = ClosedSessionFactory(summary__text="The customer asked for a refund.")
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.utils import timezone
from factory.declarations import (
    LazyAttribute,
    LazyFunction,
    RelatedFactory,
    SelfAttribute,
    Sequence,
    SubFactory,
)
from factory.django import DjangoModelFactory

from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    SessionSummary,
    SupportAction,
)


class ChatAgentFactory(DjangoModelFactory[ChatAgent]):
    """An agent of the account ``default``."""

    class Meta:
        model = ChatAgent

    uuid = Sequence(lambda n: f"agent_{n:04d}")
    name = Sequence(lambda n: f"Agent {n}")


def _end_of_lease(status: str) -> datetime | None:
    is_claimed = status == ChatSession.Status.CLOSING
    return timezone.now() + timedelta(minutes=1) if is_claimed else None


class ChatSessionFactory(DjangoModelFactory[ChatSession]):
    """An active session of a new agent."""

    class Meta:
        model = ChatSession

    session_id = LazyFunction(lambda: str(uuid.uuid4()))
    agent = SubFactory(ChatAgentFactory)
    customer_id = Sequence(lambda n: f"+1555{n:07d}")
    status = ChatSession.Status.ACTIVE
    # A session that is being closed is claimed, here for a minute.
    lease_until = LazyAttribute(lambda session: _end_of_lease(session.status))


class SessionSummaryFactory(DjangoModelFactory[SessionSummary]):
    """A summary that OSVI wrote."""

    class Meta:
        model = SessionSummary

    session = SubFactory(ChatSessionFactory)
    text = "The user asked about business hours. The agent confirmed them."


class ClosedSessionFactory(ChatSessionFactory):
    """A closed session with its summary."""

    class Meta:
        model = ChatSession
        skip_postgeneration_save = True

    status = ChatSession.Status.CLOSED
    summary_status = ChatSession.SummaryStatus.STORED
    closed_at = LazyFunction(timezone.now)
    summary = RelatedFactory(SessionSummaryFactory, factory_related_name="session")


class CloseAttemptFactory(DjangoModelFactory[CloseAttempt]):
    """An attempt in progress."""

    class Meta:
        model = CloseAttempt

    session = SubFactory(ChatSessionFactory)
    claim = LazyFunction(uuid.uuid4)


class SupportActionFactory(DjangoModelFactory[SupportAction]):
    """A message to the customer that was sent."""

    class Meta:
        model = SupportAction

    session = SubFactory(ChatSessionFactory, mode=ChatSession.Mode.SUPPORT)
    kind = SupportAction.Kind.MESSAGE
    text = "Hello, I am Sam. How can I help?"
    outcome = SupportAction.Outcome.DONE
    finished_at = LazyFunction(timezone.now)


class CloseJobFactory(DjangoModelFactory[CloseJob]):
    """A waiting job without sessions: ``CloseJobItemFactory`` adds one."""

    class Meta:
        model = CloseJob


class CloseJobItemFactory(DjangoModelFactory[CloseJobItem]):
    """A waiting session of a job; ``job.total`` is not counted."""

    class Meta:
        model = CloseJobItem

    job = SubFactory(CloseJobFactory, total=1)
    session = SubFactory(ChatSessionFactory)
    requested_session_id = SelfAttribute("session.session_id")
    account = SelfAttribute("session.agent.account")
