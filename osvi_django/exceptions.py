"""What can go wrong, as one tree::

    OSVIError
    ├── InvalidInput            invalid             a value that was handed in cannot be used
    ├── InsideTransaction       inside_transaction  called where a rollback could lose the summary
    ├── NotAllowed              permission_denied   the person may not do this
    ├── SessionNotFound         not_found           no such session in this database
    ├── CloseInProgress         close_in_progress   somebody else is closing it right now
    ├── SessionClosed           session_closed      nothing more can be done in it
    ├── WrongMode               wrong_mode          the agent, or a human, has the conversation
    ├── SentBefore              sent_before         it may have been said already: ask first
    ├── OSVIUnreachable         unreachable         nothing was sent: safe to repeat
    ├── OSVIRejected            rejected            OSVI answered no: the session is as it was
    │   ├── OSVIUnauthorized    unauthorized        OSVI refused this site's API token
    │   └── OSVIThrottled       throttled           OSVI asks to come back later
    ├── OSVIBadAnswer           bad_answer          OSVI answered, and it makes no sense
    └── OSVINoAnswer            unconfirmed         it was sent, and no answer came back
        └── AnswerNotStored     unconfirmed         an answer came while the database was away

    OSVINotConfigured           not_configured      an ImproperlyConfigured, apart from the tree

``code`` is stable and meant for programs; ``retryable`` says whether the very same call may be made
again as it is; ``str(error)`` is one plain sentence or two: what happened, and what to do next.
``OSVINotConfigured`` stands apart so that no ``except OSVIError`` hides a broken installation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from django.utils.functional import Promise, lazy
from django.utils.translation import gettext


def translate(text: str) -> str:
    """Translate, but where Django is not set up: a bare Python shell shows errors as well."""
    try:
        return gettext(text)
    except (ImproperlyConfigured, AppRegistryNotReady):
        return text


_ = lazy(translate, str)

MAX_REASON: Final = 300  # characters of the vendor's own words


class OSVIError(Exception):
    """Anything that stops a call to OSVI, or a service, from doing what was asked.

    ``status``: OSVI's HTTP status, where it answered; ``reason``: its own short words;
    ``retry_after``: seconds to wait, where they are known; ``attempt``: the ``CloseAttempt`` that
    ended so, where one was made.
    """

    code: ClassVar[str] = "error"
    retryable: ClassVar[bool] = False
    message: ClassVar[str | Promise] = _("Something went wrong with OSVI.")
    # What to say where it was not a close that went wrong.
    elsewhere: ClassVar[str | Promise] = ""
    action: Any = None

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
    """A value that was handed in cannot be used; ``field`` names it."""

    code = "invalid"
    message = _("A value cannot be used.")

    def __init__(self, message: str | Promise = "", *, field: str = "", reason: str = "") -> None:
        super().__init__(message, reason=reason)
        self.field = field


class InsideTransaction(OSVIError, RuntimeError):
    """A close was asked for inside ``transaction.atomic``; nothing was sent."""

    code = "inside_transaction"
    message = _(
        "A chat session cannot be closed inside a database transaction, where a rollback would "
        "lose its summary. Nothing was sent: call this outside transaction.atomic(), or mark the "
        "view with transaction.non_atomic_requests."
    )
    elsewhere = _(
        "OSVI is not asked inside a database transaction, where a rollback would lose what it "
        "answers. Nothing was sent: call this outside transaction.atomic(), or mark the view "
        "with transaction.non_atomic_requests."
    )


class NotAllowed(OSVIError):
    """The person on whose behalf it was asked lacks the permission."""

    code = "permission_denied"
    message = _("You do not have the permission to close this chat session.")


class SessionNotFound(OSVIError):
    """This database has no such session."""

    code = "not_found"
    message = _("There is no such chat session here.")


class CloseInProgress(OSVIError):
    """Another close of this session is under way, and its lease is not over."""

    code = "close_in_progress"
    retryable = True
    message = _("This chat session is being closed right now. Look again in a moment.")


class SessionClosed(OSVIError):
    """The session is closed, or being closed, so that nothing more can be done in it."""

    code = "session_closed"
    message = _("This chat session is closed, or being closed, so nothing was sent.")


class WrongMode(OSVIError):
    """What was asked for takes the other mode: a human has taken over, or has not."""

    code = "wrong_mode"
    message = _(
        "Only somebody who has taken over can write to the customer, so nothing was sent: "
        "take over first."
    )


class SentBefore(OSVIError):
    """The same words were sent before and nobody knows whether they arrived.

    ``action`` is the ``SupportAction`` by which they were.
    """

    code = "sent_before"
    message = _(
        "The same words were sent before, and nobody knows whether they arrived, so nothing was "
        "sent now. Look at the conversation at OSVI: if they are missing, send them again on "
        "purpose."
    )


class OSVIUnreachable(OSVIError):
    """No connection: nothing was sent, so the same call may be made again."""

    code = "unreachable"
    retryable = True
    message = _(
        "OSVI could not be reached, so nothing was sent and the session is as it was. "
        "Try again in a moment."
    )
    elsewhere = _("OSVI could not be reached, so nothing was sent. Try again in a moment.")


class OSVIRejected(OSVIError):
    """OSVI answered that it will not do this."""

    code = "rejected"
    message = _("OSVI refused to close this session, so it is as it was.")
    elsewhere = _("OSVI refused this, so nothing was done.")


class OSVIUnauthorized(OSVIRejected):
    """OSVI refused the API token of this site (its 401)."""

    code = "unauthorized"
    message = _(
        "OSVI refused this site's API token, so the session is as it was. "
        "Ask whoever runs this site to check the token."
    )
    elsewhere = _(
        "OSVI refused this site's API token, so nothing was done. "
        "Ask whoever runs this site to check the token."
    )


class OSVIThrottled(OSVIRejected):
    """OSVI is busy (its 429 or 503); ``retry_after`` says for how many seconds, where it did."""

    code = "throttled"
    retryable = True
    message = _(
        "OSVI is busy and did not take the request, so the session is as it was. "
        "Try again in a moment."
    )
    elsewhere = _("OSVI is busy and did not take the request. Try again in a moment.")


class OSVIBadAnswer(OSVIError):
    """An answer came that is not what OSVI documents, so nobody knows what was done."""

    code = "bad_answer"
    message = _(
        "OSVI's answer could not be understood, so this session may or may not be closed. "
        "The answer is kept here; look the session up at OSVI before you do anything else."
    )
    lacking: ClassVar[str | Promise] = _(
        "OSVI's answer cannot be used: its “%(field)s” is missing, or is not what OSVI documents."
    )
    elsewhere = _(
        "OSVI's answer could not be understood, so this may or may not have been done. "
        "Look at the conversation at OSVI before you repeat it."
    )


class OSVINoAnswer(OSVIError):
    """The request was sent and no whole answer came back: timeout, reset, or a 5xx."""

    code = "unconfirmed"
    message = _(
        "OSVI may have closed this session; its answer was lost on the way. "
        "It is not sent a second time by itself: recovery asks OSVI whether the session is closed."
    )
    elsewhere = _(
        "OSVI may have done this; its answer was lost on the way, and it is not repeated by "
        "itself. Look at the conversation at OSVI before you do."
    )


class AnswerNotStored(OSVINoAnswer):
    """OSVI answered and this site's database was away; the answer waits for recovery."""

    message = _(
        "OSVI answered, but this site's database was away. The answer is kept, and is stored as "
        "soon as recovery runs: look again later, and do not close this session anew."
    )


