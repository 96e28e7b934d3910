"""Choose an agent to filter the list of sessions by: by typing, however many there are."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast
from urllib.parse import parse_qsl, urlencode

from django import forms
from django.contrib.admin import AdminSite
from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import PermissionDenied
from django.db import models, router
from django.db.models import Q, QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    JsonResponse,
)
from django.urls import URLPattern
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import ConditionFilter, is_key, is_term
from osvi_django.admin.deletion import options_of
from osvi_django.admin.pages import OwnPages
from osvi_django.admin.session_filters import LIST_TEMPLATE, kept_filters
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.services.access import Purpose, agents_inside

AGENTS_SHOWN: Final = 50
# A longer list is no help, and each page makes the query slower.
PAGES_SHOWN: Final = 20
CHOSEN: Final = "agent__id__exact"
_FIND: Final = _("Find an agent…")


class AgentsFound(NamedTuple):
    """The first agents that were found, and whether there are more."""

    agents: list[ChatAgent]
    has_more: bool


def agents_for(user: Any, purpose: Purpose = Purpose.VIEW) -> QuerySet[ChatAgent]:
    """Return the agents inside a user's access, from the database they are written to."""
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
    return agents_inside(agents, user, purpose)


def find_agents(agents: QuerySet[ChatAgent], text: str = "", *, page: int = 1) -> AgentsFound:
    """Return those with this in their name, or whose UUID begins with it; "" finds all."""
    if text:
        named = Q(name__icontains=text) | Q(uuid__istartswith=text)
        agents = agents.filter(named) if is_term(text) else agents.none()
    first = AGENTS_SHOWN * (page - 1)
    found = list(agents[first : first + AGENTS_SHOWN + 1])
    return AgentsFound(found[:AGENTS_SHOWN], len(found) > AGENTS_SHOWN)


class AgentPicker(AutocompleteSelect):
    """A select field of an agent, searched by a view of ours.

    Django's own view asks for the permission to view agents, which support staff need not have.
    """

    def __init__(self, url: str, site: AdminSite) -> None:
        """Store the URL that finds agents."""
        field = cast("models.ForeignKey[Any, Any]", options_of(ChatSession).get_field("agent"))
        super().__init__(field, site)
        self.url = url

    def get_url(self) -> str:
        return self.url

    def optgroups(self, name: str, value: Any, attrs: Any = None) -> Any:
        """Return the choices as they are: they have been read."""
        return forms.Select.optgroups(self, name, value, attrs)

    def build_attrs(self, base_attrs: Any, extra_attrs: Any = None) -> dict[str, Any]:
        """Return Django's attributes, with words in place of an empty choice.

        What is typed goes into an element beside the field: some themes keep the focus in the
        filters while these are shown.
        """
        attrs = super().build_attrs(base_attrs, extra_attrs)
        ours = {
            "data-placeholder": _("Type a name or UUID"),
            "data-dropdown-parent": ".osvi-choose-agent",
        }
        return {**attrs, **ours}


class AgentFilter(ConditionFilter):
    """Filter by agent: by a field that suggests agents, or by a form that finds them."""

    title = _("agent")
    parameter_name = CHOSEN
    template = "admin/osvi_django/chatsession/agent_filter.html"
    find_form = "osvi-find-agent"
    choose_form = "osvi-choose-agent"

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        """Store the admin that finds agents; the forms for it are part of our own template."""
        self.agent_views = model_admin if isinstance(model_admin, AgentViews) else None
        super().__init__(request, params, model, model_admin)

    @property
    def has_form(self) -> bool:
        """Return whether the page has the forms that belong to this filter."""
        views = self.agent_views
        return views is not None and views.change_list_template == LIST_TEMPLATE

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return only the chosen agent: the others are found by typing."""
        chosen = self.value() or ""
        found = agents_for(request.user).filter(pk=chosen) if is_key(chosen) else ()
        return [(str(agent.pk), str(agent)) for agent in found]

    def value(self) -> str | None:
        """Return the chosen agent; the form sends an empty value for none."""
        return super().value() or None

    def has_output(self) -> bool:
        """Return True: there is always a way to find an agent."""
        return True

    @property
    def select(self) -> SafeString:
        """Return the field that suggests agents."""
        picker = cast("AgentViews", self.agent_views).agent_picker()
        picker.choices = [("", ""), *self.lookup_choices]
        attrs = {"id": "osvi-agent", "form": self.choose_form}
        return picker.render(CHOSEN, self.value(), attrs)

    def choices(self, changelist: ChangeList) -> Any:
        """Yield the links; without the forms, the last one opens the page that finds agents."""
        yield from super().choices(changelist)
        if self.agent_views is not None and not self.has_form:
            filters = changelist.get_query_string(remove=[CHOSEN, PAGE_VAR])[1:]
            query = urlencode({"_changelist_filters": filters})
            url = f"{self.agent_views.url_to('agents')}?{query}"
            yield {"selected": False, "query_string": url, "display": _FIND}

    def condition(self, value: str) -> Q:
        return Q(agent=value)


class AgentViews(OwnPages):
    """The views of ``ChatSessionAdmin`` that find an agent to filter the list by."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of these views and those of the base classes."""
        return [
            self._path("agents", self.agents_view),
            self._path("agents/search", self.agent_search_view),
            *super().own_urls(),
        ]

    def agent_picker(self) -> AgentPicker:
        """Return a field that suggests agents."""
        return AgentPicker(self.url_to("search"), self.admin_site)

    def agents_view(self, request: HttpRequest) -> HttpResponseBase:
        """Show the agents that match a text, each as a link to the list of its sessions.

        If only one matches, redirect to its list.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        text = request.GET.get("agent", "").strip()
        filters = request.GET.get("_changelist_filters", "")
        found = find_agents(agents_for(request.user), text)
        if text and len(found.agents) == 1:
            return HttpResponseRedirect(self._sessions_of(found.agents[0], filters))
        return self._page(
            request,
            "chatsession/agents.html",
            title=_("Find an agent"),
            text=text,
            filters=filters,
            rows=[(agent, self._sessions_of(agent, filters)) for agent in found.agents],
            has_more=found.has_more,
        )

    def agent_search_view(self, request: HttpRequest) -> HttpResponseBase:
        """Return the agents that match a text, as the script of Django's autocomplete reads them.

        The list shows the name of each agent, so users who may see the list may find them.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        page = request.GET.get("page", "")
        number = min(max(int(page), 1), PAGES_SHOWN) if is_key(page) else 1
        text = request.GET.get("term", "").strip()
        found = find_agents(agents_for(request.user), text, page=number)
        return JsonResponse(
            {
                "results": [{"id": str(each.pk), "text": str(each)} for each in found.agents],
                "pagination": {"more": found.has_more and number < PAGES_SHOWN},
            }
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, with what the forms of the filter by agent need."""
        kept = kept_filters(request, {CHOSEN})
        context = {"agents_url": self.url_to("agents"), "kept_by_agents": kept}
        context["filters_without_agent"] = urlencode(kept)
        response = super().changelist_view(request, {**context, **(extra_context or {})})
        shown = getattr(response, "context_data", None) or {}
        if "cl" in shown:  # and not the page of an action
            shown["media"] += self.agent_picker().media
        return response

    def _sessions_of(self, agent: ChatAgent, filters: str) -> str:
        kept = [pair for pair in parse_qsl(filters) if pair[0] not in {CHOSEN, PAGE_VAR}]
        return f"{self.url_to('changelist')}?{urlencode([*kept, (CHOSEN, agent.pk)])}"
