"""Choose an agent: by links if there are few, by a search if there are many."""

from __future__ import annotations

from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode

from django.contrib.admin.views.main import PAGE_VAR, ChangeList
from django.core.exceptions import PermissionDenied
from django.db import router
from django.db.models import Q
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import ConditionFilter, is_key, is_term
from osvi_django.admin.pages import OwnPages
from osvi_django.models import ChatAgent

AGENTS_SHOWN: Final = 50
CHOSEN: Final = "agent__id__exact"


class AgentsFound(NamedTuple):
    """The first agents that were found, and whether there are more."""

    agents: list[ChatAgent]
    has_more: bool


def find_agents(text: str = "", **only: Any) -> AgentsFound:
    """Return the agents with this in their name, or whose UUID begins with it; "" finds all."""
    agents = ChatAgent.objects.using(router.db_for_write(ChatAgent)).filter(**only)
    if text:
        named = Q(name__icontains=text) | Q(uuid__istartswith=text)
        agents = agents.filter(named) if is_term(text) else agents.none()
    found = list(agents[: AGENTS_SHOWN + 1])
    return AgentsFound(found[:AGENTS_SHOWN], len(found) > AGENTS_SHOWN)


class AgentFilter(ConditionFilter):
    """Filter by agent: a link for each if there are few, a page to find one if there are many."""

    title = _("agent")
    parameter_name = CHOSEN

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        """Store the URL of the page that finds agents, if this admin has one."""
        self.page = model_admin.url_to("agents") if isinstance(model_admin, AgentViews) else ""
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        agents, self.has_more = find_agents()
        if self.has_more:
            chosen = self.value() or ""
            agents = list(ChatAgent.objects.filter(pk=chosen)) if is_key(chosen) else []
        return [(str(agent.pk), str(agent)) for agent in agents]

    def has_output(self) -> bool:
        """Return whether there is anything to choose, or a choice to show."""
        return bool(self.lookup_choices) or self.has_more or self.value() is not None

    def choices(self, changelist: ChangeList) -> Any:
        """Yield the links; the last one opens the page that finds the other agents."""
        yield from super().choices(changelist)
        if self.has_more and self.page:
            filters = changelist.get_query_string(remove=[CHOSEN, PAGE_VAR])[1:]
            query = urlencode({"_changelist_filters": filters})
            yield {"selected": False, "query_string": f"{self.page}?{query}", "display": _FIND}

    def condition(self, value: str) -> Q:
        return Q(agent=value)


_FIND: Final = _("Find an agent…")


class AgentViews(OwnPages):
    """The page of ``ChatSessionAdmin`` that finds an agent to filter the list by."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URL of this page and those of the base classes."""
        return [self._path("agents", self.agents_view), *super().own_urls()]

    def agents_view(self, request: HttpRequest) -> HttpResponseBase:
        """Show the agents that match a text, each as a link to the list of its sessions."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        text = request.GET.get("agent", "").strip()
        filters = request.GET.get("_changelist_filters", "")
        found = find_agents(text)
        return self._page(
            request,
            "chatsession/agents.html",
            title=_("Find an agent"),
            text=text,
            filters=filters,
            rows=[(agent, self._sessions_of(agent, filters)) for agent in found.agents],
            has_more=found.has_more,
        )

    def _sessions_of(self, agent: ChatAgent, filters: str) -> str:
        kept = [pair for pair in parse_qsl(filters) if pair[0] not in {CHOSEN, PAGE_VAR}]
        return f"{self.url_to('changelist')}?{urlencode([*kept, (CHOSEN, agent.pk)])}"
