"""Validation of ids, texts and accounts: one rule and one message for every entry point."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, timedelta
from threading import Event
from typing import Annotated, Any, Final, ParamSpec, TypeGuard, TypeVar

from django.conf import settings
from django.db.models import Model
from django.utils.functional import Promise, lazy
from django.utils.timezone import is_naive

from osvi_django import conf
from osvi_django.conf import account_aliases, configured
from osvi_django.exceptions import InvalidInput, OSVINotConfigured, translate
from osvi_django.redaction import HiddenText

_ = lazy(translate, str)
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


def is_storable(text: str) -> bool:
    """Return whether every database can store and search for this text."""
    return storable(text) == text


def require_storable(field: str, text: str) -> None:
    """Raise ``InvalidInput`` for a text that some database cannot store or search for."""
    if not is_storable(text):
        problem = translate(
            "%(field)s: This text contains U+0000 or half of a surrogate pair, which cannot be "
            "stored. Remove such characters, or replace them by U+FFFD."
        )
        raise InvalidInput(problem % {"field": field}, field=field)


def stripped(name: str, value: str, length: int) -> str:
    """Return a text that can be stored, without the spaces around it. Raises ``InvalidInput``."""
    require_storable(name, value)
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


# A text that is looked for: one that cannot be stored is not found.
AnyText = Annotated[str, "also one that cannot be stored"]
P = ParamSpec("P")
R = TypeVar("R")


def checks_types(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that raises ``InvalidInput`` for arguments of other types than it declares.

    It does so for texts that cannot be stored, too. A type that is neither a model nor in the table
    of this module is left to the function. A wrong value would otherwise fail far from its cause,
    or be taken for another one: the text "no" counts as true.
    """
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        kinds = _kinds_of(function)
        # What is given twice, missing or unknown is an error that Python itself raises below.
        for name, value in {**dict(zip(names, args, strict=False)), **kwargs}.items():
            if name in kinds:
                _require_argument(name, value, kinds[name])
        return function(*args, **kwargs)

    return call


def require_fields(values: object) -> None:
    """Raise ``InvalidInput`` for fields of a dataclass with values of other types than declared."""
    declared: Any = type(values)
    for name, kinds in _kinds_of(declared).items():
        _require_argument(name, getattr(values, name), kinds)


def _require_argument(name: str, value: object, kinds: tuple[Any, ...]) -> None:
    require_kind(name, value, *kinds)
    if isinstance(value, str) and str in kinds:
        require_storable(name, value)


def require_kind(field: str, value: object, *kinds: Any) -> None:
    """Raise ``InvalidInput`` unless a value is of one of these types."""
    if any(_is_of(kind, value) for kind in kinds):
        return
    problem = translate("%(field)s must be %(kind)s, but its type is %(given)s.")
    wanted = {"kind": _words_of(kinds[0]), "given": _type_name(value)}
    raise InvalidInput(problem % {"field": field, **wanted}, field=field)


def _type_name(value: object) -> str:
    """Return the name of a type as callers know it: that a value is hidden is our own concern."""
    known = (each for each in type(value).__mro__ if each.__module__ != HiddenText.__module__)
    return next(known).__name__


def require_moment(field: str, value: object) -> None:
    """Raise ``InvalidInput`` unless this is a moment; with ``USE_TZ``, it must be aware."""
    require_kind(field, value, datetime)
    if settings.USE_TZ and is_naive(typing.cast("datetime", value)):
        problem = translate("%(field)s has no time zone: use an aware datetime.")
        raise InvalidInput(problem % {"field": field}, field=field)


def require_year(field: str, value: date, years: range) -> None:
    """Raise ``InvalidInput`` unless a day or a moment is in one of these years."""
    if value.year in years:
        return
    problem = translate(
        "%(field)s: This is too far in the past or future: use a year from %(first)d to %(last)d."
    )
    ends = {"first": years[0], "last": years[-1]}
    raise InvalidInput(problem % {"field": field, **ends}, field=field)


# What people call the values of these types; those of other types are not checked.
_KINDS: Final[Mapping[Any, str | Promise]] = {
    str: _("a text"),
    AnyText: _("a text"),
    bool: _("True or False"),
    int: _("a whole number"),
    float: _("a number"),
    date: _("a day (datetime.date)"),
    datetime: _("a moment (datetime.datetime)"),
    timedelta: _("a duration (datetime.timedelta)"),
    Event: _("a threading.Event"),
    Callable: _("a function"),
    Collection: _("a list"),
    Iterable: _("a list"),
    Sequence: _("a list"),
    Mapping: _("a dictionary"),
}


@functools.cache
def _kinds_of(declared: Any) -> Mapping[str, tuple[Any, ...]]:
    """Return the types of the arguments or fields that are checked, once all can be imported."""
    declarations = typing.get_type_hints(declared, include_extras=True)
    hints = {name: _alternatives(hint) for name, hint in declarations.items()}
    return {name: kinds for name, kinds in hints.items() if all(map(_is_checked, kinds))}


def _alternatives(hint: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(hint) in {typing.Union, types.UnionType}
    every = typing.get_args(hint) if is_union else (hint,)
    return tuple(each if each in _KINDS else typing.get_origin(each) or each for each in every)


def _is_checked(kind: Any) -> bool:
    return kind in _KINDS or kind is types.NoneType or _is_model(kind)


def _is_model(kind: Any) -> TypeGuard[type[Model]]:
    return isinstance(kind, type) and issubclass(kind, Model)


def _is_of(kind: Any, value: object) -> bool:
    """Return whether a value is of a type.

    A text is not taken as a list, a flag not as a number, and a moment not as a day.
    """
    if kind == AnyText:
        return isinstance(value, str)
    if kind in {Collection, Iterable, Sequence}:
        return isinstance(value, kind) and not isinstance(value, str | bytes)
    if kind is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    others = {int: bool, date: datetime}.get(kind)
    return isinstance(value, kind) and not (others and isinstance(value, others))


def _words_of(kind: Any) -> str:
    return str(_KINDS.get(kind) or translate("a %(model)s") % {"model": kind.__name__})


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
    problem = translate('This site has no account "%(account)s": use one of %(known)s.')
    return problem % {"account": account, "known": ", ".join(known)}


def require_account(account: str) -> None:
    """Raise ``OSVINotConfigured`` if this site does not have this account."""
    if problem := account_problem(account):
        raise OSVINotConfigured(problem)
