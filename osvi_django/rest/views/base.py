"""The base of this API's views."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.utils.decorators import method_decorator
from django.utils.translation import gettext_lazy as _
from rest_framework import exceptions
from rest_framework.parsers import JSONParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from osvi_django.database import non_atomic
from osvi_django.rest.errors import handle
from osvi_django.rest.input_serializers import QuerySerializer
from osvi_django.rest.parsing import require_json, validated_query


@method_decorator(non_atomic, name="dispatch")
class OSVIAPIView(APIView):
    """A view of this app: outside the host's transactions, with our own error responses.

    It accepts only JSON. The host's ``ATOMIC_REQUESTS``, exception handler and parsers do not
    change that.
    """

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


class NowhereView(OSVIAPIView):
    """Return 404 in the form of this API, for every method and caller."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Allow every caller: there is nothing here to protect."""
        raise exceptions.NotFound(_("This URL does not exist."))
