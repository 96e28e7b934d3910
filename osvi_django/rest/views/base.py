"""The base of this API's views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from django.db import models
from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions
from rest_framework.generics import ListAPIView
from rest_framework.parsers import JSONParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from osvi_django.database import non_atomic
from osvi_django.rest.errors import handle
from osvi_django.rest.input_serializers import QuerySerializer
from osvi_django.rest.parsing import require_json, validated_query

_Row = TypeVar("_Row", bound=models.Model)


@method_decorator(non_atomic, name="dispatch")
class OSVIAPIView(APIView):
    """A view of this app: outside the host's transactions, with our own error responses.

    It accepts only JSON, from users who are logged in. The host's ``ATOMIC_REQUESTS``, exception
    handler, parsers and default permissions do not change that.
    """

    permission_classes: Sequence[Any] = (IsAuthenticated,)
    parser_classes = (JSONParser,)
    # The keys that a query string may have.
    query_serializer: type[QuerySerializer] = QuerySerializer
    # Whether anything but authentication and permission checks may have been done.
    is_begun = False

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the caller, and then that nothing in the request would be ignored."""
        super().initial(request, *args, **kwargs)
        validated_query(self.get_query_serializer(), request)
        if request.method == "POST":
            require_json(request)
        self.is_begun = True

    def get_query_serializer(self) -> type[QuerySerializer]:
        """Return the serializer of this request's query string."""
        return self.query_serializer

    def get_exception_handler(self) -> Callable[..., Response | None]:
        return handle


class OSVIListView(OSVIAPIView, ListAPIView[_Row]):
    """A list of rows in pages, without the host's own filters."""

    filter_backends = ()


class NotFoundView(OSVIAPIView):
    """Return 404 in the form of this API, for every method and caller."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Allow every caller: there is nothing here to protect."""
        raise exceptions.NotFound(_("This URL does not exist."))
