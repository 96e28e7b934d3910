"""What the views of ``ChatSessionAdmin`` that ask OSVI have in common, whatever they ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.rows import url_of
from osvi_django.models import ChatSession
from osvi_django.services.permissions import may_operate
from osvi_django.transactions import non_atomic

# The views that ask OSVI, by the ends of their names.
_ASKING: Final = ("_close", "_mark", "_changelist", "_desk", "_lookup", "_start")


class AskingViews(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic at run time
    """Views of our own beside the admin's, outside any transaction."""

    def own_urls(self) -> list[URLPattern]:
        """The URLs of these views; whoever has more adds them to those of ``super()``."""
        return []

    def get_urls(self) -> list[URLPattern]:
        """The admin's URLs and ours, with those that ask OSVI outside any transaction."""
        urls = self.own_urls() + super().get_urls()
        for pattern in urls:
            if pattern.name and pattern.name.endswith(_ASKING):
                pattern.callback = non_atomic(pattern.callback)
        return urls

    def has_operate_permission(self, request: HttpRequest, obj: ChatSession | None = None) -> bool:
        """Whether to offer to look up, start and operate; the services decide once more."""
        return may_operate(request.user, obj)

    def _page(self, request: HttpRequest, name: str, **context: Any) -> TemplateResponse:
        """A page of our own, from this template."""
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "cl": {"opts": self.opts},  # the list's template takes its breadcrumbs from there
            "media": self.media,
            "has_view_permission": self.has_view_permission(request),
        }
        request.current_app = self.admin_site.name
        template = f"admin/osvi_django/chatsession/{name}.html"
        return TemplateResponse(request, template, {**shared, **context})

    def _path(self, route: str, view: Callable[..., HttpResponseBase]) -> URLPattern:
        """A view whose URL ends with its name."""
        name = f"{self.opts.app_label}_{self.opts.model_name}_{route.rpartition('/')[2]}"
        return path(f"{route}/", self.admin_site.admin_view(view), name=name)

    def _url(self, name: str) -> str:
        """The address of a page that is not about one session."""
        site = self.admin_site.name
        return reverse(f"admin:osvi_django_chatsession_{name}", current_app=site)

    def _page_after(self, request: HttpRequest, session: ChatSession) -> str:
        if self.has_view_permission(request, session):
            return url_of(self, "chatsession_change", session)
        if self.has_operate_permission(request, session):
            return url_of(self, "chatsession_desk", session)
        return reverse("admin:index", current_app=self.admin_site.name)

    def _say_gone(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        sentence = _("There is no chat session “%(key)s”. Perhaps it was deleted?")
        self.message_user(request, sentence % {"key": object_id}, messages.WARNING)
        return HttpResponseRedirect(reverse("admin:index", current_app=self.admin_site.name))
