"""The base of this API's views."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.http import HttpRequest, HttpResponseBase
from django.middleware.http import ConditionalGetMiddleware
from django.utils.cache import patch_cache_control
from django.utils.decorators import decorator_from_middleware, method_decorator
from django.utils.translation import gettext as _
from rest_framework import exceptions
from rest_framework.generics import ListAPIView
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import SAFE_METHODS, DjangoModelPermissions, IsAuthenticated
from rest_framework.renderers import BrowsableAPIRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.settings import api_settings
from rest_framework.throttling import BaseThrottle, ScopedRateThrottle
from rest_framework.views import APIView

from osvi_django.database import non_atomic
from osvi_django.exceptions import SessionNotFound
from osvi_django.models import ChatSession
from osvi_django.rest.errors import handle
from osvi_django.rest.idempotency import Claim, Replayed, claim_request
from osvi_django.rest.input_serializers import QuerySerializer
from osvi_django.rest.parsing import require_json, validated_query
from osvi_django.rest.rendering import (
    JSON_MEDIA_TYPE,
    KnownFormats,
    OSVIJSONRenderer,
    ProblemRenderer,
    StrictJSONParser,
    choose_renderer,
)
from osvi_django.services.access import Purpose
from osvi_django.services.permissions import readable_summaries
from osvi_django.services.selectors import find_session, find_session_for

_Row = TypeVar("_Row", bound=models.Model)
# The scopes of REST framework's ScopedRateThrottle.
READ_SCOPE: Final = "osvi-read"
CLOSE_SCOPE: Final = "osvi-close"
JOB_SCOPE: Final = "osvi-job"
OPERATE_SCOPE: Final = "osvi-operate"
_RELATIONS: Final = {"next": "next", "previous": "prev"}
# What there is below the path at which the host includes our URLs, for callers who ask for another.
PATHS: Final = (
    "sessions/",
    "sessions/close/",
    "sessions/export/",
    "sessions/sync/",
    "sessions/{session_id}/",
    *(
        f"sessions/{{session_id}}/{name}/"
        for name in ("close", "recover", "support", "context", "messages", "actions")
    ),
    "sessions/{session_id}/actions/{id}/",
    "sessions/{session_id}/attempts/{id}/",
    "customers/erase/",
    "customers/export/",
    "stats/",
    "close-jobs/",
    "close-jobs/{id}/",
    *(f"close-jobs/{{id}}/{name}/" for name in ("results", "cancel", "retry")),
)


class ConditionalReadMiddleware(ConditionalGetMiddleware):
    """Give the answers to GET and HEAD an ``ETag``, and answer what is unchanged with a 304.

    Django leaves out HEAD, as its answers have no body. Here they still have that of a GET, which
    the web server drops later.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> Any:
        """Return the response, or a 304 in its place."""
        if request.method == "HEAD":
            request = copy.copy(request)
            request.method = "GET"
        return super().process_response(request, response)


_conditional: Final = decorator_from_middleware(ConditionalReadMiddleware)


@method_decorator((non_atomic, _conditional), name="dispatch")
class OSVIAPIView(APIView):
    """A view of this app: outside the host's transactions, with our own bodies and errors.

    It accepts only JSON, from users who are logged in. The host's ``ATOMIC_REQUESTS``, exception
    handler, parsers, renderers, versions and default permissions do not change that.
    """

    permission_classes: Sequence[Any] = (IsAuthenticated,)
    # The throttle scope of POSTs; that of all else is READ.
    post_scope = OPERATE_SCOPE
    # So REST framework's classes that map methods to model permissions check only the login here:
    # what this API requires are permissions of its own.
    _ignore_model_permissions = True
    parser_classes = (StrictJSONParser,)
    renderer_classes = (OSVIJSONRenderer, ProblemRenderer)
    versioning_class = None
    content_negotiation_class: type[BaseContentNegotiation] = KnownFormats
    # The keys that a query string may have.
    query_serializer: type[QuerySerializer] = QuerySerializer
    # Whether anything but authentication and permission checks may have been done.
    is_begun = False
    # Whether the answer to a request with a key is stored, to be replayed.
    keeps_answers = True
    # The exclusive right to do the work of a request with a key.
    claim: Claim | None = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check the caller, and then that nothing in the request would be ignored."""
        super().initial(request, *args, **kwargs)
        if request.method not in self.allowed_methods:
            self.http_method_not_allowed(request)
        self.require_allowed(request, **kwargs)
        self.require_format(request)
        validated_query(self.get_query_serializer(), request)
        if request.method == "POST":
            require_json(request)
            self.claim = claim_request(request) if self.keeps_answers else None
        self.is_begun = True

    @property
    def throttle_scope(self) -> str:
        """Return the scope by which a host limits requests of this kind."""
        return READ_SCOPE if self.request.method in SAFE_METHODS else self.post_scope

    @property
    def throttle_classes(self) -> Any:  # type: ignore[override]  # a subclass may have a list
        """Return the host's throttles, as its settings have them at this moment."""
        return api_settings.DEFAULT_THROTTLE_CLASSES

    def get_throttles(self) -> list[BaseThrottle]:
        """Return the throttles, without those that have no rate for this scope."""
        return [each for each in super().get_throttles() if _has_rate(each, self)]

    def get_permissions(self) -> list[Any]:
        """Return ours, and those that the host requires in all of its API."""
        classes: Any = api_settings.DEFAULT_PERMISSION_CLASSES
        return [*super().get_permissions(), *(each() for each in classes)]

    def check_object_permissions(self, request: Request, obj: Any) -> None:
        """Check a session by the classes of the host, but for those of model permissions."""
        for each in self.get_permissions():
            is_asked = not isinstance(each, DjangoModelPermissions)
            if is_asked and not each.has_object_permission(request, self, obj):
                message, code = getattr(each, "message", None), getattr(each, "code", None)
                self.permission_denied(request, message=message, code=code)

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Raise ``NotAllowed`` before the body is read, for callers whom the service refuses."""

    def require_format(self, request: Request) -> None:
        """Raise a 400 if the query string asks for a format that this API does not have."""
        name = api_settings.URL_FORMAT_OVERRIDE
        known = [each.format for each in self.get_renderers()]
        if name and request.query_params.get(name, "").strip() not in {"", *known}:
            problem = _(
                "This format is unknown here: leave it out. Files are made by sessions/export/."
            )
            raise exceptions.ValidationError({name: [problem]})

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Return also what may be posted (the registered ``Accept-Post``)."""
        headers: dict[str, str] = super().default_response_headers
        posts = {"Accept-Post": JSON_MEDIA_TYPE} if "POST" in self.allowed_methods else {}
        return headers | posts

    def finalize_response(
        self, request: Request, response: Any, *args: Any, **kwargs: Any
    ) -> Response:
        """Render errors as the caller prefers; say that an answer is for its caller alone."""
        final = super().finalize_response(request, response, *args, **kwargs)
        if self.claim is not None:
            self.claim.store(final)
        choose_renderer(request, final)
        patch_cache_control(final, private=True, no_cache=True)
        return final

    def get_renderers(self) -> list[Any]:
        """Return ours, and pages for people if the host has these for its own API."""
        chosen: Any = api_settings.DEFAULT_RENDERER_CLASSES
        hosts = (each() for each in chosen)
        pages = [each for each in hosts if isinstance(each, BrowsableAPIRenderer)]
        return [*super().get_renderers(), *pages]

    def handle_exception(self, exc: Exception) -> Response:
        """Return the error, or let a bug through, after which the request may be repeated."""
        try:
            return super().handle_exception(exc)
        except Exception:
            if self.claim is not None:
                self.claim.release()
            raise

    def get_query_serializer(self) -> type[QuerySerializer]:
        """Return the serializer of this request's query string."""
        return self.query_serializer

    def get_exception_handler(self) -> Callable[..., Response | None]:
        return handle


