"""The errors of this package, as one tree::

    OSVIError
    ├── InvalidInput            invalid             a value that was passed in cannot be used
    │   └── TooManyRows         too_many_rows       they do not fit into a file of this format
    ├── InsideTransaction       inside_transaction  called where a rollback could lose the summary
    ├── NotAllowed              permission_denied   the user may not do this
    ├── ExportNotInstalled      xlsx_not_installed  this site cannot write Excel files
    ├── SessionNotFound         not_found           no such session in this database
    ├── CloseInProgress         close_in_progress   another caller is closing it now
    ├── UnknownStatus           unknown_status      the session's row has a status that is not known
    ├── SessionClosed           session_closed      it is closed, or may be: nothing was sent
    ├── WrongMode               wrong_mode          the agent, or a human, has the conversation
    ├── TakeOverChanged         takeover_changed    another take-over than the caller knows
    ├── SentBefore              sent_before         it may have been sent already: ask first
    ├── Busy                    busy                too many wait for OSVI: nothing was sent
    ├── AlreadyOpen             already_open        the customer has a chat open with this agent
    ├── CustomerBusy            customer_busy       something runs in a chat of the customer
    ├── CustomerChatsOpen       chats_open          the customer has chats that are not closed
    ├── CustomerKept            chats_kept          staff keep a chat of the customer
    ├── OSVIUnreachable         unreachable         nothing was sent: safe to repeat
    ├── OSVIGatewayRefused      gateway_refused     a server before OSVI refused: nothing was done
    ├── OSVIRejected            rejected            OSVI refused: the session is as it was
    │   ├── OSVIUnauthorized    unauthorized        OSVI refused this site's API token
    │   ├── OSVIUnknown         unknown_at_osvi     OSVI knows nothing under these ids
    │   └── OSVIThrottled       busy_at_osvi        OSVI asks to try again later
    ├── OSVIBadAnswer           bad_answer          OSVI's answer cannot be understood
    └── OSVINoAnswer            unconfirmed         it was sent, and no answer arrived
        └── AnswerNotStored     unconfirmed         it was answered, the database was unavailable

    OSVINotConfigured           not_configured      an ImproperlyConfigured, outside the tree

``code`` is stable and meant for programs; ``retryable`` says whether the same call may be repeated
as it is; ``str(error)`` is one or two plain sentences: what happened, and what to do next.

``was_sent`` is False if OSVI was surely not asked, True if OSVI answered that it did not do it, and
None if it may have done it, which is the default. ``is_account_wide`` says whether the error
affects all calls to the account and not one session alone; ``may_be_account_wide`` that it does so
if several occur in a row; ``needs_operator`` that only a person can fix it.
``services/attempts/error_policy.py`` derives the rest from these.

``OSVINotConfigured`` is outside the tree so that no ``except OSVIError`` hides a broken
installation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from django.utils.functional import Promise, lazy
from django.utils.translation import gettext


def translate(text: str) -> str:
    """Translate, unless Django is not set up: a bare Python shell shows errors as well."""
    try:
        return gettext(text)
    except (ImproperlyConfigured, AppRegistryNotReady):
        return text


_ = lazy(translate, str)

MAX_REASON: Final = 300  # characters of OSVI's own text


class OSVIError(Exception):
    """Anything that stops a call to OSVI, or a service, from doing what was asked.

    ``status``: OSVI's HTTP status, if it answered; ``reason``: OSVI's own short text;
    ``retry_after``: seconds to wait, if known; ``attempt``: the ``CloseAttempt`` that ended with
    this error, if any.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    # What an error means to services is derived from these: each class sets the first two.
    was_sent: ClassVar[bool | None] = None
    is_account_wide: ClassVar[bool] = False
    may_be_account_wide: ClassVar[bool] = False
    needs_operator: ClassVar[bool] = False
    message: ClassVar[str | Promise] = _("Something went wrong with OSVI.")
    # The message if the call was not a close.
    generic_message: ClassVar[str | Promise] = ""
    # The message if all calls to the account have this error, as for a paused job.
    account_message: ClassVar[str | Promise] = ""
    action: Any = None
    session: Any = None
    # Whether the call only reads, so that nothing has changed at OSVI.
    is_read_only: bool = False

    def __init__(
        self,
        message: str | Promise = "",
        *,
        status: int | None = None,
        reason: str = "",
        retry_after: float | None = None,
        attempt: Any = None,
    ) -> None:
        super().__init__(message)
        self.attempt = attempt
        self.status = status
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        sentence = str(self.args[0] or self.message)
        if not self.reason:
            return sentence
        said = _("OSVI said: “%(reason)s”") % {"reason": self.reason}
        return f"{sentence} {said}"


