"""The permissions of the REST API, which hold beside the host's own."""

from __future__ import annotations

from django.utils.translation import gettext_lazy as _
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.views import APIView

from osvi_django.services.permissions import may_view


class MayViewSessions(BasePermission):
    """Allow users who may see sessions in the admin, or the one that the path names."""

    message = _("You do not have permission to see chat sessions.")

    def has_permission(self, request: Request, view: APIView) -> bool:
        find = getattr(view, "find_session", None)
        return may_view(request.user, find() if find is not None else None)
