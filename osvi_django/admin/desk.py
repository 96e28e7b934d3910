"""The desk of a session in the admin: take over, speak, guide the agent, hand back."""

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

from osvi_django.admin.asking import AskingViews
from osvi_django.admin.forms import DeskForm
from osvi_django.admin.thread import Outcome, thread_of
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
from osvi_django.services.permissions import may_operate, may_read_summary
from osvi_django.services.support import (
    ActionResult,
    context_of,
    hand_back,
    inject_context,
    send_message,
    take_over,
    tell,
    whisper,
)

# The same words once more, so soon: a second click rather than a second thought.
_SECOND_CLICK: Final = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class _Act:
    """One thing that can be done at the desk; ``done`` says that it is."""

    kind: SupportAction.Kind
    do: Callable[..., ActionResult]
    done: Any  # a sentence, translated when it is said
    takes_words: bool = True


_ACTS: Final[Mapping[str, _Act]] = {
    "takeover": _Act(
        kind=SupportAction.Kind.TAKE_OVER,
        do=take_over,
        done=_("You have taken over: the agent is silent until somebody hands back."),
        takes_words=False,
    ),
    "end": _Act(
        kind=SupportAction.Kind.HAND_BACK,
        do=hand_back,
        done=_("You have handed back: the agent answers the customer again."),
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
        done=_("The agent has answered the customer: its words are below."),
    ),
    "whisper": _Act(
        kind=SupportAction.Kind.WHISPER,
        do=whisper,
        done=_("The agent keeps it in mind for when the customer writes next."),
    ),
    "context": _Act(
        kind=SupportAction.Kind.CONTEXT, do=inject_context, done=_("The agent knows this now.")
    ),
}


_SENT_BEFORE: Final = _(
    "These words were sent already, and are not sent twice by themselves: look above at what "
    "became of them."
)
_NO_REPLY: Final = _("The agent was told, and OSVI has sent no words of its answer.")


class DeskViews(AskingViews):
    """The view of ``ChatSessionAdmin`` behind the forms on an open session's page."""

    def own_urls(self) -> list[URLPattern]:
        """The desk's, beside whatever else there is."""
        return [self._path("<path:object_id>/desk", self.desk_view), *super().own_urls()]

    def desk_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Do one thing in a session (POST with ``act``), or show its desk alone (GET)."""
        session = self.get_object(request, unquote(object_id))
        if not self.has_operate_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._say_gone(request, object_id)
        # Of what was sent before, ``again`` says that it is to be repeated on purpose.
        again = request.POST.get("again", "")
        name = again or request.POST.get("act", "")
        form = DeskForm(request.POST) if request.method == "POST" else DeskForm()
        if name not in _ACTS:
            return self._desk_page(request, session, form)
        return self._act(request, session, name, form, on_purpose=bool(again))

    def desk_of(
        self, request: HttpRequest, session: ChatSession, form: DeskForm, **more: Any
    ) -> dict[str, Any]:
        """What the desk's template shows; who may not operate sees the thread alone."""
        operates = may_operate(request.user, session)
        is_readable = operates or may_read_summary(request.user, session)
        return {
            "thread": thread_of(session, is_readable=is_readable),
            # What was typed is shown once more, whatever became of the session meanwhile.
            "show_desk": operates and (session.is_open or form.is_bound),
            "has_taken_over": session.mode == ChatSession.Mode.SUPPORT,
            "known_context": context_of(session),
            "desk": form,
            **more,
        }

    def _act(
        self,
        request: HttpRequest,
        session: ChatSession,
        name: str,
        form: DeskForm,
        *,
        on_purpose: bool,
    ) -> HttpResponseBase:
        act = _ACTS[name]
        words = form.words_of(name) if form.is_valid() and act.takes_words else ""
        if form.errors:
            return self._desk_page(request, session, form)
        try:
            result = _do(act, session, words, request.user, on_purpose=on_purpose)
        except NotAllowed as error:
            raise PermissionDenied from error
        except SentBefore:
            form.add_error(name, _SENT_BEFORE)
            return self._desk_page(request, session, form, repeats=name)
        except SessionNotFound:
            return self._say_gone(request, str(session.pk))
        except (OSVINoAnswer, OSVIBadAnswer) as error:
            # It may have been done: it stands in the thread, and no reload sends it once more.
            self.message_user(request, str(error), messages.WARNING)
        except (OSVIError, OSVINotConfigured) as error:
            return self._refused(request, session, name, form, error)
        else:
            silent = name == "tell" and not result.reply
            self.message_user(request, _NO_REPLY if silent else act.done, messages.SUCCESS)
            if not act.takes_words and any(form.cleaned_data.values()):
                return self._desk_page(request, session, form)  # with what is not yet sent
        return HttpResponseRedirect(self._page_after(request, session))

    def _refused(
        self,
        request: HttpRequest,
        session: ChatSession,
        name: str,
        form: DeskForm,
        error: OSVIError | OSVINotConfigured,
    ) -> HttpResponseBase:
        """Nothing was done: say why, with all that was typed where it was."""
        form.add_error(name if name in form.fields else None, str(error))
        return self._desk_page(request, session, form)

    def _desk_page(
        self, request: HttpRequest, session: ChatSession, form: DeskForm, **more: Any
    ) -> HttpResponseBase:
        for name in form.errors:
            if name in form.fields:
                form.fields[name].widget.attrs["autofocus"] = True  # the page opens there
        return self._page(
            request,
            "desk_page",
            title=_("Desk"),
            original=session,
            **self.desk_of(request, session, form, **more),
        )


def _do(
    act: _Act, session: ChatSession, words: str, user: Any, *, on_purpose: bool
) -> ActionResult:
    by: dict[str, Any] = {"requested_by": user, "door": "admin"}
    if not act.takes_words:
        return act.do(session, **by)
    if not on_purpose and _was_just_done(session, act, words):
        raise SentBefore
    return act.do(session, words, again=on_purpose, **by)


def _was_just_done(session: ChatSession, act: _Act, words: str) -> bool:
    """Whether this looks like a second click; only people click, so no other door asks."""
    since = timezone.now() - _SECOND_CLICK
    done = session.actions.filter(kind=act.kind, outcome=Outcome.DONE, started_at__gt=since)
    return words in done.values_list("text", flat=True)
