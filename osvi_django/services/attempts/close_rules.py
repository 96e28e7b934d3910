"""The rules of an account for requests to close: its reasons, and whether a note is required."""

from __future__ import annotations

from django.utils.translation import gettext as _

from osvi_django.conf import Account, InvalidSetting, account_aliases
from osvi_django.exceptions import InvalidInput, OSVINotConfigured
from osvi_django.services.attempts.types import RequestOrigin


def close_rules(account: str) -> tuple[tuple[str, ...], bool]:
    """Return the reasons that an account allows, none for any, and whether it requires a note.

    Raises ``OSVINotConfigured`` if they cannot be used. An account without an entry has no rules:
    the close itself reports it.
    """
    try:
        return Account(account).close_reasons, Account(account).note_required
    except InvalidSetting as error:
        if not error.key:
            return (), False
        raise OSVINotConfigured(str(error)) from None


def all_close_reasons() -> list[str]:
    """Return the reasons of all accounts, each once; none if the settings cannot be used."""
    try:
        accounts = account_aliases()
        reasons = [reason for each in accounts for reason in Account(each).close_reasons]
    except InvalidSetting:
        return []
    return list(dict.fromkeys(reasons))


def require_rules_of_any_account(request: RequestOrigin) -> None:
    """Raise ``InvalidInput`` if a request to close breaks the rules of every account.

    Which sessions it finds does not matter then, so it is refused also if it finds none. An account
    whose rules cannot be read refuses nothing here.
    """
    try:
        refusals = [close_refusal(request, each) for each in account_aliases()]
    except (InvalidSetting, OSVINotConfigured):
        return
    if refusals[0] is not None and all(refusals):
        raise refusals[0]


def close_refusal(request: RequestOrigin, account: str) -> InvalidInput | None:
    """Return why the rules of an account refuse a request to close; None if they do not."""
    try:
        require_close_rules(request, account)
    except InvalidInput as error:
        return error
    return None


def require_close_rules(request: RequestOrigin, account: str) -> None:
    """Raise ``InvalidInput`` if a request to close a session of this account breaks its rules.

    What only mirrors a close of OSVI, and recovery, is not asked for by anyone: it has no rules.
    """
    reasons, needs_note = close_rules(account)
    if reasons and request.close_reason and request.close_reason not in reasons:
        problem = _("close_reason is not one of the reasons for closing: use one of %(reasons)s.")
        known = ", ".join(f"“{reason}”" for reason in reasons)
        raise InvalidInput(problem % {"reasons": known}, field="close_reason")
    if needs_note and not request.note:
        raise InvalidInput(_("note is required: say why the chat is closed."), field="note")
