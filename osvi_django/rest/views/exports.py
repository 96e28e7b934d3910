"""Export sessions over REST."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase
from django.utils.translation import gettext_lazy as _lazy
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request

from osvi_django.rest.input_serializers import ExportSerializer, QuerySerializer
from osvi_django.rest.parsing import require_visible_job, validated_query
from osvi_django.rest.views.base import OSVIAPIView
from osvi_django.services.export import export_sessions, file_response, head_response
from osvi_django.services.permissions import require_export
from osvi_django.services.selectors import SessionFilter


class NoNegotiation(BaseContentNegotiation):
    """Answer whatever a caller accepts: ``format`` names the type, and errors are JSON."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        """Return the first renderer, that of errors, and its type."""
        return renderers[0], renderers[0].media_type


class SessionExportView(OSVIAPIView):
    """``GET sessions/export/?format=csv|jsonl|xlsx``, with the filters of ``GET sessions/``."""

    description = _lazy("Export chat sessions as a file: CSV, JSON Lines or Excel.")
    content_negotiation_class = NoNegotiation

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Raise ``NotAllowed`` unless the caller may export; anybody may ask what there is."""
        if request.method != "OPTIONS":
            require_export(request.user)

    def require_format(self, request: Request) -> None:
        """Leave the format to the serializer: here it is that of the file."""

    def get_query_serializer(self) -> type[QuerySerializer]:
        """Return the serializer of the query string, of which OPTIONS needs none."""
        return QuerySerializer if self.request.method == "OPTIONS" else ExportSerializer

    def get(self, request: Request, **kwargs: Any) -> HttpResponseBase:
        """Return the file, which is noted in the history."""
        wanted = validated_query(ExportSerializer, request)
        require_visible_job(request.user, wanted.get("close_job"))
        options = {name: wanted.pop(name, None) for name in ("format", "search")}
        export = export_sessions(
            SessionFilter(**{"status": None, **wanted}),
            file_format=options["format"],
            search=options["search"],
            requested_by=request.user,
            via="rest",
        )
        return file_response(request, export)

    def head(self, request: Request, **kwargs: Any) -> HttpResponseBase:
        """Return the headers, and export nothing."""
        return head_response(validated_query(ExportSerializer, request)["format"])
