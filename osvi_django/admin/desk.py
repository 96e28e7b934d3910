"""The desk of a session: take over, write, guide the agent, hand back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.activity import ActionOutcome, taken_over_at, thread_of
from osvi_django.admin.base import AskingViews
from osvi_django.admin.forms import DeskForm
from osvi_django.admin.kept import (
    Kept,
    drop,
    form_key_of,
    keep,
    keep_words,
    new_token,
    posted,
    take,
)
from osvi_django.exceptions import (
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
from osvi_django.services.permissions import may_operate, may_read_summary
from osvi_django.services.support import (
    ActionResult,
    action_of_form,
    actions_of,
    context_of,
    hand_back,
    inject_context,
    send_message,
    take_over,
    tell,
    whisper,
)

# The same text again within this time is a double click rather than a decision.
_DOUBLE_CLICK_WINDOW: Final = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class _Act:
    """One action of the desk; ``done`` is the message that it succeeded."""

    kind: SupportAction.Kind
    do: Callable[..., ActionResult]
    done: Any  # a sentence, translated when it is shown
    takes_words: bool = True

    @property
    def field(self) -> str | None:
        """Return the name of the field for its text, if it takes one."""
        return str(self.kind) if self.takes_words else None

    def done_with(self, reply: str | None) -> Any:
        """Return the success message. The agent may not reply to an instruction."""
        return _NO_REPLY if self.kind == SupportAction.Kind.TELL and not reply else self.done


_ACTS: Final[Mapping[str, _Act]] = {
    "takeover": _Act(
        kind=SupportAction.Kind.TAKE_OVER,
        do=take_over,
        done=_("You have taken over. The AI agent does not reply until someone hands back."),
        takes_words=False,
    ),
    "end": _Act(
        kind=SupportAction.Kind.HAND_BACK,
        do=hand_back,
        done=_("You have handed back. The AI agent replies to the customer again."),
        takes_words=False,
    ),
    "message": _Act(
        kind=SupportAction.Kind.MESSAGE,
        do=send_message,
        done=_("Your message was sent to the customer."),
    ),
    "tell": _Act(
        kind=SupportAction.Kind.TELL,
        do=tell,
        done=_("The agent has replied to the customer. You find its reply below."),
    ),
    "whisper": _Act(
        kind=SupportAction.Kind.WHISPER,
        do=whisper,
        done=_("The agent will use this in its next reply."),
    ),
    "context": _Act(
        kind=SupportAction.Kind.CONTEXT,
        do=inject_context,
        done=_("The fact was added. The agent knows it from now on."),
    ),
}


_SENT_BEFORE: Final = _(
    "You already sent this text. See above what happened. Press “Send again anyway” if you mean it."
)
_FORM_SENT_BEFORE: Final = _(
    "You already sent this form, so nothing was done now. See above what happened, and send the "
    "form again if you still want to."
)
_UNKNOWN_ACT: Final = _(
    "Nothing was done: this page does not know that action. Use one of the buttons below."
)
_FORM_CAME_TO: Final = _(
    "You already sent this form, so nothing was done now. The result of the first time: %(outcome)s"
)
_FORM_UNDER_WAY: Final = _(
    "This form is already being sent, so nothing was sent a second time. Look again in a moment "
    "to see the result."
)
_NO_REPLY: Final = _("The agent received your instruction, but OSVI did not return its reply.")


class DeskViews(AskingViews):
    """The view of ``ChatSessionAdmin`` behind the forms on an open session's page."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of this view and of the base classes."""
        return [self._path("<path:object_id>/desk", self.desk_view), *super().own_urls()]

    def desk_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Run one action in a session (POST with ``command``), or show only its desk (GET)."""
        session = self.get_object(request, unquote(object_id))
        if not self.has_operate_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._say_gone(request, object_id)
        if request.method == "POST":
            return self._act_as_asked(request, session)
        return self._page(
            request,
            "chatsession/desk_page.html",
            title=_("Desk"),
            original=session,
            **self.desk_of(request, session),
        )

    def desk_of(self, request: HttpRequest, session: ChatSession) -> dict[str, Any]:
        """Return the context of the desk's template; without permission only the activity."""
        operates = may_operate(request.user, session)
        is_readable = operates or may_read_summary(request.user, session)
        kept = take(request, self._key_of("desk", session)) if operates else Kept()
        thread = thread_of(session, is_readable=is_readable)
        return {
            "thread": thread,
            # The typed text is shown again, whatever happened to the session in the meantime.
            "show_desk": operates and (session.is_open or kept.is_filled),
            "has_taken_over": session.mode == ChatSession.Mode.SUPPORT,
            "taken_over_at": taken_over_at(thread),
            "known_context": hidden(context_of(session)),
            "desk": _focused(kept.fill(DeskForm())),
            "repeats": kept.repeats,
            "once": new_token(),
        }

    def _act_as_asked(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        # ``resend`` means: send on purpose what was sent before.
        resend = request.POST.get("resend", "")
        name = resend or request.POST.get("command", "")
        form = DeskForm(posted(request))
        act = _ACTS.get(name)
        words = form.words_of(name) if form.is_valid() and act and act.takes_words else ""
        if act is None:
            self.message_user(request, _UNKNOWN_ACT, messages.WARNING)
        if act is None or form.errors:
            return self._back(request, session, form)
        # A second request at the same moment is refused when its action is stored.
        if first := action_of_form(session, form_key_of(request)):
            return self._say_sent(request, session, act, words, form, first)
        return self._act(request, session, act, words, form, resend=bool(resend))

    def _act(
        self,
        request: HttpRequest,
        session: ChatSession,
        act: _Act,
        words: str,
        form: DeskForm,
        *,
        resend: bool,
    ) -> HttpResponseBase:
        name = act.field
        key = form_key_of(request)
        by = {"requested_by": request.user, "via": "admin", "form_key": key}
        try:
            result = _do(act, session, words, by, resend=resend)
        except NotAllowed as error:
            raise PermissionDenied from error
        except SentBefore:
            if first := action_of_form(session, key):
                return self._say_sent(request, session, act, words, form, first)
            form.add_error(name, _SENT_BEFORE)
            return self._back(request, session, form, repeats=name or "")
        except SessionNotFound:
            return self._say_gone(request, str(session.pk))
        except (OSVINoAnswer, OSVIBadAnswer) as error:
            # It may have been done: the activity shows it.
            self.message_user(request, str(error), messages.WARNING)
        except (OSVIError, OSVINotConfigured) as error:
            # Nothing was done: the desk says why and keeps the typed text.
            form.add_error(name, str(error))
            return self._back(request, session, form)
        else:
            self.message_user(request, act.done_with(result.reply), messages.SUCCESS)
        self._keep_unsent(request, session, form, name)
        return HttpResponseRedirect(self._page_after(request, session))

    def _say_sent(
        self,
        request: HttpRequest,
        session: ChatSession,
        act: _Act,
        words: str,
        form: DeskForm,
        first: SupportAction,
    ) -> HttpResponseBase:
        """Report the result of the form's first submission; keep a different text."""
        if (first.kind, first.text) != (act.kind, words):
            form.add_error(None, _FORM_SENT_BEFORE)
            return self._back(request, session, form)
        is_done = first.outcome == ActionOutcome.DONE
        outcome = act.done_with(first.reply) if is_done else first.get_outcome_display()
        is_under_way = first.outcome == ActionOutcome.STARTED
        sentence = _FORM_UNDER_WAY if is_under_way else _FORM_CAME_TO % {"outcome": outcome}
        self.message_user(request, sentence, messages.SUCCESS if is_done else messages.WARNING)
        self._keep_unsent(request, session, form, act.field)
        return HttpResponseRedirect(self._page_after(request, session))

    def _keep_unsent(
        self, request: HttpRequest, session: ChatSession, form: DeskForm, sent: str | None
    ) -> None:
        """Keep the typed text that differs from the sent one."""
        page = self._key_of("desk", session)
        unsent = {name: words for name, words in form.cleaned_data.items() if name != sent}
        if any(unsent.values()):
            keep_words(request, page, unsent)
        else:
            drop(request, page)

    def _back(
        self, request: HttpRequest, session: ChatSession, form: DeskForm, *, repeats: str = ""
    ) -> HttpResponseBase:
        """Redirect to the desk, with the typed text and why it was not sent."""
        keep(request, self._key_of("desk", session), form, repeats=repeats)
        return HttpResponseRedirect(self.url_to("desk", session.pk))


def _focused(form: DeskForm) -> DeskForm:
    """Move the focus to the field with the error."""
    for name in form.errors:
        if name in form.fields:
            form.fields[name].widget.attrs["autofocus"] = True
    return form


def _do(
    act: _Act, session: ChatSession, words: str, by: Mapping[str, Any], *, resend: bool
) -> ActionResult:
    if not act.takes_words:
        return act.do(session, **by)
    if not resend and _was_just_done(session, act, words):
        raise SentBefore
    return act.do(session, words, resend=resend, **by)


def _was_just_done(session: ChatSession, act: _Act, words: str) -> bool:
    """Return whether this looks like a double click, which only people make."""
    since = timezone.now() - _DOUBLE_CLICK_WINDOW
    done = actions_of(session).filter(
        kind=act.kind, outcome=ActionOutcome.DONE, started_at__gt=since
    )
    return words in done.values_list("text", flat=True)
