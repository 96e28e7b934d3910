"""The desk of a session: write to the customer or the agent, take over and hand back.

Each form ends in a redirect, so that a reload sends nothing again. The page's script sends the same
forms, and is redirected to the state of the page as JSON instead.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.attempts import HistoryViews
from osvi_django.admin.composer import TURNS, DeskForm, Turn, turn_of, ways_of
from osvi_django.admin.kept import (
    Kept,
    drop,
    form_key_of,
    is_confirmed,
    keep,
    keep_words,
    new_token,
    note_confirmed,
    posted,
    take,
)
from osvi_django.admin.pages import with_query
from osvi_django.admin.timeline import ActionOutcome, timeline_of, written_since
from osvi_django.exceptions import (
    InvalidInput,
    NotAllowed,
    OSVIBadAnswer,
    OSVIError,
    OSVINoAnswer,
    OSVINotConfigured,
    SentBefore,
    SessionNotFound,
)
from osvi_django.models import ChatSession, SupportAction
from osvi_django.redaction import hidden
from osvi_django.services.permissions import may_operate
from osvi_django.services.support import (
    Mode,
    SupportCommand,
    action_of_form,
    actions_of,
    context_of,
    run_command,
)
from osvi_django.services.support.sending import ExpectedState
from osvi_django.validation import uuid_or_none

# The same text again within this time is a double click rather than a decision.
_DOUBLE_CLICK_WINDOW: Final = timedelta(seconds=30)
# The page's script sends this with a form, to be answered with JSON.
SCRIPT_HEADER: Final = "X-OSVI-Script"

# Questions that the page asks before something is done.
SEND_AGAIN: Final = "resend"
SEND_ANYWAY: Final = "written"
SEND_BESIDE: Final = "colleague"
TAKE_OVER_ANYWAY: Final = "takeover"
HAND_BACK_ANYWAY: Final = "end"
# The command of the button that puts a text back.
COPY_BACK: Final = "copy"

_SENT_BEFORE: Final = _(
    "You already sent this text. See above what happened. Press “Send again anyway” to send it "
    "once more."
)
_WRITTEN_SINCE: Final = _(
    "%(who)s has written since this page was shown. Read it above. Press “Send anyway” if your "
    "text still fits."
)
_ANSWERED_BY_OTHER: Final = _(
    "%(turn)s Press “Send anyway” if your text should be sent all the same."
)
_MAY_HAVE_ARRIVED: Final = _(
    "This text may have arrived. Look at the chat in OSVI's dashboard before you send it again."
)
_NOT_COPIED: Final = _(
    "Nothing was copied, because the text below is not sent yet. Send it or remove it first."
)
_TAKEN_BY_OTHER: Final = _("%(turn)s If you take over, %(who)s no longer has this chat.")
_HAND_BACK_OF_OTHER: Final = _(
    "%(turn)s If you hand back, the AI agent answers the customer, and %(who)s no longer has this "
    "chat."
)
_FORM_SENT_BEFORE: Final = _(
    "You already sent this form, so nothing was done now. See above what happened, and send the "
    "form again if you still want to."
)
_UNKNOWN_COMMAND: Final = _(
    "Nothing was done: this page does not know that action. Use one of the buttons below."
)
_FORM_RESULT: Final = _(
    "You already sent this form, so nothing was done now. The result of the first time: %(outcome)s"
)
_FORM_IN_PROGRESS: Final = _(
    "This form is already being sent, so nothing was sent a second time. Look again in a moment "
    "to see the result."
)
_LOGGED_OUT: Final = _("Nothing was sent: you were logged out.")
_NOT_KEPT: Final = _(
    "Without JavaScript, this page could not keep your text. It may still be there if you go back "
    "in your browser."
)


# By whether it is a hand back: the question, its words, and the field with what they were about.
_QUESTIONS_ABOUT_TURN: Final = {
    False: (TAKE_OVER_ANYWAY, _TAKEN_BY_OTHER, "take_from"),
    True: (HAND_BACK_ANYWAY, _HAND_BACK_OF_OTHER, "hand_back_from"),
}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A form of the desk as it was sent, and what it asks for."""

    form: DeskForm
    command: SupportCommand
    text: str
    is_resend: bool

    @property
    def field(self) -> str | None:
        """Return the name of the field with the text; None for all but texts."""
        return None if str(self.command.kind) in TURNS else "text"