class InvalidInput(OSVIError):
    """A value that was passed in cannot be used; ``field`` names it."""

    code = "invalid"
    was_sent = False
    is_account_wide = False
    message = _("A value cannot be used.")

    def __init__(self, message: str | Promise = "", *, field: str = "", reason: str = "") -> None:
        super().__init__(message, reason=reason)
        self.field = field


class TooManyRows(InvalidInput):
    """More sessions were chosen than a file of this format can hold."""

    code = "too_many_rows"
    was_sent = False
    is_account_wide = False
    message = _(
        "An Excel file holds at most 1,048,575 chats, and these are more. Choose CSV or JSON "
        "Lines, or choose fewer chats, for example those of one month."
    )


class ExportNotInstalled(OSVIError):
    """The package that writes a format is not installed on this site."""

    code = "xlsx_not_installed"
    was_sent = False
    is_account_wide = False
    message = _(
        "This site cannot write Excel files, because XlsxWriter is not installed. Choose CSV or "
        "JSON Lines, or ask your administrator to install “osvi-django[xlsx]”."
    )


class InsideTransaction(OSVIError, RuntimeError):
    """A close was requested inside ``transaction.atomic``; nothing was sent."""

    code = "inside_transaction"
    was_sent = False
    is_account_wide = False
    message = _(
        "A chat session cannot be closed inside a database transaction, because a rollback would "
        "lose its summary. Nothing was sent. Call this outside transaction.atomic(), or mark the "
        "view with transaction.non_atomic_requests."
    )
    generic_message = _(
        "OSVI cannot be called inside a database transaction, because a rollback would lose its "
        "answer. Nothing was sent. Call this outside transaction.atomic(), or mark the view with "
        "transaction.non_atomic_requests."
    )


class NotAllowed(OSVIError):
    """The user on whose behalf the call was made lacks the permission."""

    code = "permission_denied"
    was_sent = False
    is_account_wide = False
    message = _("You do not have permission to close this chat session.")


class SessionNotFound(OSVIError):
    """This database has no such session."""

    code = "not_found"
    was_sent = False
    is_account_wide = False
    message = _("This site has no such chat session.")


class CloseInProgress(OSVIError):
    """Another close of this session is in progress, and its lease is not over."""

    code = "close_in_progress"
    retryable = True
    was_sent = False
    is_account_wide = False
    message = _("This chat session is being closed. Look again in a moment.")


class UnknownStatus(OSVIError):
    """The session's row has a status that this version does not know; nothing was sent."""

    code = "unknown_status"
    was_sent = False
    is_account_wide = False
    message = _(
        "This version of osvi_django does not know the status that is stored for this chat "
        "session, so nothing was sent. Check that all processes of this site run the same version."
    )


class SessionClosed(OSVIError):
    """The session is closed, being closed, or perhaps closed: nothing more can be done in it."""

    code = "session_closed"
    was_sent = False
    is_account_wide = False
    message = _("This chat session is closed or is being closed, so nothing was sent.")
    unconfirmed: ClassVar[str | Promise] = _(
        "This chat session may be closed already, so nothing was sent. Check with OSVI first "
        "whether it is still open."
    )


class WrongMode(OSVIError):
    """The action requires the other mode: a human has taken over, or has not."""

    code = "wrong_mode"
    was_sent = False
    is_account_wide = False
    message = _(
        "Nothing was sent: you can write to the customer only after you take over. Take over first."
    )


