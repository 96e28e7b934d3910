"""The mirror of OSVI's chat sessions, their summaries, and the journal of every close.

These are rows only: the services decide what may be done with them. OSVI's ids are stored beside
our own keys, and no token is stored.
"""

from osvi_django.models.attempts import CloseAttempt, Requested, SupportAction
from osvi_django.models.events import WebhookDelivery, WebhookReceiver
from osvi_django.models.exports import DataExport
from osvi_django.models.idempotency import IdempotentRequest
from osvi_django.models.jobs import CloseJob, CloseJobItem
from osvi_django.models.privacy import DailyCount, Erasure
from osvi_django.models.sessions import ChatAgent, ChatSession, SessionSummary, StartLock

__all__ = [
    "ChatAgent",
    "ChatSession",
    "CloseAttempt",
    "CloseJob",
    "CloseJobItem",
    "DailyCount",
    "DataExport",
    "Erasure",
    "IdempotentRequest",
    "Requested",
    "SessionSummary",
    "StartLock",
    "SupportAction",
    "WebhookDelivery",
    "WebhookReceiver",
]
