"""Validation of the values in a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from osvi_django import conf
from osvi_django.exceptions import (
    InvalidInput,
)
from osvi_django.exceptions import translate as _
from osvi_django.validation import require_id, require_kind, storable

MAX_DEPTH: Final = 20  # levels of what is sent along with a start
CONTEXT_KEPT: Final = conf.CONTEXT_KEPT


def start_payload(
    *,
    agent_uuid: str,
    customer_id: str,
    input_fields: Mapping[str, Any] | None = None,
    context: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the body of ``create_session``. Raises ``InvalidInput`` before anything is sent."""
    payload: dict[str, Any] = {
        "agent_uuid": required_text("agent_uuid", agent_uuid),
        "customer_id": required_text("customer_id", customer_id),
    }
    if input_fields is not None:
        require_kind("input_fields", input_fields, Mapping)
    if input_fields:
        payload["input_fields"] = _json_object("input_fields", input_fields)
    if context:
        payload["context"] = _texts("context", context)
    return payload


def required_text(name: str, text: str) -> str:
    """Return a text that can be sent and stored."""
    if not isinstance(text, str) or not text.strip() or storable(text) != text:
        problem = _(
            "%(field)s is missing or contains a character that cannot be sent (NUL or an unpaired "
            "surrogate)."
        )
        raise InvalidInput(problem % {"field": name}, field=name)
    return text


def _json_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object that can be sent: NaN, a date or a set cannot."""
    try:
        plain = dict(value)
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        problem = _(
            "%(field)s contains a value that JSON does not have: use texts, numbers and lists."
        )
        raise InvalidInput(problem % {"field": name}, field=name) from None
    if _is_deep(plain, MAX_DEPTH):
        problem = _("%(field)s is nested deeper than %(levels)d levels: use fewer.")
        values = {"field": name, "levels": MAX_DEPTH}
        raise InvalidInput(problem % values, field=name)
    return plain


def _is_deep(value: object, levels: int) -> bool:
    """Return whether it is nested deeper than this. Encoding deeper JSON may overflow the stack."""
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(inner, Iterable) or isinstance(inner, str):
        return False
    return levels == 0 or any(_is_deep(each, levels - 1) for each in inner)


def _texts(name: str, values: Sequence[str]) -> list[str]:
    """Return texts that can be sent. A single text is refused: it would be read as characters."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        problem = _("%(field)s must be a list of texts.") % {"field": name}
        raise InvalidInput(problem, field=name)
    return [required_text(name, each) for each in values]


def quoted_id(session_id: str) -> str:
    """Return the id as one segment of a path, whatever its characters. Raises ``InvalidInput``."""
    return quote(require_id("session_id", session_id), safe="")