class TakeOverChanged(OSVIError):
    """The take-over that the caller knows has ended, and perhaps another person has taken over."""

    code = "takeover_changed"
    was_sent = False
    is_account_wide = False
    message = _(
        "Nothing was sent: a colleague has taken over this chat since you last looked. Look at the "
        "chat again, and hand back only if that colleague agrees."
    )
    handed_back: ClassVar[str | Promise] = _(
        "Nothing was sent: this chat has been handed back already, and the AI agent answers."
    )


class SentBefore(OSVIError):
    """The same text was sent before, and it is unknown whether it arrived.

    ``action`` is the ``SupportAction`` that sent it.
    """

    code = "sent_before"
    was_sent = False
    is_account_wide = False
    message = _(
        "This text was already sent, but we do not know whether it arrived, so it was not sent "
        "again. Check the chat in OSVI's dashboard. If the text is missing, send it with "
        "resend=True."
    )
    over_rest: ClassVar[str | Promise] = _(
        "This text was already sent, but we do not know whether it arrived, so it was not sent "
        "again. Check the chat in OSVI's dashboard. If the text is missing, send it with "
        '"resend": true.'
    )
    same_form: ClassVar[str | Promise] = _(
        "You already sent this form, so nothing was done now. Check what happened before you send "
        "it again with a new form_key."
    )


class Busy(OSVIError):
    """The maximum of web requests of this process is waiting for OSVI already."""

    code = "busy"
    retryable = True
    was_sent = False
    is_account_wide = False
    message = _(
        "Too many requests of this site are waiting for OSVI, so nothing was sent and nothing has "
        "changed. Try again in a moment."
    )
    generic_message = message


class AlreadyOpen(OSVIError):
    """The customer has a chat open with this agent, which a start at OSVI would end.

    ``session`` is the ``ChatSession`` that is open; None if it is being started at this moment.
    """

    code = "already_open"
    was_sent = False
    is_account_wide = False
    message = _(
        "The customer already has an open chat with this agent, so no new chat was started. "
        "Continue that chat, or close it first: then its summary is kept."
    )
    named: ClassVar[str | Promise] = _(
        "The customer already has the chat %(session)s open with this agent, so no new chat was "
        "started. Continue that chat, or close it first: then its summary is kept."
    )
    being_started: ClassVar[str | Promise] = _(
        "Another chat of this customer with this agent is being started, so no new chat was "
        "started. Look up the customer in a moment."
    )


class CustomerBusy(OSVIError):
    """Something is being done in a chat of a customer who is to be erased."""

    code = "customer_busy"
    retryable = True
    was_sent = False
    is_account_wide = False
    message = _(
        "Something is still being done in a chat of this customer, who cannot be erased now. Try "
        "again in a moment. A close job must be finished or stopped first."
    )
    being_erased: ClassVar[str | Promise] = _(
        "This customer is being erased at this moment by another request, so this one did nothing. "
        "Look again in a minute. If the other request broke off, erase the customer again: it "
        "goes on where it was."
    )


class CustomerChatsOpen(OSVIError):
    """A customer who is to be erased has chats that are open or unconfirmed."""

    code = "chats_open"
    was_sent = False
    is_account_wide = False
    message = _(
        "This customer has a chat that is open, or that may be open, and cannot be erased now: it "
        "could never be closed, and would come back from OSVI. Close it first, or mark it as "
        "closed."
    )


class CustomerKept(OSVIError):
    """A chat of a customer who is to be erased is kept until a later day."""

    code = "chats_kept"
    was_sent = False
    is_account_wide = False
    message = _(
        "A chat of this customer is kept until a later day, so the customer cannot be erased now. "
        "Remove that day first, if the reason for it is gone."
    )


class OSVIUnreachable(OSVIError):
    """There was no connection: nothing was sent, so the same call may be repeated."""

    code = "unreachable"
    retryable = True
    was_sent = False
    is_account_wide = True
    message = _(
        "OSVI could not be reached. Nothing was sent, and the chat session has not changed. Try "
        "again in a moment."
    )
    generic_message = _("OSVI could not be reached. Nothing was sent. Try again in a moment.")
    account_message = _("OSVI cannot be reached.")


