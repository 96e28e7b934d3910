"""What staff are asked before something is done."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from osvi_django.models import NOTE_MAX_LENGTH


class CloseForm(forms.Form):
    """The confirmation of a close."""

    note = forms.CharField(
        label=_("Note (optional)"),
        help_text=_("Why you close it, for your colleagues. It is not sent to OSVI."),
        required=False,
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class CloseJobForm(CloseForm):
    """The confirmation of a job, whose note is that of each of its sessions."""

    note = forms.CharField(
        label=_("Note (optional)"),
        help_text=_("Why you close them, for your colleagues. It is not sent to OSVI."),
        required=False,
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )


class MarkForm(CloseForm):
    """The confirmation that a session is closed at OSVI, by the word of whoever looked."""

    note = forms.CharField(
        label=_("Note"),
        help_text=_("How you know that it is closed, for your colleagues."),
        max_length=NOTE_MAX_LENGTH,
        widget=forms.Textarea(attrs={"rows": 3}),
    )
