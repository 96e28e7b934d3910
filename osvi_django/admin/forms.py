"""The forms of the admin."""

from __future__ import annotations

import json
from typing import Any, Final, Self, cast

from django import forms
from django.contrib.admin import AdminSite
from django.contrib.admin.widgets import AutocompleteSelect
from django.db import models, router
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.agent_choice import find_agents
from osvi_django.admin.bounded import is_key
from osvi_django.admin.deletion import options_of
from osvi_django.conf import DEFAULT_ACCOUNT, InvalidSetting, account_aliases
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.redaction import HiddenText
from osvi_django.services.recovery.reviewing import SUMMARY_MAX_LENGTH
from osvi_django.services.support import COMMANDS, TEXT_MAX_LENGTH, SupportCommand
from osvi_django.validation import ID_MAX_LENGTH, NOTE_MAX_LENGTH

_NAMESAKES_SHOWN: Final = 10
# The commands of the desk, by the values of their buttons.
DESK_COMMANDS: Final = {str(kind): command for kind, command in COMMANDS.items() if command.button}


def accounts_here() -> list[str]:
    """Return the names of the accounts. The service reports settings that cannot be used."""
    try:
        return account_aliases()
    except InvalidSetting:
        return [DEFAULT_ACCOUNT]


class PersonalField(forms.CharField):
    """A field for personal data: error reporters do not see its value."""

    def clean(self, value: Any) -> str:
        """Return the text."""
        return HiddenText(super().clean(value))


def _text_field(command: SupportCommand) -> forms.CharField:
    widget = forms.Textarea(attrs={"rows": 3, "maxlength": TEXT_MAX_LENGTH})
    label, help_text = str(command.label), str(command.help_text)
    return PersonalField(label=label, help_text=help_text, required=False, widget=widget)


def _note(label: Any, help_text: Any, *, required: bool = False) -> forms.CharField:
    return PersonalField(
        label=label,
        help_text=help_text,
        required=required,
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class CloseForm(forms.Form):
    """The confirmation of a close."""

    note = _note(
        _("Note (optional)"),
        _("Why are you closing it? Only your colleagues see this."),
    )


class CloseJobForm(CloseForm):
    """The confirmation of a job. Its note is stored with each session."""

    note = _note(
        _("Note (optional)"),
        _("Why are you closing them? Only your colleagues see this."),
    )


class MarkForm(CloseForm):
    """The confirmation that a user has seen that a session is closed at OSVI."""

    note = _note(
        _("Note"), _("How do you know it is closed? Your colleagues will see this."), required=True
    )


class ReviewForm(CloseForm):
    """The text that is used as the summary from an unreliable answer."""

    field_order = ("text", "note")
    text = PersonalField(
        label=_("Summary"),
        help_text=_("The part of the answer that is the summary. You can correct it."),
        max_length=SUMMARY_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 12}),
    )
    note = _note(
        _("Note (optional)"),
        _("How do you know it is right? Only your colleagues see this."),
    )

    def clean_text(self) -> str:
        """Return the text with normalized line ends."""
        return HiddenText(self.cleaned_data["text"].replace("\r\n", "\n"))


