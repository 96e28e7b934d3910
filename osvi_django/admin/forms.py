"""The forms of the admin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Self, cast

from django import forms
from django.contrib.admin import AdminSite
from django.contrib.admin.widgets import AutocompleteSelect
from django.db import models
from django.utils.text import normalize_newlines
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.agent_choice import agents_for, find_agents
from osvi_django.admin.bounded import is_key
from osvi_django.admin.deletion import options_of
from osvi_django.conf import DEFAULT_ACCOUNT, InvalidSetting, account_aliases
from osvi_django.exceptions import OSVINotConfigured
from osvi_django.models import ChatAgent, ChatSession
from osvi_django.redaction import HiddenText
from osvi_django.services.access import Purpose
from osvi_django.services.attempts.close_rules import all_close_reasons, close_rules
from osvi_django.services.recovery.reviewing import SUMMARY_MAX_LENGTH
from osvi_django.services.support import TEXT_MAX_LENGTH
from osvi_django.validation import ID_MAX_LENGTH, NOTE_MAX_LENGTH

_NAMESAKES_SHOWN: Final = 10
# How many input fields a start is offered at first, and at most.
ROWS: Final = 5
MAX_ROWS: Final = 50


def accounts_here() -> list[str]:
    """Return the names of the accounts. The service reports settings that cannot be used."""
    try:
        return account_aliases()
    except InvalidSetting:
        return [DEFAULT_ACCOUNT]


def _rules_of(account: str) -> tuple[tuple[str, ...], bool]:
    """Return the rules of an account. The service reports settings that cannot be used."""
    try:
        return close_rules(account)
    except OSVINotConfigured:
        return (), False


class PersonalField(forms.CharField):
    """A field for personal data: error reporters do not see its value.

    Browsers send two characters for a line break and count it as one.
    """

    def to_python(self, value: Any) -> Any:
        """Return the text with one character for each line break, before it is counted."""
        return super().to_python(normalize_newlines(value) if value else value)

    def clean(self, value: Any) -> str:
        """Return the text."""
        return HiddenText(super().clean(value))


def _note(label: Any, help_text: Any, *, required: bool = False) -> forms.CharField:
    return PersonalField(
        label=label,
        help_text=help_text,
        required=required,
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3, "dir": "auto"}),
    )


class CloseForm(forms.Form):
    """The confirmation of a close: why, by the rules of the accounts of what is closed."""

    field_order: Any = ("close_reason", "note")
    close_reason = forms.ChoiceField(label=_("Reason (optional)"), required=False)
    note = _note(
        _("Note (optional)"),
        _("Why are you closing it? Only your colleagues see this."),
    )

    def __init__(self, *args: Any, accounts: Iterable[str] = (), **kwargs: Any) -> None:
        """Offer the reasons of these accounts, and require a note if one of them does."""
        super().__init__(*args, **kwargs)
        rules = [_rules_of(account) for account in accounts]
        reasons = dict.fromkeys(reason for known, _needs_note in rules for reason in known)
        if reasons:
            choices = [("", _("No reason")), *((reason, reason) for reason in reasons)]
            cast("forms.ChoiceField", self.fields["close_reason"]).choices = choices
        else:
            del self.fields["close_reason"]
        note = self.fields["note"]
        if any(needs_note for _known, needs_note in rules) and not note.required:
            note.required = True
            note.label = _("Note")

    @property
    def why(self) -> dict[str, str]:
        """Return the arguments of a service that say why."""
        names = ("note", "close_reason")
        return {name: self.cleaned_data[name] for name in names if name in self.fields}


class CloseJobForm(CloseForm):
    """The confirmation of a job. Its note is stored with each session."""

    field_order = (
        "include_help_requested",
        "include_taken_over",
        "close_reason",
        "note",
        "goodbye",
    )
    include_help_requested = forms.BooleanField(
        label=_("Also close the chats of customers who wait for a person"), required=False
    )
    include_taken_over = forms.BooleanField(
        label=_("Also close the chats that a colleague has taken over"), required=False
    )
    note = _note(
        _("Note (optional)"),
        _("Why are you closing them? Only your colleagues see this."),
    )
    goodbye = PersonalField(
        label=_("Goodbye (optional)"),
        help_text=_("Each chat is taken over, and its customer is sent exactly this text first."),
        required=False,
        max_length=TEXT_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def __init__(self, *args: Any, may_write: bool = False, **kwargs: Any) -> None:
        """Offer a goodbye to users who may write to customers."""
        super().__init__(*args, **kwargs)
        if not may_write:
            del self.fields["goodbye"]

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments of ``confirm_close_job``."""
        return dict(self.cleaned_data)


class MarkForm(CloseForm):
    """The confirmation that a user has seen that a session is closed at OSVI."""

    note = _note(
        _("Note"), _("How do you know it is closed? Your colleagues will see this."), required=True
    )


class ReviewForm(forms.Form):
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