class OSVIGatewayRefused(OSVIError):
    """A 4xx that is not in OSVI's envelope: a proxy, a firewall or a wrong address refused."""

    code = "gateway_refused"
    retryable = True
    was_sent = False
    is_account_wide = False
    may_be_account_wide = True
    message = _(
        "A server between this site and OSVI refused the request. It did not reach OSVI, and "
        "nothing has changed. Check OSVI's base URL and any proxy or firewall."
    )
    account_message = _(
        "A server between this site and OSVI refuses the requests. Check OSVI's base URL and any "
        "proxy or firewall."
    )
    answered: ClassVar[str | Promise] = _(
        "A server between this site and OSVI refused the request (HTTP %(status)d). It did not "
        "reach OSVI, and nothing has changed. Check OSVI's base URL and any proxy or firewall."
    )


class OSVIRejected(OSVIError):
    """OSVI answered that it will not do this."""

    code = "rejected"
    was_sent = True
    is_account_wide = False
    message = _("OSVI did not close this chat session. It is still open.")
    generic_message = _("OSVI refused the request. Nothing has changed.")


class OSVIUnauthorized(OSVIRejected):
    """OSVI refused the API token of this site (its 401)."""

    code = "unauthorized"
    was_sent = True
    is_account_wide = True
    needs_operator = True
    message = _(
        "OSVI refused this site's API token. The chat session has not changed. Ask your "
        "administrator to check the token."
    )
    generic_message = _(
        "OSVI refused this site's API token. Nothing has changed. Ask your administrator to check "
        "the token."
    )
    account_message = _(
        "OSVI refuses this site's API token. Ask your administrator to check the token."
    )


class OSVIUnknown(OSVIRejected):
    """OSVI knows no session, agent or customer with the ids of the request (its 404)."""

    code = "unknown_at_osvi"
    was_sent = True
    is_account_wide = False
    message = _(
        "OSVI does not know this chat session under its id and agent, so it was not closed. Check "
        "both in OSVI's dashboard."
    )
    generic_message = _(
        "OSVI does not know what this request names, so nothing has changed. Check the ids in "
        "OSVI's dashboard."
    )


class OSVIThrottled(OSVIRejected):
    """OSVI is busy (its 429 or 503); ``retry_after`` is the number of seconds, if it sent one."""

    code = "busy_at_osvi"
    retryable = True
    was_sent = True
    is_account_wide = True
    message = _(
        "OSVI is busy and did not accept the request. The chat session has not changed. Try again "
        "in a moment."
    )
    generic_message = _("OSVI is busy and did not accept the request. Try again in a moment.")
    account_message = _("OSVI is busy.")


class OSVIBadAnswer(OSVIError):
    """The answer is not what OSVI documents, so it is unknown what was done."""

    code = "bad_answer"
    was_sent = None
    is_account_wide = False
    message = _(
        "OSVI's answer was unreadable, so we do not know whether this chat session is closed. The "
        "answer is saved, and this will be checked with OSVI automatically."
    )
    another: ClassVar[str | Promise] = _(
        "OSVI answered about a different chat session, so its answer was not used. Check the chat "
        "in OSVI's dashboard before you try again."
    )
    another_customer: ClassVar[str | Promise] = _(
        "OSVI answered about a different customer, so its answer was not used."
    )
    missing_field_message: ClassVar[str | Promise] = _(
        "OSVI's answer cannot be used: its “%(field)s” is missing or is not as OSVI documents it."
    )
    generic_message = _(
        "OSVI's answer was unreadable, so this may or may not have been done. Check the chat in "
        "OSVI's dashboard before you try again."
    )
    account_message = _("OSVI's answers are unreadable.")