class AccountForm(forms.Form):
    """A form that asks for the OSVI account if there are several."""

    account = forms.ChoiceField(label=_("OSVI account"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Read which accounts there are."""
        super().__init__(*args, **kwargs)
        self.accounts = accounts_here()
        if len(self.accounts) > 1:
            choices = [(alias, alias) for alias in self.accounts]
            cast("forms.ChoiceField", self.fields["account"]).choices = choices
        else:
            del self.fields["account"]

    @property
    def chosen_account(self) -> str:
        """Return the chosen account, or the only one."""
        return str(self.cleaned_data.get("account") or self.accounts[0])


class LookUpForm(AccountForm):
    """The customer to look up."""

    field_order = ("customer_id", "account")
    customer_id = PersonalField(
        label=_("Customer"),
        help_text=_(
            "The customer's full phone number or id, as OSVI knows it, for example +15551112222."
        ),
        max_length=ID_MAX_LENGTH,
    )

    @property
    def asked(self) -> tuple[str, str]:
        """Return the customer and the account."""
        return self.cleaned_data["customer_id"], self.chosen_account


class AgentSelect(AutocompleteSelect):
    """A select field of an agent, searched by name."""

    @classmethod
    def on(cls, site: AdminSite) -> Self:
        """Return one that searches the agents of this admin site."""
        field = cast("models.ForeignKey[Any, Any]", options_of(ChatSession).get_field("agent"))
        return cls(field, site)

    def optgroups(self, name: str, value: Any, attrs: Any = None) -> Any:
        """Return the chosen agent, if the value can be its key."""
        return super().optgroups(name, [each for each in value if is_key(each)], attrs)


class StartForm(AccountForm):
    """The values that a new session starts with."""

    field_order = (
        "agent",
        "agent_uuid",
        "account",
        "customer_id",
        "replace",
        "input_fields",
        "context",
    )
    agent: forms.ModelChoiceField[ChatAgent] = forms.ModelChoiceField(
        label=_("Agent"),
        queryset=ChatAgent.objects.none(),
        required=False,
        empty_label=_("Another agent (enter its UUID below)"),
    )
    agent_uuid = forms.CharField(
        label=_("UUID of another agent"),
        help_text=_(
            "Only for an agent that is not in the list. See OSVI's dashboard for the UUID."
        ),
        required=False,
        max_length=ID_MAX_LENGTH,
    )
    customer_id = PersonalField(
        label=_("Customer"),
        help_text=_(
            "The customer's full phone number or id, as your site and OSVI know it, for example "
            "+15551112222."
        ),
        max_length=ID_MAX_LENGTH,
    )
    replace = forms.BooleanField(
        label=_("Close the open chat first"),
        help_text=_(
            "If the customer already has an open chat with this agent, close it and keep its "
            "summary; this can take up to a minute. If you do not tick this, no new chat is "
            "started in that case."
        ),
        required=False,
    )
    input_fields = PersonalField(
        label=_("Input fields (optional)"),
        help_text=_(
            'What the agent should know about the customer, as JSON: {"first_name": "Alex"}'
        ),
        required=False,
        max_length=TEXT_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    context = PersonalField(
        label=_("Context (optional)"),
        help_text=_("Facts the agent should know, one per line. OSVI keeps the five newest."),
        required=False,
        max_length=TEXT_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def __init__(self, *args: Any, search_on: AdminSite | None = None, **kwargs: Any) -> None:
        """Offer the agents with known UUIDs: in a list, or with a search if there are many.

        ``search_on``: the admin site on which this user may search them.
        """
        super().__init__(*args, **kwargs)
        agents = cast("forms.ModelChoiceField[ChatAgent]", self.fields["agent"])
        known = ChatAgent.objects.using(router.db_for_write(ChatAgent))
        agents.queryset = known.exclude(uuid=None)
        if find_agents(uuid__isnull=False).has_more:
            agents.widget = AgentSelect.on(search_on) if search_on else forms.HiddenInput()
            agents.widget.choices = agents.choices
            agents.empty_label = None
            self.fields["agent_uuid"].label = _("Name or UUID of the agent")
            self.fields["agent_uuid"].help_text = _(
                "Its name on this site, or its UUID from OSVI's dashboard."
            )
        if "account" in self.fields:
            self.fields["account"].help_text = _("The account of the agent whose UUID you entered.")

    def clean_input_fields(self) -> dict[str, Any]:
        """Return the object. Any other JSON, however deep or long, is an error in the form."""
        text = self.cleaned_data["input_fields"]
        try:
            fields = json.loads(text or "{}")
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            problem = _(
                'Enter a JSON object with straight quotes, for example {"first_name": "Alex"}'
            )
            raise forms.ValidationError(problem)
        return fields

    def clean_context(self) -> list[str]:
        """Return the lines."""
        lines = (line.strip() for line in self.cleaned_data["context"].splitlines())
        return [line for line in lines if line]

    def clean(self) -> None:
        """Check that exactly one agent is chosen or named."""
        super().clean()
        self._take_name()
        is_named = self.cleaned_data.get("agent_uuid") or "agent_uuid" in self.errors
        if bool(self.cleaned_data.get("agent")) == bool(is_named):
            problem = _("Choose an agent from the list, or enter the UUID of another agent.")
            self.add_error("agent", problem)

    def _take_name(self) -> None:
        """Choose the agent whose name was entered in place of a UUID."""
        text = self.cleaned_data.get("agent_uuid")
        if not text or self.cleaned_data.get("agent"):
            return
        known = ChatAgent.objects.using(router.db_for_write(ChatAgent)).exclude(uuid=None)
        if known.filter(uuid=text).exists():
            return
        called = list(known.filter(name__iexact=text)[:_NAMESAKES_SHOWN])
        if len(called) == 1:
            self.cleaned_data.update(agent=called[0], agent_uuid="")
        elif called:
            problem = _("Several agents have this name. Enter the UUID of one: %(uuids)s")
            uuids = ", ".join(f"{agent.uuid} ({agent.account})" for agent in called)
            self.add_error("agent_uuid", problem % {"uuids": uuids})

    def wanted(self) -> dict[str, Any]:
        """Return the arguments of ``start_session``."""
        values = self.cleaned_data
        agent = values["agent"]
        return {
            "agent_uuid": agent.uuid if agent else values["agent_uuid"],
            "account": agent.account if agent else self.chosen_account,
            "replace": values.get("replace", False),
            **{name: values[name] for name in ("customer_id", "input_fields", "context")},
        }


class DeskForm(forms.Form):
    """The texts of the desk, a field for each command that takes one; one is sent at a time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make the fields from the table of commands."""
        super().__init__(*args, **kwargs)
        commands = [(name, each) for name, each in DESK_COMMANDS.items() if each.field]
        self.fields |= {name: _text_field(command) for name, command in commands}

    def text_of(self, name: str) -> str:
        """Return the text of a field. If it is empty, add an error and return ""."""
        text = HiddenText(self.cleaned_data.get(name, "").replace("\r\n", "\n"))
        if not text and name not in self.errors:
            self.add_error(name, _("Enter a text first."))
        return text