class OSVINotConfigured(ImproperlyConfigured):
    """The ``OSVI`` setting cannot be used; the message says which part of it and why."""

    code: ClassVar[str] = "not_configured"
    retryable: ClassVar[bool] = False
    attempt: Any = None
    action: Any = None

    def __str__(self) -> str:
        sentence = _(
            "OSVI is not set up on this site, so nothing was sent. "
            "Ask whoever runs it to mend the settings: %(problem)s"
        )
        return sentence % {"problem": super().__str__()}


_NOTHING_CHANGED: Final = _(
    "OSVI did not answer in a way that can be used, and nothing was changed there. "
    "Try again in a moment."
)


@contextmanager
def not_a_close(*, asks_only: bool = False) -> Iterator[None]:
    """Around calls that close nothing: errors say so. ``asks_only``: these only read, as a GET."""
    try:
        yield
    except OSVIError as error:
        if not any(error.args):
            is_in_doubt = isinstance(error, OSVINoAnswer | OSVIBadAnswer)
            error.args = (_NOTHING_CHANGED if asks_only and is_in_doubt else error.elsewhere,)
        raise


def words_of(error: Exception) -> str:
    """What is kept of an error beside its code: OSVI's own words, or what is wrong with a value."""
    if isinstance(error, InvalidInput):
        return str(error)[:MAX_REASON]
    return getattr(error, "reason", "")


def describe(code: str, reason: str = "", *, is_close: bool = True) -> str:
    """What the error of this code says, with OSVI's own words; "" for no error, and for others'.

    ``is_close``: whether it was a close that ended so.
    """
    error = _BY_CODE.get(code)
    if error is None:
        return ""
    if issubclass(error, InvalidInput) and reason:
        return reason
    if issubclass(error, OSVIError):
        return str(error("" if is_close else error.elsewhere, reason=reason))
    return str(_("OSVI is not set up on this site. Ask whoever runs it to mend the settings."))


def _kinds(error: type[OSVIError]) -> Iterator[type[OSVIError]]:
    for kind in error.__subclasses__():
        yield from _kinds(kind)
        yield kind  # after its own kinds, so that of two with one code the wider one counts


_BY_CODE: Final[dict[str, type[OSVIError] | type[OSVINotConfigured]]] = {
    **{kind.code: kind for kind in _kinds(OSVIError)},
    OSVINotConfigured.code: OSVINotConfigured,
}
