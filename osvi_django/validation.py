"""Validation of ids, texts and accounts: one rule and one message for every entry point."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from typing import Final, TypeGuard

from osvi_django import conf
from osvi_django.conf import account_aliases, configured
from osvi_django.exceptions import InvalidInput, OSVINotConfigured, translate
from osvi_django.redaction import HiddenText

ID_MAX_LENGTH = 255
VIA_MAX_LENGTH = 32
NOTE_MAX_LENGTH = 1_000
CLOSE_REASON_MAX_LENGTH: Final = conf.CLOSE_REASON_MAX_LENGTH
ANSWER_MAX_BYTES = 1_000_000
CHARSET_MAX_LENGTH = 40


# PostgreSQL cannot store U+0000, and UTF-8 cannot encode half of a surrogate pair.
_NOT_STORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str) -> str:
    """Return ``text`` with each character that some database cannot store replaced by U+FFFD."""
    cleaned = _NOT_STORABLE.sub("\ufffd", text)
    return HiddenText(cleaned) if isinstance(text, HiddenText) else cleaned


def stripped(name: str, value: str, length: int) -> str:
    """Return a text without the spaces around it. Raises ``InvalidInput``."""
    if not isinstance(value, str):
        raise InvalidInput(translate("%(field)s is not a text.") % {"field": name}, field=name)
    if len(value.strip()) > length:
        problem = translate("%(field)s is too long: use at most %(length)d characters.")
        raise InvalidInput(problem % {"field": name, "length": length}, field=name)
    # Stripping a hidden text returns a plain one.
    return HiddenText(value.strip()) if isinstance(value, HiddenText) else value.strip()


# These need no quoting in a path; without ";", and some servers drop a full stop at the end.
_SAFE_ID: Final = re.compile(r"[A-Za-z0-9._~:@+=,!$&'()*-]*[A-Za-z0-9_~:@+=,!$&'()*-]", re.ASCII)


def is_storable_id(value: object) -> TypeGuard[str]:
    """Return whether the database can store, and find, this as an id."""
    return isinstance(value, str) and 0 < len(value) <= ID_MAX_LENGTH and storable(value) == value


def id_problem(value: object) -> str:
    """Return why this cannot be an id, as a sentence; "" if it can be one."""
    # URLs lose the segments "." and "..", quoted or not.
    if is_storable_id(value) and value not in {".", ".."}:
        return ""
    if isinstance(value, str) and storable(value) != value:
        return translate(
            "This is not a valid id: it contains U+0000 or half of a surrogate pair, which cannot "
            "be stored."
        )
    problem = translate(
        "This is not a valid id: use a text of 1 to %(length)d characters, other than “.” and “..”."
    )
    return problem % {"length": ID_MAX_LENGTH}


def require_id(field: str, value: object) -> str:
    """Return the value if it can be an id. Raises ``InvalidInput``."""
    if problem := id_problem(value):
        raise InvalidInput(f"{field}: {problem}", field=field)
    return str(value)


def require_customer(value: object) -> str:
    """Return the id of a customer to ask OSVI for. Raises ``InvalidInput``, also if it is blank."""
    customer_id = require_id("customer_id", value)
    if not customer_id.strip():
        problem = translate("customer_id is blank: give the customer's phone number or id.")
        raise InvalidInput(problem, field="customer_id")
    return customer_id


def uuid_or_none(field: str, value: object) -> uuid.UUID | None:
    """Return a UUID, also if it is given as a text; None stays None. Raises ``InvalidInput``."""
    if value is None or isinstance(value, uuid.UUID):
        return value
    with suppress(ValueError):
        if isinstance(value, str):
            return uuid.UUID(value)
    raise InvalidInput(translate("%(field)s is not a UUID.") % {"field": field}, field=field)


def is_safe_id(value: str) -> bool:
    """Return whether every server and proxy reads this as one segment of a path.

    Some decode a path, normalize it and drop what follows a semicolon, or a full stop at the end:
    another session would be meant. Ids that OSVI itself sent are trusted.
    """
    return _SAFE_ID.fullmatch(value) is not None


def account_problem(account: str) -> str:
    """Return why this is not an account, as a sentence; "" if this site has it.

    Raises ``OSVINotConfigured`` if the setting ``OSVI`` itself cannot be used.
    """
    with configured():
        known = account_aliases()
    if account in known:
        return ""
    problem = translate('The setting OSVI has no account "%(account)s": use one of %(known)s.')
    return problem % {"account": account, "known": ", ".join(known)}


def require_account(account: str) -> None:
    """Raise ``OSVINotConfigured`` if this site does not have this account."""
    if problem := account_problem(account):
        raise OSVINotConfigured(problem)
