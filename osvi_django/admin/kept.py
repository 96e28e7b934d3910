"""Keep what a user typed in their login session, for the page that shows the form again.

Every form ends in a redirect, so that reloading the page after it sends nothing a second time. The
typed text may be meant for a customer, so it is not part of a URL.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from django import forms
from django.http import HttpRequest

from osvi_django.redaction import HiddenText

KEPT_SECONDS: Final = 15 * 60
_PAGES_KEPT: Final = 5
_CHARACTERS_KEPT: Final = 50_000
_TOKENS_KEPT: Final = 50
_ANSWERS_KEPT: Final = 50

# What a page gets in place of a question: its form was sent after a logout, so it was not read.
LOGGED_OUT: Final = "logged_out"

_KEPT: Final = "osvi_django_kept"
_SENT: Final = "osvi_django_sent"
_CONFIRMED: Final = "osvi_django_confirmed"

_Form = TypeVar("_Form", bound=forms.Form)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The typed values, by field name, and the errors.

    ``repeats``: the question to ask; ``is_answer``: whether the page answers a form.
    """

    typed: Mapping[str, str] = field(default_factory=dict, repr=False)
    errors: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    repeats: str = ""
    is_answer: bool = False

    def fill(self, form: _Form) -> _Form:
        """Return the form with all of this in it."""
        form.initial = {**form.initial, **self.typed}
        if not form.is_bound:
            form.cleaned_data = {}  # Django looks here when an error is added
        for name, problems in self.errors.items():
            for problem in problems:
                form.add_error(name if name in form.fields else None, problem)
        return form


def posted(request: HttpRequest) -> dict[str, str]:
    """Return what was typed into a form, hidden from error reporters."""
    return {name: HiddenText(value) for name, value in request.POST.items()}


def keep(request: HttpRequest, page: str, form: forms.Form, *, repeats: str = "") -> None:
    """Store what was typed into a form, and its errors, until this page is shown next."""
    typed = {
        name: HiddenText(str(form.data.get(name, ""))[:_CHARACTERS_KEPT]) for name in form.fields
    }
    errors = {name: [str(error) for error in errors] for name, errors in form.errors.items()}
    _store(request, page, typed=typed, errors=errors, repeats=repeats, is_answer=True)


def keep_words(
    request: HttpRequest, page: str, words: Mapping[str, str], *, is_answer: bool = False
) -> None:
    """Store texts that are valid and not sent yet; ``is_answer``: after a form was sent."""
    _store(request, page, typed=dict(words), errors={}, repeats="", is_answer=is_answer)


def note_logged_out(request: HttpRequest, page: str) -> None:
    """Store that the form of this page was not read, so that the browser fills it again."""
    typed = take(request, page).typed
    _store(request, page, typed=typed, errors={}, repeats=LOGGED_OUT, is_answer=True)


def take(request: HttpRequest, page: str) -> Kept:
    """Return what is stored for this page. Errors are shown once, texts for some minutes."""
    found = _pages(request).get(page)
    if found is None:
        return Kept()
    if found["errors"] or found["is_answer"]:
        _store(request, page, typed=found["typed"], errors={}, repeats="")
    return Kept(
        typed=found["typed"],
        errors=found["errors"],
        repeats=found["repeats"],
        is_answer=found["is_answer"],
    )


def drop(request: HttpRequest, page: str) -> None:
    """Remove what is stored for this page."""
    pages = _pages(request)
    if pages.pop(page, None) is not None:
        request.session[_KEPT] = pages


def new_token() -> str:
    """Return a value that identifies one rendered form."""
    return uuid.uuid4().hex


def form_key_of(request: HttpRequest) -> uuid.UUID | None:
    """Return the key of the form that was sent; None if it has none."""
    try:
        return uuid.UUID(request.POST.get("once", ""))
    except ValueError:
        return None


def is_sent_before(request: HttpRequest) -> bool:
    """Return whether this rendered form was already sent, by a double click or from the history."""
    token = request.POST.get("once", "")
    return bool(token) and token in request.session.get(_SENT, ())


def note_sent(request: HttpRequest) -> None:
    """Store that this rendered form was sent."""
    if token := request.POST.get("once", "")[:32]:
        request.session[_SENT] = [*request.session.get(_SENT, ()), token][-_TOKENS_KEPT:]


def is_confirmed(request: HttpRequest, page: str, about: str) -> bool:
    """Return whether the user has confirmed this about a page before."""
    answers: dict[str, str] = request.session.get(_CONFIRMED, {})
    return answers.get(page) == about


def note_confirmed(request: HttpRequest, page: str, about: str) -> None:
    """Store that the user has confirmed this about a page, in place of what was before."""
    answers = {**request.session.get(_CONFIRMED, {})}
    answers.pop(page, None)  # so that the newest is last
    newest = [*answers.items(), (page, about)]
    request.session[_CONFIRMED] = dict(newest[-_ANSWERS_KEPT:])


def _store(request: HttpRequest, page: str, *, is_answer: bool = False, **kept: Any) -> None:
    kept["is_answer"] = is_answer
    pages = _pages(request)
    pages.pop(page, None)  # so that the newest is last
    newest = [*pages.items(), (page, {**kept, "until": time.time() + KEPT_SECONDS})]
    request.session[_KEPT] = dict(newest[-_PAGES_KEPT:])


def _pages(request: HttpRequest) -> dict[str, Any]:
    """Return what is stored for each page, without what has expired."""
    pages = request.session.get(_KEPT, {})
    return {page: kept for page, kept in pages.items() if kept["until"] > time.time()}
