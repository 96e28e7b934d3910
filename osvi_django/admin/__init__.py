"""The admin. Importing this package registers the models."""

from __future__ import annotations

from osvi_django.admin.agents import ChatAgentAdmin
from osvi_django.admin.erasures import ErasureAdmin
from osvi_django.admin.exports import DataExportAdmin
from osvi_django.admin.jobs import CloseJobAdmin
from osvi_django.admin.sessions import ChatSessionAdmin
from osvi_django.admin.webhooks import WebhookDeliveryAdmin, WebhookReceiverAdmin

__all__ = [
    "ChatAgentAdmin",
    "ChatSessionAdmin",
    "CloseJobAdmin",
    "DataExportAdmin",
    "ErasureAdmin",
    "WebhookDeliveryAdmin",
    "WebhookReceiverAdmin",
]
