"""Review unreliable answers: staff read one, and may use its text as the summary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.closing import CloseViews
from osvi_django.admin.deletion import redirect_to_itself
from osvi_django.admin.forms import ReviewForm
from osvi_django.admin.kept import drop, keep, keep_words, posted, take
from osvi_django.admin.messages import StaffMessage, message_for_review
from osvi_django.admin.pages import Way, is_after_login, posted_context
from osvi_django.models import ChatSession, CloseAttempt, SessionSummary
from osvi_django.services import selectors
from osvi_django.services.recovery.reviewing import (
    can_take_summary,
    is_reviewable,
    review_of,
    reviewable_attempts,
    take_reviewed_summary,
)

CHARACTERS_SHOWN: Final = 100_000

LABEL: Final = _("Review OSVI's answer")


class ReviewViews(CloseViews):
    """The page of ``ChatSessionAdmin`` for one stored answer."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URL of this page and those of the base classes."""
        route = "<path:object_id>/attempts/<int:attempt_id>/review"
        return [self._path(route, self.review_view), *super().own_urls()]

    def review_view(
        self, request: HttpRequest, object_id: str, attempt_id: int
    ) -> HttpResponseBase:
        """Show a stored answer (GET), and take the summary from it (POST)."""
        session = self.get_object(request, unquote(object_id))
        if not self.has_close_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._redirect_not_found(request, object_id)
        attempt = selectors.attempts(session).filter(pk=attempt_id).first()
        if attempt is None or not is_reviewable(attempt):
            sentence = _("This attempt has no answer to review.")
            self.message_user(request, sentence, messages.WARNING)
            return HttpResponseRedirect(self._page_after(request, session))
        attempt.session = session
        page = self._key_of(f"review-{attempt.pk}", session)
        if is_after_login(request):
            return self._return_after_login(request, page)
        if request.method != "POST":
            return self._review(request, attempt, page)
        return self._take_summary(request, attempt, page)

    def _review(self, request: HttpRequest, attempt: CloseAttempt, page: str) -> TemplateResponse:
        review = review_of(attempt)
        session = attempt.session
        kept = take(request, page)
        form = kept.fill(ReviewForm(initial={"text": review.summary}))
        return self._page(
            request,
            "chatsession/review.html",
            title=_("OSVI's answer to review"),
            form=form if can_take_summary(session) else None,
            review=review,
            shown=Truncator(review.text).chars(CHARACTERS_SHOWN),
            attempt=attempt,
            original=session,
            is_unconfirmed=session.status != ChatSession.Status.CLOSED,
            back=self._page_after(request, session),
            **posted_context(request, kept),
        )

    def _take_summary(
        self, request: HttpRequest, attempt: CloseAttempt, page: str
    ) -> HttpResponseBase:
        session = attempt.session
        form = ReviewForm(posted(request))
        if not (request.POST.get("post") and form.is_valid()):
            keep(request, page, form)
            return redirect_to_itself(request)
        words = {"text": form.cleaned_data["text"], "note": form.cleaned_data["note"]}
        act = partial(self._take_text, attempt, words["text"])
        message = self._do(request, session, words["note"], act)
        self._say_of(request, session, message.sentence, message.level)
        if message.level == messages.ERROR:
            keep_words(request, page, words)
        else:
            drop(request, page)
        return HttpResponseRedirect(self._page_after(request, session))

    def _take_text(
        self, attempt: CloseAttempt, text: str, request: HttpRequest, _of: ChatSession, note: str
    ) -> StaffMessage:
        take_reviewed_summary(attempt, text=text, requested_by=request.user, via="admin", note=note)
        return message_for_review()

    def ways_to_review(self, session: ChatSession) -> Iterator[Way]:
        """Yield the link to the newest answer to review, if its text may be used."""
        if not can_take_summary(session):
            return
        for attempt in reviewable_attempts(session)[:1]:
            url = self.url_to("review", session.pk, attempt.pk)
            yield Way(label=LABEL, url=url)


_SOURCES: Final[Mapping[str, Any]] = {
    SessionSummary.Source.HOST: _("Written by this site, because OSVI sent no summary."),
    SessionSummary.Source.REVIEWED: _(
        "Taken by a colleague from an unreliable answer of OSVI. The history below shows who did "
        "it."
    ),
}


def source_text(source: str) -> str:
    """Return where a summary comes from if not from OSVI; "" if from OSVI."""
    return str(_SOURCES.get(source, ""))
