"""Export and erase what this site stores of a customer, whose id is in no URL and in no log."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.rest.input_serializers import EraseSerializer, SyncSerializer
from osvi_django.rest.parsing import validated_body
from osvi_django.rest.views.base import OSVIAPIView
from osvi_django.services.permissions import require_erase
from osvi_django.services.privacy.erasure import ErasureResult, erase_customer
from osvi_django.services.privacy.exporting import export_customer


class CustomerDataView(OSVIAPIView):
    """A view for callers who may export and erase the data of customers."""

    permission_classes = (IsAuthenticated,)

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Raise ``NotAllowed`` unless the caller may erase; anybody may ask what there is."""
        if request.method != "OPTIONS":
            require_erase(request.user)


class CustomerEraseView(CustomerDataView):
    """``POST customers/erase/`` with ``customer_id``; ``account`` and ``dry_run`` are optional."""

    description = _("Erase what this site stores of a customer.")

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Erase: 200, how many rows and files of each place, and what OSVI keeps."""
        wanted = validated_body(EraseSerializer, request)
        return Response(_body_of(erase_customer(**wanted, requested_by=request.user, via="rest")))


class CustomerExportView(CustomerDataView):
    """``POST customers/export/`` with ``customer_id``; ``account`` is optional."""

    description = _("Return what this site stores of a customer.")
    # The answer is all that there is of the customer: it is not stored once more.
    keeps_answers = False

    def post(self, request: Request, **kwargs: Any) -> Response:
        """Export: 200, and the rows of each place by session."""
        wanted = validated_body(SyncSerializer, request)
        return Response(export_customer(**wanted, requested_by=request.user, via="rest"))


def _body_of(result: ErasureResult) -> dict[str, Any]:
    obstacle = result.obstacle
    return {
        "marker": result.marker or None,
        "counts": result.counts,
        "dry_run": result.dry_run,
        "obstacle": obstacle and {"code": obstacle.code, "detail": str(obstacle)},
        "notice": result.notice,
    }
