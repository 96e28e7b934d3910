"""Admin sites: Django's own, one of proxies, one with foreign templates, one of sessions alone."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.contrib import admin
from django.urls import include, path

from osvi_django.admin import ChatAgentAdmin, ChatSessionAdmin, CloseJobAdmin
from osvi_django.models import ChatAgent, ChatSession, CloseJob
from tests.themes.models import Bot, Conversation, Sweep

_MIXINS = {
    "unfold_mixed": ("unfold.admin", "ModelAdmin"),
    "unfold_below": ("unfold.admin", "ModelAdmin"),
    "object_actions": ("django_object_actions", "DjangoObjectActions"),
    "guardian": ("guardian.admin", "GuardedModelAdminMixin"),
}


def _mixin():
    """Return the base class that the theme's documentation asks for."""
    if settings.THEME not in _MIXINS:
        return type("Nothing", (), {})
    module, name = _MIXINS[settings.THEME]
    return getattr(import_module(module), name)


Mixin = _mixin()

if settings.THEME.startswith("unfold"):
    from unfold.sites import UnfoldAdminSite as Site
else:
    from django.contrib.admin import AdminSite as Site


class Foreign:
    """A mixin with templates of its own, as many packages have."""

    change_form_template = "hosts/form.html"
    change_list_template = "hosts/list.html"


def _mixed(name, ours):
    """Return our admin with the theme's class before it, or behind it where a host has it so."""
    bases = (ours, Mixin) if settings.THEME == "unfold_below" else (Mixin, ours)
    return type(name, bases, {"__module__": __name__})


SessionAdmin = _mixed("SessionAdmin", ChatSessionAdmin)
AgentAdmin = _mixed("AgentAdmin", ChatAgentAdmin)
JobAdmin = _mixed("JobAdmin", CloseJobAdmin)


def _site(name, **admins):
    site = Site(name)
    models = {
        model.__name__: model
        for model in (ChatAgent, ChatSession, CloseJob, Bot, Conversation, Sweep)
    }
    for model, model_admin in admins.items():
        site.register(models[model], model_admin)
    return site


SITES = {
    "admin": admin.site,
    "own": _site("own", ChatSession=SessionAdmin, ChatAgent=AgentAdmin, CloseJob=JobAdmin),
    "proxies": _site("proxies", Conversation=SessionAdmin, Bot=AgentAdmin, Sweep=JobAdmin),
    "foreign": _site(
        "foreign",
        ChatSession=type("ForeignSessions", (Foreign, SessionAdmin), {}),
        ChatAgent=type("ForeignAgents", (Foreign, AgentAdmin), {}),
        CloseJob=type("ForeignJobs", (Foreign, JobAdmin), {}),
    ),
    "alone": _site("alone", ChatSession=SessionAdmin),
}

urlpatterns = [path(f"{name}/", site.urls) for name, site in SITES.items()]
if settings.THEME == "grappelli":
    urlpatterns.append(path("grappelli/", include("grappelli.urls")))
