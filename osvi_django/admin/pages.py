"""Pages in addition to the admin's own: their URLs and their context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from django.apps import apps
from django.contrib import admin, messages
from django.contrib.admin.utils import quote
from django.contrib.admin.views.main import ChangeList
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters

from osvi_django.admin.bounded import BoundedAdmin
from osvi_django.admin.deletion import POSTED, options_of, redirect_to_itself
from osvi_django.admin.kept import LOGGED_OUT, Kept, note_logged_out
from osvi_django.models import ChatSession

_LOGGED_OUT: Final = _(
    "Nothing was done: you were logged out. If your browser has kept what you typed, it is in the "
    "form below."
)

_Admin = TypeVar("_Admin", bound="admin.ModelAdmin[Any]")


@dataclass(frozen=True, kw_only=True)
class Way:
    """A link to another page.

    ``is_weighty``: whether the action there is what most come for, and cannot be undone;
    ``is_erasing``: whether data is lost there.
    """

    label: Any
    url: str
    is_weighty: bool = False
    is_erasing: bool = False


class OwnPages(BoundedAdmin):
    """An admin with pages of its own, for its model or a proxy of it, on any admin site."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of these pages; a subclass adds its own to those of ``super()``."""
        return []

    def get_urls(self) -> list[URLPattern]:
        """Return our URLs before the admin's, one of which matches every path."""
        return self.own_urls() + super().get_urls()

    def url_to(self, name: str, *args: Any) -> str:
        """Return the URL of a page of this admin, on the same admin site."""
        return url_to(self, name, *args)

    def url_of_index(self) -> str:
        """Return the URL of the admin site's index page."""
        return reverse("admin:index", current_app=self.admin_site.name)

    def _return_after_login(self, request: HttpRequest, page: str) -> HttpResponseRedirect:
        """Report that a form was not read: the login page leads here in place of its answer."""
        self.message_user(request, _LOGGED_OUT, messages.WARNING)
        note_logged_out(request, page)
        return redirect_to_itself(request)

    def _path(self, route: str, view: Callable[..., HttpResponseBase]) -> URLPattern:
        """Return the pattern of a view whose URL ends with its name."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_{route.rpartition('/')[2]}"
        # Posted texts may be personal: Django's error reports must not show them.
        hiding = sensitive_post_parameters()(self.admin_site.admin_view(view))
        return path(f"{route}/", self._refusing(hiding, name), name=name)


class WaysFilter(admin.SimpleListFilter):
    """Links shown as a filter, for list templates that are not ours."""

    title = _("not in this list")
    parameter_name = "osvi_way"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(way.url, way.label) for way in model_admin.ways_of_list(request)]

    def choices(self, changelist: ChangeList) -> Any:
        """Yield the links."""
        for url, label in self.lookup_choices:
            yield {"selected": False, "query_string": url, "display": label}

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        return queryset


def url_to(model_admin: admin.ModelAdmin[Any], name: str, *args: Any) -> str:
    """Return the URL of a page of any admin, on its own admin site."""
    opts = model_admin.opts
    route = f"admin:{opts.app_label}_{opts.model_name}_{name}"
    quoted = [quote(arg) for arg in args]
    return reverse(route, args=quoted, current_app=model_admin.admin_site.name)


def admin_of(site: admin.AdminSite, model: type[Model], kind: type[_Admin]) -> _Admin | None:
    """Return the admin of this kind with which a site has a model or its proxy, or None."""
    for each in (model, *_proxies_of(model)):
        if site.is_registered(each) and isinstance(found := site.get_model_admin(each), kind):
            return found
    return None


def admin_of_sessions(
    site: admin.AdminSite, request: HttpRequest
) -> admin.ModelAdmin[ChatSession] | None:
    """Return the admin of sessions on this site; None if this user may not see them there."""
    found: admin.ModelAdmin[ChatSession] | None = admin_of(site, ChatSession, admin.ModelAdmin)
    return found if found is not None and found.has_view_permission(request) else None


def _proxies_of(model: type[Model]) -> list[type[Model]]:
    models = (each for each in apps.get_models() if issubclass(each, model))
    return [each for each in models if options_of(each).proxy]


def is_after_login(request: HttpRequest) -> bool:
    """Return whether the login page has led here from a form that was sent after a logout."""
    return request.method == "GET" and POSTED in request.GET


def posted_context(request: HttpRequest, kept: Kept) -> dict[str, Any]:
    """Return the context of a form that outlives a logout: ``posted_form.html`` has the rest."""
    return {
        "posted_url": with_query(request.get_full_path(), **{POSTED: "yes"}),
        "is_restored": kept.repeats == LOGGED_OUT,
    }


def with_query(url: str, **values: Any) -> str:
    """Return a URL with these values added to its query string."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(values)}"
