"""Values that error reporters cannot show.

Sentry, Django's error mails and others send the ``repr()`` of the local variables of every frame.
A text, bytes or box of this module behaves as usual, and its ``repr()`` shows nothing of it::

    @hides("content")
    def send(content: str) -> None: ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, ParamSpec, TypeVar

from django.utils.safestring import SafeString

P = ParamSpec("P")
R = TypeVar("R")

HIDDEN: Final = "[hidden]"


class HiddenText(str):
    """A text that ``repr()`` does not show; ``str()`` and formatting do."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN


class HiddenMarkup(HiddenText, SafeString):
    """Safe HTML that ``repr()`` does not show."""

    __slots__ = ()


class HiddenBytes(bytes):
    """Bytes that ``repr()`` does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN


class HiddenBuffer(bytearray):
    """Bytes that grow, and that ``repr()`` does not show."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN


def hidden(value: Any) -> Any:
    """Return ``value`` with each text and bytes in it replaced by a hidden one, except keys."""
    if isinstance(value, str):
        return HiddenText(value)
    if isinstance(value, bytes):
        return HiddenBytes(value)
    if isinstance(value, Mapping):
        return {key: hidden(value[key]) for key in value}
    if isinstance(value, list | tuple):
        return [hidden(each) for each in value]
    return value


def hides(*names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that hides these arguments from the frame of a function and below.

    Positional arguments are found by the names of the function's parameters.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = tuple(inspect.signature(function).parameters)
        places = frozenset(parameters.index(name) for name in names)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            args = tuple(  # type: ignore[assignment]
                _hidden(each) if place in places else each for place, each in enumerate(args)
            )
            for name in kwargs.keys() & names:
                kwargs[name] = _hidden(kwargs[name])
            return function(*args, **kwargs)

        return call

    return decorate


def _hidden(value: Any) -> Any:
    try:
        return hidden(value)
    except RecursionError:  # too deeply nested: the function will refuse it
        return value
