"""Agents in the admin: OSVI does not tell their names everywhere, so staff may."""

from __future__ import annotations

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.translation import gettext_lazy as _

from osvi_django.models import ChatAgent


class AgentForm(forms.ModelForm):  # type: ignore[type-arg]  # no generic at run time
    """An agent and its UUID, without which no session of it can be closed or started."""

    def clean_uuid(self) -> str | None:
        """One that no other agent of the account has; a new agent has one."""
        uuid: str | None = self.cleaned_data["uuid"]
        if uuid is None and self.instance.pk is None:
            raise forms.ValidationError(_("Write the UUID of the agent."), code="required")
        others = ChatAgent.objects.filter(account=self._account, uuid=uuid)
        if uuid is not None and others.exclude(pk=self.instance.pk).exists():
            problem = _(
                "Another agent here has this UUID. Look up a customer of it: then OSVI tells its "
                "number, and both become one."
            )
            raise forms.ValidationError(problem)
        return uuid

    @property
    def _account(self) -> str:
        return str(self.cleaned_data.get("account", self.instance.account))


@admin.register(ChatAgent)
class ChatAgentAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # no generic at run time
    """List and name agents; what the vendor calls one stays as it was once it is known."""

    form = AgentForm
    list_display = ("__str__", "uuid", "number", "account")
    list_filter = ("account",)
    search_fields = ("name", "uuid")
    fields = ("account", "uuid", "number", "name")

    def get_readonly_fields(
        self, request: HttpRequest, obj: ChatAgent | None = None
    ) -> tuple[str, ...]:
        if obj is None:
            return ("number",)
        return ("account", "number") if obj.uuid is None else ("account", "number", "uuid")
