"""The permissions of the REST API, independent of the host's defaults."""

from __future__ import annotations

from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from osvi_django.services.permissions import may_view


class MayViewSessions(BasePermission):
    """Allow users who may see sessions in the admin."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return may_view(request.user)