def _pair_field(label: Any, number: int) -> PersonalField:
    named = str(label) % {"number": number + 1}
    attrs = {"aria-label": named, "placeholder": named}
    widget = forms.TextInput(attrs=attrs)
    return PersonalField(label=named, required=False, max_length=ID_MAX_LENGTH, widget=widget)


def _bounded_rows(text: str) -> int:
    """Return how many rows of input fields a form has."""
    number = int(text) if is_key(text) else ROWS
    return max(ROWS, min(number, MAX_ROWS))


class StartForm(AccountForm):
    """The values that a new session starts with."""

    field_order = (
        "agent",
        "agent_uuid",
        "account",
        "customer_id",
        "context",
    )
    # Those of the question whether to close an open chat first.
    _closing = ("replace", "close_reason", "note")
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
    replace = forms.BooleanField(required=False)
    close_reason = forms.ChoiceField(label=_("Reason for closing (optional)"), required=False)
    note = _note(_("Note (optional)"), _("Why are you closing it? Only your colleagues see this."))
    open_chat = forms.CharField(required=False, widget=forms.HiddenInput())
    rows = forms.CharField(required=False, widget=forms.HiddenInput())
    context = PersonalField(
        label=_("Context (optional)"),
        help_text=_("Facts the agent should know, one per line. OSVI keeps the five newest."),
        required=False,
        max_length=TEXT_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def __init__(
        self,
        *args: Any,
        user: Any = None,
        search_on: AdminSite | None = None,
        rows: str = "",
        **kwargs: Any,
    ) -> None:
        """Offer the agents with known UUIDs: in a list, or with a search if there are many.

        ``user``: who starts it, with agents inside their access; ``search_on``: the admin site on
        which they may search them; ``rows``: how many rows of input fields there are, as the form
        had them.
        """
        super().__init__(*args, **kwargs)
        self.number_of_rows = _bounded_rows(rows)
        self.initial["rows"] = str(self.number_of_rows)
        for number in range(self.number_of_rows):
            self.fields[f"name_{number}"] = _pair_field(_("Name %(number)d"), number)
            self.fields[f"value_{number}"] = _pair_field(_("Value %(number)d"), number)
        if reasons := all_close_reasons():
            choices = [("", _("No reason")), *((reason, reason) for reason in reasons)]
            cast("forms.ChoiceField", self.fields["close_reason"]).choices = choices
        else:
            del self.fields["close_reason"]
        agents = cast("forms.ModelChoiceField[ChatAgent]", self.fields["agent"])
        self._known = agents_for(user, Purpose.OPERATE).exclude(uuid=None)
        agents.queryset = self._known
        if find_agents(self._known).has_more:
            agents.widget = AgentSelect.on(search_on) if search_on else forms.HiddenInput()
            agents.widget.choices = agents.choices
            agents.empty_label = None
            self.fields["agent_uuid"].label = _("Name or UUID of the agent")
            self.fields["agent_uuid"].help_text = _(
                "Its name on this site, or its UUID from OSVI's dashboard."
            )
        if "account" in self.fields:
            self.fields["account"].help_text = _("The account of the agent whose UUID you entered.")

    @property
    def pairs(self) -> list[tuple[forms.BoundField, forms.BoundField]]:
        """Return the rows of input fields."""
        return [
            (self[f"name_{number}"], self[f"value_{number}"])
            for number in range(self.number_of_rows)
        ]

    @property
    def main_fields(self) -> list[forms.BoundField]:
        """Return the visible fields, without the rows and those of an open chat."""
        apart = {*self._closing, *(field.name for pair in self.pairs for field in pair)}
        return [field for field in self.visible_fields() if field.name not in apart]

    def _clean_pairs(self) -> None:
        """Check that each value has a name of its own."""
        names: set[str] = set()
        for number in range(self.number_of_rows):
            name = self.cleaned_data.get(f"name_{number}", "")
            if name in names:
                self.add_error(f"name_{number}", _("There is another row with this name."))
            elif not name and self.cleaned_data.get(f"value_{number}"):
                self.add_error(f"name_{number}", _("Enter a name for this value."))
            names |= {name} - {""}

    def _input_fields(self) -> dict[str, str]:
        values = self.cleaned_data
        numbers = range(self.number_of_rows)
        rows = ((values[f"name_{number}"], values[f"value_{number}"]) for number in numbers)
        return {str(name): HiddenText(value) for name, value in rows if name}

    def clean_context(self) -> list[str]:
        """Return the lines."""
        lines = (line.strip() for line in self.cleaned_data["context"].splitlines())
        return [line for line in lines if line]

    def clean(self) -> None:
        """Check that exactly one agent is chosen or named."""
        super().clean()
        self._clean_pairs()
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
        if self._known.filter(uuid=text).exists():
            return
        called = list(self._known.filter(name__iexact=text)[:_NAMESAKES_SHOWN])
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
            "note": values["note"],
            "close_reason": values.get("close_reason", ""),
            "input_fields": self._input_fields(),
            **{name: values[name] for name in ("customer_id", "context")},
        }
