"""What staff are asked before something is done."""

from __future__ import annotations

import json
from typing import Any, cast

from django import forms
from django.utils.translation import gettext_lazy as _

from osvi_django.conf import DEFAULT_ACCOUNT, InvalidSetting, account_aliases
from osvi_django.models import ID_MAX_LENGTH, NOTE_MAX_LENGTH, ChatAgent
from osvi_django.services.support import TEXT_MAX_LENGTH


def _accounts() -> list[str]:
    """The names of the accounts; of settings that cannot be used the service tells."""
    try:
        return account_aliases()
    except InvalidSetting:
        return [DEFAULT_ACCOUNT]


def _words(label: Any, help_text: Any) -> forms.CharField:
    widget = forms.Textarea(attrs={"rows": 3, "maxlength": TEXT_MAX_LENGTH})
    return forms.CharField(label=label, help_text=help_text, required=False, widget=widget)


def _note(label: Any, help_text: Any, *, required: bool = False) -> forms.CharField:
    return forms.CharField(
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
        _("Why you close it, for your colleagues. It is not sent to OSVI."),
    )


class CloseJobForm(CloseForm):
    """The confirmation of a job, whose note is that of each of its sessions."""

    note = _note(
        _("Note (optional)"),
        _("Why you close them, for your colleagues. It is not sent to OSVI."),
    )


class MarkForm(CloseForm):
    """The confirmation that a session is closed at OSVI, by the word of whoever looked."""

    note = _note(
        _("Note"), _("How you know that it is closed, for your colleagues."), required=True
    )


class AccountForm(forms.Form):
    """A form that asks for the OSVI account where there are several."""

    account = forms.ChoiceField(label=_("OSVI account"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Read which accounts there are."""
        super().__init__(*args, **kwargs)
        self.accounts = _accounts()
        if len(self.accounts) > 1:
            choices = [(alias, alias) for alias in self.accounts]
            cast("forms.ChoiceField", self.fields["account"]).choices = choices
        else:
            del self.fields["account"]

    @property
    def chosen_account(self) -> str:
        """The one that was chosen, or the only one."""
        return str(self.cleaned_data.get("account") or self.accounts[0])


class LookUpForm(AccountForm):
    """Of which customer OSVI is asked what is open."""

    field_order = ("customer_id", "account")
    customer_id = forms.CharField(
        label=_("Customer"),
        help_text=_("The id that your site gave OSVI for the customer, all of it."),
        max_length=ID_MAX_LENGTH,
    )

    @property
    def asked(self) -> tuple[str, str]:
        """The customer and the account."""
        return self.cleaned_data["customer_id"], self.chosen_account


class StartForm(AccountForm):
    """What a new session begins with."""

    field_order = ("agent", "agent_uuid", "account", "customer_id", "input_fields", "context")
    agent: forms.ModelChoiceField[ChatAgent] = forms.ModelChoiceField(
        label=_("Agent"),
        queryset=ChatAgent.objects.none(),
        required=False,
        empty_label=_("Not in this list: its UUID follows"),
    )
    agent_uuid = forms.CharField(
        label=_("UUID of another agent"),
        help_text=_("For an agent that is not in the list. OSVI's dashboard shows it."),
        required=False,
        max_length=ID_MAX_LENGTH,
    )
    customer_id = forms.CharField(
        label=_("Customer"),
        help_text=_("The id by which your site and OSVI know the customer, a phone number say."),
        max_length=ID_MAX_LENGTH,
    )
    input_fields = forms.CharField(
        label=_("Input fields (optional)"),
        help_text=_('What the agent is told of the customer, as JSON: {"first_name": "Alex"}'),
        required=False,
        max_length=TEXT_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )
    context = forms.CharField(
        label=_("Context (optional)"),
        help_text=_("Facts for the agent to know, one a line. OSVI keeps the last five."),
        required=False,
        max_length=TEXT_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Offer the agents whose UUIDs are known."""
        super().__init__(*args, **kwargs)
        agents = cast("forms.ModelChoiceField[ChatAgent]", self.fields["agent"])
        agents.queryset = ChatAgent.objects.exclude(uuid=None)
        if "account" in self.fields:
            self.fields["account"].help_text = _("Of the agent whose UUID you wrote.")

    def clean_input_fields(self) -> dict[str, Any]:
        """An object; JSON of whatever depth and length that is none is a mistake, not a failure."""
        text = self.cleaned_data["input_fields"]
        try:
            fields = json.loads(text or "{}")
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            problem = _('Write an object of JSON, with straight quotes: {"first_name": "Alex"}')
            raise forms.ValidationError(problem)
        return fields

    def clean_context(self) -> list[str]:
        """Its lines."""
        lines = (line.strip() for line in self.cleaned_data["context"].splitlines())
        return [line for line in lines if line]

    def clean(self) -> None:
        """One agent, chosen or named."""
        super().clean()
        if bool(self.cleaned_data.get("agent")) == bool(self.cleaned_data.get("agent_uuid")):
            problem = _("Choose an agent from the list, or write the UUID of another one.")
            self.add_error("agent", problem)

    def wanted(self) -> dict[str, Any]:
        """What ``start_session`` takes."""
        told = self.cleaned_data
        agent = told["agent"]
        return {
            "agent_uuid": agent.uuid if agent else told["agent_uuid"],
            "account": agent.account if agent else self.chosen_account,
            **{name: told[name] for name in ("customer_id", "input_fields", "context")},
        }


class DeskForm(forms.Form):
    """All that may be written at the desk of a session; one of it is sent at a time."""

    message = _words(_("Write to the customer"), _("The customer reads it as you write it."))
    tell = _words(
        _("Tell the agent"),
        _(
            "The agent answers the customer at once, as you tell it to. The customer reads its "
            "answer and not your words."
        ),
    )
    whisper = _words(
        _("Whisper to the agent"),
        _(
            "Nothing happens now: the agent keeps it in mind for when the customer writes next. "
            "Nobody else sees it."
        ),
    )
    context = _words(
        _("Add context"),
        _("A fact that the agent is to know for the rest of the conversation."),
    )

    def words_of(self, name: str) -> str:
        """What was written there; "" with an error where that is nothing."""
        words: str = self.cleaned_data.get(name, "").replace("\r\n", "\n")
        if not words and name not in self.errors:
            self.add_error(name, _("Write something first."))
        return words
