"""REST's own permissions, whatever the host's defaults are."""

from __future__ import annotations

from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from osvi_django.services.permissions import may_view


class MayViewSessions(BasePermission):
    """Whoever may see sessions in the admin may see them here."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        return may_view(request.user)


class MayAsk(IsAuthenticated):
    """Whoever is known may ask for a close; the service decides, as it does for every door."""
