"""Pages in the frame of the admin site, and the page that says which permission is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

from django.contrib import admin
from django.contrib.auth import get_permission_codename
from django.contrib.auth.models import Permission
from django.core.exceptions import PermissionDenied
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _

from osvi_django.exceptions import OSVINotConfigured

_View: TypeAlias = Callable[..., HttpResponseBase]


class FramedPages(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic at run time
    """An admin whose refusals are pages of the admin site, with the permission that is missing."""

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's URLs, each with a page for refusals."""
        urls: list[URLPattern] = super().get_urls()
        for pattern in urls:
            pattern.callback = self._refusing(pattern.callback, pattern.name or "")
        return urls

    def permissions_for(self, page: str) -> Sequence[str]:
        """Return the permissions of which each one opens a page, by the end of its URL's name."""
        action = page if page in {"add", "delete"} else "view"
        return (self._permission_to(action),)

    def ways_in(self, request: HttpRequest) -> list[Any]:
        """Return the links that a user may follow who is refused a page."""
        return []

    def _permission_to(self, action: str) -> str:
        return f"{self.opts.app_label}.{get_permission_codename(action, self.opts)}"

    def _refusing(self, view: _View, name: str) -> _View:
        """Return the view with a page of this site in place of the host's page for status 403."""
        page = name.rpartition("_")[2]

        @wraps(view)
        def view_or_refusal(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                return view(request, *args, **kwargs)
            except PermissionDenied as error:
                return self._refusal(request, page, str(error))
            except OSVINotConfigured as error:
                return self._unusable(request, str(error))

        return view_or_refusal

    def _unusable(self, request: HttpRequest, reason: str) -> TemplateResponse:
        """Return a page that says which setting keeps this site from showing anything."""
        title = _("This page cannot be shown")
        response = self._page(request, "refused.html", title=title, reason=reason)
        response.status_code = 503
        return response

    def _refusal(self, request: HttpRequest, page: str, reason: str) -> TemplateResponse:
        response = self._page(
            request,
            "refused.html",
            title=_("You do not have permission"),
            reason=reason,
            lacking=lacking(request.user, self.permissions_for(page)),
            ways=self.ways_in(request),
        )
        response.status_code = 403
        return response

    def _page(self, request: HttpRequest, template: str, **context: Any) -> TemplateResponse:
        """Return the response for a page of our own with this template."""
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "has_view_permission": self.has_view_permission(request),
            "is_listed": self.get_model_perms(request)["view"],
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, f"admin/osvi_django/{template}", {**shared, **context})


def lacking(user: Any, permissions: Sequence[str]) -> list[str]:
    """Return the names of these permissions as Django's page of a user has them.

    Return none of them if the user has one, which is enough: something else was refused.
    """
    if any(user.has_perm(each) for each in permissions):
        return []
    wanted = Q()
    for each in permissions:
        label, codename = each.split(".")
        wanted |= Q(content_type__app_label=label, codename=codename)
    found = Permission.objects.filter(wanted).select_related("content_type")
    return [str(permission) for permission in found]
