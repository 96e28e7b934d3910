"""Proxies of our models under another app's label."""

from __future__ import annotations

from osvi_django.models import ChatAgent, ChatSession, CloseJob


class Conversation(ChatSession):
    """A chat session, as this host calls it."""

    class Meta:
        proxy = True


class Bot(ChatAgent):
    """An agent, as this host calls it."""

    class Meta:
        proxy = True


class Sweep(CloseJob):
    """A close job, as this host calls it."""

    class Meta:
        proxy = True
