"""The response that streams an export, for every kind of web server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.utils.cache import patch_cache_control
from django.utils.http import content_disposition_header

from osvi_django.services.export.service import Export, content_type_of, file_name_of


class _InLoop:
    """The parts of an export for an event loop, which would otherwise read all of them at first."""

    def __init__(self, export: Export) -> None:
        self._export = export
        self.close = export.close

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = sync_to_async(self._read)
        while (part := await read()) is not None:
            yield part

    def _read(self) -> bytes | None:
        return next(self._export, None)


def file_response(request: Any, export: Export) -> HttpResponseBase:
    """Return the response with a file, which is read while it is sent, and closed with it."""
    is_in_loop = hasattr(request, "scope")  # of ASGI
    parts: Any = _InLoop(export) if is_in_loop else export
    return _as_file(StreamingHttpResponse(parts), export.record.file_format)


def head_response(file_format: str) -> HttpResponseBase:
    """Return what a HEAD is answered: nothing is read, and nothing is exported."""
    return _as_file(HttpResponse(), file_format)


def _as_file(response: HttpResponseBase, file_format: str) -> HttpResponseBase:
    name = content_disposition_header(as_attachment=True, filename=file_name_of(file_format))
    response["Content-Disposition"] = name or ""
    response["Content-Type"] = content_type_of(file_format)
    # It holds personal data, and may be different at once.
    patch_cache_control(response, private=True, no_store=True)
    return response
