"""The admin's face of the services. Importing it registers the models, as the admin expects."""

from __future__ import annotations

from osvi_django.admin.agents import ChatAgentAdmin
from osvi_django.admin.jobs import CloseJobAdmin
from osvi_django.admin.sessions import ChatSessionAdmin

__all__ = ["ChatAgentAdmin", "ChatSessionAdmin", "CloseJobAdmin"]