class OSVINoAnswer(OSVIError):
    """The request was sent, and no complete answer arrived: a timeout, a reset or a 5xx."""

    code = "unconfirmed"
    was_sent = None
    is_account_wide = False
    message = _(
        "OSVI may have closed this chat session, but its answer did not arrive. It will be checked "
        "with OSVI automatically; you do not need to do anything."
    )
    generic_message = _(
        "OSVI did not answer, so this may or may not have been done. Check the chat in OSVI's "
        "dashboard before you try again."
    )
    account_message = _("OSVI does not answer.")


class AnswerNotStored(OSVINoAnswer):
    """OSVI answered, but this site's database was unavailable; recovery stores the answer."""

    message = _(
        "OSVI answered, but this site's database was unavailable. The answer is saved and will be "
        "stored when recovery runs. Look again later, and do not close this chat session again."
    )


class OSVINotConfigured(ImproperlyConfigured):
    """The ``OSVI`` setting cannot be used; the message says which part of it and why."""

    code: ClassVar[str] = "not_configured"
    retryable: ClassVar[bool] = False
    was_sent: ClassVar[bool | None] = False
    is_account_wide: ClassVar[bool] = True
    may_be_account_wide: ClassVar[bool] = False
    needs_operator: ClassVar[bool] = True
    attempt: Any = None
    action: Any = None
    session: Any = None

    def __str__(self) -> str:
        sentence = _(
            "OSVI is not set up on this site, so nothing was done. Ask your administrator to fix "
            "the settings: %(problem)s"
        )
        return sentence % {"problem": super().__str__()}


CallError = OSVIError | OSVINotConfigured

_NOTHING_CHANGED: Final = _(
    "OSVI did not give a usable answer. Nothing has changed there. Try again in a moment."
)


@contextmanager
def generic_messages(*, is_read_only: bool = False) -> Iterator[None]:
    """Use messages for calls that close nothing. ``is_read_only``: these only read, as a GET."""
    try:
        yield
    except OSVIError as error:
        error.is_read_only = is_read_only
        if not any(error.args):
            is_in_doubt = isinstance(error, OSVINoAnswer | OSVIBadAnswer)
            error.args = (
                _NOTHING_CHANGED if is_read_only and is_in_doubt else error.generic_message,
            )
        raise


def error_reason(error: Exception) -> str:
    """Return what to store of an error beside its code: OSVI's text, or a value's problem."""
    if isinstance(error, InvalidInput):
        return str(error)[:MAX_REASON]
    return getattr(error, "reason", "")


def message_for_code(code: str, reason: str = "", *, is_close: bool = True) -> str:
    """Return the message of the error with this code, with OSVI's own text; "" if unknown.

    ``is_close``: whether the call was a close.
    """
    error = _BY_CODE.get(code)
    if error is None:
        return ""
    if issubclass(error, InvalidInput) and reason:
        return reason
    if issubclass(error, OSVIError):
        return str(error("" if is_close else error.generic_message, reason=reason))
    return str(_("OSVI is not set up on this site. Ask your administrator to fix the settings."))


def error_for_code(code: str, reason: str = "", *, attempt: Any = None) -> CallError | None:
    """Return the error with this code, as it was stored; None if the code is unknown."""
    kind = _BY_CODE.get(code)
    if kind is None:
        return None
    if issubclass(kind, OSVINotConfigured):
        return kind(reason)
    error = kind(reason) if issubclass(kind, InvalidInput) else kind(reason=reason)
    error.attempt = attempt
    return error


def account_message_for_code(code: str) -> str:
    """Return the message of the error with this code if all calls to an account have it."""
    error = _BY_CODE.get(code)
    if error is not None and issubclass(error, OSVIError) and error.account_message:
        return str(error.account_message)
    return message_for_code(code)


def _kinds(error: type[OSVIError]) -> Iterator[type[OSVIError]]:
    for kind in error.__subclasses__():
        yield from _kinds(kind)
        yield kind  # after its subclasses, so that of two with one code the base class counts


_BY_CODE: Final[dict[str, type[OSVIError] | type[OSVINotConfigured]]] = {
    **{kind.code: kind for kind in _kinds(OSVIError)},
    OSVINotConfigured.code: OSVINotConfigured,
}