def _has_rate(throttle: BaseThrottle, view: OSVIAPIView) -> bool:
    """Return whether a throttle limits the requests of a view: a scope needs a rate for that."""
    if not isinstance(throttle, ScopedRateThrottle):
        return True
    throttle.scope = view.throttle_scope
    try:
        throttle.get_rate()
    except ImproperlyConfigured:
        return False
    return True


class OSVIListView(OSVIAPIView, ListAPIView[_Row]):
    """A list of rows in pages, without the host's own filters."""

    filter_backends = ()

    def get_paginated_response(self, data: Any) -> Response:
        """Return the page, with the addresses of its neighbours as headers too (RFC 8288)."""
        response = super().get_paginated_response(data)
        links = ((name, response.data.get(name)) for name in ("next", "previous"))
        if header := ", ".join(f'<{url}>; rel="{_RELATIONS[name]}"' for name, url in links if url):
            response["Link"] = header
        return response


class SummariesListView(OSVIListView[_Row]):
    """A list of rows that show summaries: which of a page the caller may read is asked once."""

    readable: Collection[int] = ()

    def sessions_on(self, page: Sequence[Any]) -> Sequence[ChatSession]:
        """Return the sessions whose summaries a page shows."""
        raise NotImplementedError

    def paginate_queryset(self, queryset: Any) -> Any:
        """Return the page, and find out which of its summaries the caller may read."""
        page = super().paginate_queryset(queryset)
        self.readable = readable_summaries(self.request.user, self.sessions_on(page or ()))
        return page

    def get_serializer_context(self) -> dict[str, Any]:
        """Add the keys of the sessions whose summaries the caller may read."""
        return {**super().get_serializer_context(), "readable": self.readable}


class SessionView(OSVIAPIView):
    """A view of the session that its path names.

    One outside the access of the caller is like one that does not exist.
    """

    purpose = Purpose.VIEW

    def find_session(self, purpose: Purpose | None = None) -> ChatSession | None:
        """Return the session that the path names, looked up once for each purpose, or None."""
        purpose = purpose or self.purpose
        if purpose not in self._found:
            session_id = self.kwargs["session_id"]
            self._found[purpose] = find_session_for(self.request.user, session_id, purpose)
        return self._found[purpose]

    def get_session(self) -> ChatSession:
        """Return the session that the path names. Raises ``SessionNotFound``."""
        session = self.find_session()
        if session is None:
            raise SessionNotFound
        return session

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Replay no answer about a session that is outside the access of the caller by now."""
        self._found: dict[Purpose, ChatSession | None] = {}
        try:
            super().initial(request, *args, **kwargs)
        except Replayed:
            if self.find_session() is None and find_session(kwargs["session_id"]) is not None:
                raise SessionNotFound from None
            raise

    def require_allowed(self, request: Request, **kwargs: Any) -> None:
        """Check the host's own permissions for this session, if there is one."""
        if (session := self.find_session()) is not None:
            self.check_object_permissions(request, session)


class NotFoundView(OSVIAPIView):
    """Return 404 in the form of this API, for every method and caller."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Allow every caller: there is nothing here to protect."""
        raise unknown_path()


def unknown_path() -> exceptions.NotFound:
    """Return the error of a path that does not exist, which names those that do."""
    known = {"paths": ", ".join(PATHS)}
    return exceptions.NotFound(_("This URL does not exist. There are: %(paths)s.") % known)
