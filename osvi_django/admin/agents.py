"""Agents in the admin: staff can name them, because OSVI does not always send names."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.db import router
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.bounded import BoundedAdmin, ConditionFilter
from osvi_django.admin.forms import accounts_here
from osvi_django.admin.mixins import WrittenRows
from osvi_django.admin.options import Names
from osvi_django.admin.pagination import CappedPaginator
from osvi_django.models import ChatAgent
from osvi_django.services.access import Purpose, agents_inside


class AgentForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """An agent and its UUID, which is needed to close or start its sessions."""

    def clean_uuid(self) -> str | None:
        """Return a UUID that no other agent of the account has; a new agent must have one."""
        uuid: str | None = self.cleaned_data["uuid"]
        if uuid is None and self.instance.pk is None:
            raise forms.ValidationError(_("Enter the agent's UUID."), code="required")
        agents = ChatAgent.objects.using(router.db_for_write(ChatAgent))
        others = agents.filter(account=self._account, uuid=uuid)
        if uuid is not None and others.exclude(pk=self.instance.pk).exists():
            problem = _(
                "Another agent on this site has this UUID. Look up one of its customers: OSVI "
                "then sends the agent's number, and the two entries are merged."
            )
            raise forms.ValidationError(problem)
        return uuid

    @property
    def _account(self) -> str:
        return str(self.cleaned_data.get("account", self.instance.account))


class AccountFilter(ConditionFilter):
    """Filter by account, if this site has several."""

    title = _("account")
    parameter_name = "account"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        accounts = accounts_here()
        return [(alias, alias) for alias in accounts] if len(accounts) > 1 else []

    def has_output(self) -> bool:
        """Return whether there is anything to choose, or a choice to show."""
        return bool(self.lookup_choices) or self.value() is not None

    def condition(self, value: str) -> Q:
        return Q(account=value)


@admin.register(ChatAgent)
class ChatAgentAdmin(WrittenRows, BoundedAdmin):
    """List and name agents. OSVI's ids of an agent cannot be changed once they are known."""

    form = AgentForm
    list_display: Names = ("__str__", "uuid", "number", "account")
    list_filter: ClassVar[Names] = (AccountFilter,)
    list_per_page = 50
    # Counting the whole table becomes slower with every row.
    show_full_result_count = False
    paginator = CappedPaginator
    change_list_template = "admin/osvi_django/capped_list.html"
    search_fields: ClassVar[Names] = ("name", "uuid")
    fields: ClassVar[Names] = ("account", "uuid", "number", "name")

    class Media:
        css = {"all": ("osvi_django/admin.css",)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[ChatAgent]:
        """Return the agents inside the user's access."""
        return agents_inside(super().get_queryset(request), request.user, Purpose.VIEW)

    def get_readonly_fields(
        self, request: HttpRequest, obj: ChatAgent | None = None
    ) -> tuple[str, ...]:
        if obj is None:
            return ("number",)
        return ("account", "number") if obj.uuid is None else ("account", "number", "uuid")