class DeskViews(HistoryViews):
    """The view of ``ChatSessionAdmin`` behind the forms on an open session's page."""

    @abstractmethod
    def desk_page(self, request: HttpRequest, session: ChatSession) -> TemplateResponse:
        """Return the page for users who may operate a session and not see its own page."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of this view and of the base classes."""
        return [self._path("<path:object_id>/desk", self.desk_view), *super().own_urls()]

    def desk_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Do what a form of the desk asks for (POST), or show only the desk (GET)."""
        session = self.get_object(request, unquote(object_id))
        if not self.has_operate_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._redirect_not_found(request, object_id)
        if request.method == "POST":
            return self._run_posted(request, session)
        if "form" in request.GET:
            return self._after_login(request, session)
        return self.desk_page(request, session)

    def desk_of(
        self, request: HttpRequest, session: ChatSession, *, is_poll: bool = False
    ) -> dict[str, Any]:
        """Return the context of the time line and the desk; without permission no desk.

        ``is_poll``: leave what was typed to the page that shows it.
        """
        operates = may_operate(request.user, session)
        shows_kept = operates and not is_poll
        kept = self._kept_of(request, session) if shows_kept else Kept()
        form, once = kept.fill(DeskForm()), new_token()
        form.fields["text"].widget.attrs["autofocus"] = kept.is_answer
        turn, chosen = turn_of(session, request.user), str(form["to"].value() or "")
        ways = ways_of(session, chosen, has_text=bool(form["text"].value()))
        # The typed text is shown again, whatever happened to the session in the meantime.
        has_form = session.is_open or bool(kept.errors or form["text"].value())
        return {
            "timeline": timeline_of(session, self.viewer_of(request, session)),
            "show_desk": operates and has_form,
            "show_draft": operates and not has_form,
            "turn": turn,
            "turns": _turns_of(turn),
            "known_context": hidden(context_of(session)),
            "desk": form,
            "ways_to_send": ways,
            "has_reader": any(way.is_chosen for way in ways),
            "question": kept.repeats,
            "once": once,
            "desk_url": with_query(self.url_to("desk", session.pk), form=once),
        }

    def _kept_of(self, request: HttpRequest, session: ChatSession) -> Kept:
        """Return what was typed. The page's script keeps it in its tab, so other tabs do not."""
        key = self._key_of("desk", session)
        kept = take(request, key)
        if SCRIPT_HEADER in request.headers:
            drop(request, key)
        return kept

    def _after_login(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        """Report that a form was not sent: the login page leads here in place of its answer."""
        try:
            key = uuid_or_none("form", request.GET["form"])
        except InvalidInput:
            key = None
        if action_of_form(session, key) is None:
            # With JavaScript, the text is in the form.
            sentence = format_html("{}<noscript> {}</noscript>", _LOGGED_OUT, _NOT_KEPT)
            self.message_user(request, sentence, messages.WARNING)
        return HttpResponseRedirect(self._page_after(request, session))

    def _run_posted(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        form = DeskForm(posted(request))
        if request.POST.get("command") == COPY_BACK:
            return self._copy_back(request, session, form)
        asked = self._asked(request, form)
        if asked is None:
            return self._return_to_desk(request, session, form)
        # A second request at the same moment is refused when its action is stored.
        if first := action_of_form(session, form_key_of(request)):
            return self._report_first(request, session, asked, first)
        if question := self._question_about(request, session, asked):
            return self._return_to_desk(request, session, form, question=question)
        return self._run(request, session, asked)

    def _copy_back(
        self, request: HttpRequest, session: ChatSession, form: DeskForm
    ) -> HttpResponseBase:
        """Put the text that was not answered back, so that it can be sent again on purpose."""
        timeline = timeline_of(session, self.viewer_of(request, session))
        line = timeline.unanswered_text
        if line is None:
            return self._return_to_desk(request, session, form)
        if form.data.get("text", "").strip():
            form.add_error("text", _NOT_COPIED)
            return self._return_to_desk(request, session, form)
        form.data = {**form.data, "to": line.kind, "text": line.text}
        form.add_error("text", _MAY_HAVE_ARRIVED)
        return self._return_to_desk(request, session, form, question=SEND_AGAIN)

    def _asked(self, request: HttpRequest, form: DeskForm) -> Submission | None:
        """Return what a form asks for; None, with an error, if that is not clear."""
        name = request.POST.get("command", "")
        is_valid = form.is_valid()
        if turn := TURNS.get(name):
            text = form.cleaned_data.get("takeover_note", "") if turn.field else ""
            # To take over twice does no harm, whatever became of the first time.
            sent = Submission(form=form, command=turn, text=text, is_resend=True)
            return sent if "takeover_note" not in form.errors else None
        if name not in {"send", SEND_AGAIN}:
            self.message_user(request, _UNKNOWN_COMMAND, messages.WARNING)
            return None
        command, text = form.command(), form.typed_text()
        if command is None or not is_valid or form.errors:
            return None
        return Submission(form=form, command=command, text=text, is_resend=name == SEND_AGAIN)

    def _question_about(self, request: HttpRequest, session: ChatSession, asked: Submission) -> str:
        """Return the question to ask before this is done, with an error that asks it; or ""."""
        if asked.field:
            return self._question_about_text(request, session, asked)
        turn = turn_of(session, request.user)
        question, sentence, known_by = _QUESTIONS_ABOUT_TURN[asked.command.sets_mode == Mode.AI]
        is_asked = turn.is_of_other and request.POST.get(known_by) != turn.version
        # A hand back of another take-over than the page shows is refused when it is run.
        if not is_asked or (question == HAND_BACK_ANYWAY and not _is_shown(request, turn)):
            return ""
        who = turn.who or _("your colleague")
        asked.form.add_error(None, sentence % {"turn": turn.text, "who": who})
        return question

    def _question_about_text(
        self, request: HttpRequest, session: ChatSession, asked: Submission
    ) -> str:
        """Ask if a colleague has the chat, once for each take-over, or has written since."""
        question, turn = "", turn_of(session, request.user)
        if turn.is_of_other and not self._is_confirmed(request, session, turn):
            asked.form.add_error("text", _ANSWERED_BY_OTHER % {"turn": turn.text})
            question = SEND_BESIDE
        seen = request.POST.get("seen", "")
        if found := written_since(session, seen, by_others_than=request.user):
            asked.form.add_error("text", _WRITTEN_SINCE % {"who": found.requested_by})
            question = question or SEND_ANYWAY
        return question

    def _is_confirmed(self, request: HttpRequest, session: ChatSession, turn: Turn) -> bool:
        """Return whether the user wants to write although somebody else has taken over."""
        page = self._key_of("beside", session)
        if request.POST.get("beside") == turn.version:
            note_confirmed(request, page, turn.version)
        return is_confirmed(request, page, turn.version)

    def _run(
        self, request: HttpRequest, session: ChatSession, asked: Submission
    ) -> HttpResponseBase:
        command, text, form = asked.command, asked.text, asked.form
        key = form_key_of(request)
        try:
            if text and not asked.is_resend and _was_just_done(session, command, text):
                raise SentBefore
            result = run_command(
                command,
                session,
                text,
                requested_by=request.user,
                via="admin",
                resend=asked.is_resend,
                form_key=key,
                **_expected_by(request, command),
            )
        except NotAllowed as error:
            raise PermissionDenied from error
        except SentBefore:
            if first := action_of_form(session, key):
                return self._report_first(request, session, asked, first)
            form.add_error(asked.field, _SENT_BEFORE)
            return self._return_to_desk(request, session, form, question=SEND_AGAIN)
        except SessionNotFound:
            return self._redirect_not_found(request, str(session.pk))
        except (OSVINoAnswer, OSVIBadAnswer) as error:
            # It may have been done: the time line shows it.
            self._say_of(request, session, error, messages.WARNING)
        except (OSVIError, OSVINotConfigured) as error:
            # Nothing was done: the desk says why and keeps the typed text.
            form.add_error(asked.field, str(error))
            return self._return_to_desk(request, session, form)
        else:
            self.message_user(request, command.done_after(result.reply), messages.SUCCESS)
        return self._sent(request, session, asked)

    def _report_first(
        self, request: HttpRequest, session: ChatSession, asked: Submission, first: SupportAction
    ) -> HttpResponseBase:
        """Report the result of the form's first submission; keep a different text."""
        if (first.kind, first.text) != (asked.command.kind, asked.text):
            asked.form.add_error(None, _FORM_SENT_BEFORE)
            return self._return_to_desk(request, session, asked.form)
        is_done = first.outcome == ActionOutcome.DONE
        outcome = asked.command.done_after(first.reply)
        outcome = outcome if is_done else first.get_outcome_display()
        in_progress = first.outcome == ActionOutcome.STARTED
        sentence = _FORM_IN_PROGRESS if in_progress else _FORM_RESULT % {"outcome": outcome}
        level = messages.SUCCESS if is_done else messages.WARNING
        self._say_of(request, session, sentence, level)
        return self._sent(request, session, asked)

    def _sent(
        self, request: HttpRequest, session: ChatSession, asked: Submission
    ) -> HttpResponseBase:
        """Redirect to the page, with what was typed and not sent, and the same readers chosen.

        Who has taken over wants to write to the customer, unless a text for others is typed.
        """
        words = {name: str(asked.form.cleaned_data.get(name, "")) for name in ("to", "text")}
        if asked.command.sets_mode == Mode.SUPPORT and not words["text"]:
            words["to"] = ""
        elif asked.command not in TURNS.values():
            words["text"] = ""
        if any(words.values()):
            keep_words(request, self._key_of("desk", session), words, is_answer=True)
        else:
            drop(request, self._key_of("desk", session))
        return self._back(request, session)

    def _return_to_desk(
        self, request: HttpRequest, session: ChatSession, form: DeskForm, *, question: str = ""
    ) -> HttpResponseBase:
        """Redirect to the page, with the typed text and why it was not sent."""
        keep(request, self._key_of("desk", session), form, repeats=question)
        return self._back(request, session)

    def _back(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        """Redirect to the page of a session; the page's script, to its state."""
        if SCRIPT_HEADER not in request.headers:
            return HttpResponseRedirect(self._page_after(request, session))
        seen = request.POST.get("seen", "")[:64]
        url = with_query(self.url_to("live", session.pk), answer="1", since=seen)
        return HttpResponseRedirect(url)


def _is_shown(request: HttpRequest, turn: Turn) -> bool:
    """Return whether the page that sent the form shows this take-over."""
    return request.POST.get("taken_over", turn.token) == turn.token


def _expected_by(request: HttpRequest, command: SupportCommand) -> ExpectedState:
    """Return the take-over that the page knows, which a hand back ends; {} for all else."""
    if command.sets_mode != Mode.AI or "taken_over" not in request.POST:
        return {}
    try:
        return {"taken_over_at": parse_datetime(request.POST["taken_over"])}
    except ValueError:
        return {"taken_over_at": None}


def _turns_of(turn: Turn) -> list[SupportCommand]:
    """Return the commands that change who answers; the own take-over need not be repeated."""
    take_over, hand_back = TURNS.values()
    return [take_over] if not turn.is_taken else [hand_back] if turn.is_own else [*TURNS.values()]


def _was_just_done(session: ChatSession, command: SupportCommand, text: str) -> bool:
    """Return whether this looks like a double click, which only people make."""
    since = timezone.now() - _DOUBLE_CLICK_WINDOW
    done = actions_of(session).filter(
        kind=command.kind, outcome=ActionOutcome.DONE, started_at__gt=since
    )
    return text in done.values_list("text", flat=True)
