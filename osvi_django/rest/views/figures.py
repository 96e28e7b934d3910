"""The figures over REST."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _lazy
from rest_framework.request import Request
from rest_framework.response import Response

from osvi_django.rest.figures import FiguresSerializer
from osvi_django.rest.input_serializers import FiguresQuerySerializer
from osvi_django.rest.parsing import validated_query
from osvi_django.rest.permissions import MayViewSessions
from osvi_django.rest.views.base import OSVIAPIView
from osvi_django.services.statistics import figures


class StatsView(OSVIAPIView):
    """``GET stats/``: the numbers of now and of a range of days."""

    description = _lazy("Show how many chats are open and were closed, by whom and how fast.")
    permission_classes = (MayViewSessions,)
    query_serializer = FiguresQuerySerializer

    def get(self, request: Request, **kwargs: Any) -> Response:
        """Return the figures of the range that the query string names."""
        wanted = validated_query(FiguresQuerySerializer, request)
        return Response(FiguresSerializer(figures(**wanted, requested_by=request.user)).data)
