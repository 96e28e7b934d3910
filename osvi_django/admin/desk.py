"""The desk of a session: a button or a field for each support command."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.forms import BoundField
from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import URLPattern
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from osvi_django.admin.activity import ActionOutcome, taken_over_at, thread_of
from osvi_django.admin.base import OSVIViews
from osvi_django.admin.forms import DESK_COMMANDS, DeskForm
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
    Mode,
    SupportCommand,
    action_of_form,
    actions_of,
    context_of,
    run_command,
)

# The same text again within this time is a double click rather than a decision.
_DOUBLE_CLICK_WINDOW: Final = timedelta(seconds=30)


@dataclass(frozen=True, kw_only=True)
class TextBox:
    """The field for the text of a command; ``is_locked``: one has to take over first."""

    command: SupportCommand
    field: BoundField
    is_locked: bool


_SENT_BEFORE: Final = _(
    "You already sent this text. See above what happened. Press “Send again anyway” to send it "
    "once more."
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


class DeskViews(OSVIViews):
    """The view of ``ChatSessionAdmin`` behind the forms on an open session's page."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URLs of this view and of the base classes."""
        return [self._path("<path:object_id>/desk", self.desk_view), *super().own_urls()]

    def desk_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Run a command in a session (POST with ``command``), or show only its desk (GET)."""
        session = self.get_object(request, unquote(object_id))
        if not self.has_operate_permission(request, session):
            raise PermissionDenied
        if session is None:
            return self._redirect_not_found(request, object_id)
        if request.method == "POST":
            return self._run_posted(request, session)
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
        form = _focused(kept.fill(DeskForm()))
        return {
            "thread": thread,
            # The typed text is shown again, whatever happened to the session in the meantime.
            "show_desk": operates and (session.is_open or kept.is_filled),
            "has_taken_over": session.mode == Mode.SUPPORT,
            "taken_over_at": taken_over_at(thread),
            "known_context": hidden(context_of(session)),
            "desk": form,
            "buttons": _buttons_of(session),
            "text_boxes": _text_boxes_of(session, form),
            "repeats": kept.repeats,
            "once": new_token(),
        }

    def _run_posted(self, request: HttpRequest, session: ChatSession) -> HttpResponseBase:
        # ``resend`` means: send on purpose what was sent before.
        resend = request.POST.get("resend", "")
        name = resend or request.POST.get("command", "")
        form = DeskForm(posted(request))
        command = DESK_COMMANDS.get(name)
        text = form.text_of(name) if form.is_valid() and command and command.field else ""
        if command is None:
            self.message_user(request, _UNKNOWN_COMMAND, messages.WARNING)
        if command is None or form.errors:
            return self._return_to_desk(request, session, form)
        # A second request at the same moment is refused when its action is stored.
        if first := action_of_form(session, form_key_of(request)):
            return self._report_first(request, session, command, text, form, first)
        return self._run(request, session, command, text, form, resend=bool(resend))

    def _run(
        self,
        request: HttpRequest,
        session: ChatSession,
        command: SupportCommand,
        text: str,
        form: DeskForm,
        *,
        resend: bool,
    ) -> HttpResponseBase:
        name = _field_name(command)
        key = form_key_of(request)
        try:
            if text and not resend and _was_just_done(session, command, text):
                raise SentBefore
            result = run_command(
                command,
                session,
                text,
                requested_by=request.user,
                via="admin",
                resend=resend,
                form_key=key,
            )
        except NotAllowed as error:
            raise PermissionDenied from error
        except SentBefore:
            if first := action_of_form(session, key):
                return self._report_first(request, session, command, text, form, first)
            form.add_error(name, _SENT_BEFORE)
            return self._return_to_desk(request, session, form, repeats=name or "")
        except SessionNotFound:
            return self._redirect_not_found(request, str(session.pk))
        except (OSVINoAnswer, OSVIBadAnswer) as error:
            # It may have been done: the activity shows it.
            self.message_user(request, str(error), messages.WARNING)
        except (OSVIError, OSVINotConfigured) as error:
            # Nothing was done: the desk says why and keeps the typed text.
            form.add_error(name, str(error))
            return self._return_to_desk(request, session, form)
        else:
            self.message_user(request, command.done_after(result.reply), messages.SUCCESS)
        self._keep_unsent(request, session, form, name)
        return HttpResponseRedirect(self._page_after(request, session))

    def _report_first(
        self,
        request: HttpRequest,
        session: ChatSession,
        command: SupportCommand,
        text: str,
        form: DeskForm,
        first: SupportAction,
    ) -> HttpResponseBase:
        """Report the result of the form's first submission; keep a different text."""
        if (first.kind, first.text) != (command.kind, text):
            form.add_error(None, _FORM_SENT_BEFORE)
            return self._return_to_desk(request, session, form)
        is_done = first.outcome == ActionOutcome.DONE
        outcome = command.done_after(first.reply) if is_done else first.get_outcome_display()
        in_progress = first.outcome == ActionOutcome.STARTED
        sentence = _FORM_IN_PROGRESS if in_progress else _FORM_RESULT % {"outcome": outcome}
        self.message_user(request, sentence, messages.SUCCESS if is_done else messages.WARNING)
        self._keep_unsent(request, session, form, _field_name(command))
        return HttpResponseRedirect(self._page_after(request, session))

    def _keep_unsent(
        self, request: HttpRequest, session: ChatSession, form: DeskForm, sent: str | None
    ) -> None:
        """Keep the typed texts except the one that was sent."""
        page = self._key_of("desk", session)
        unsent = {name: text for name, text in form.cleaned_data.items() if name != sent}
        if any(unsent.values()):
            keep_words(request, page, unsent)
        else:
            drop(request, page)

    def _return_to_desk(
        self, request: HttpRequest, session: ChatSession, form: DeskForm, *, repeats: str = ""
    ) -> HttpResponseBase:
        """Redirect to the desk, with the typed text and why it was not sent."""
        keep(request, self._key_of("desk", session), form, repeats=repeats)
        return HttpResponseRedirect(self.url_to("desk", session.pk))


def _buttons_of(session: ChatSession) -> list[SupportCommand]:
    """Return the commands without a text, except those that would not change who answers."""
    has_taken_over = session.mode == Mode.SUPPORT
    textless = [command for command in DESK_COMMANDS.values() if not command.field]
    return [each for each in textless if (each.sets_mode == Mode.SUPPORT) != has_taken_over]


def _text_boxes_of(session: ChatSession, form: DeskForm) -> list[TextBox]:
    """Return the fields; if the session is not open, only those in which something was typed."""
    is_locked = session.is_open and session.mode != Mode.SUPPORT
    return [
        TextBox(command=command, field=form[name], is_locked=is_locked and command.needs_support)
        for name, command in DESK_COMMANDS.items()
        if command.field and (session.is_open or form[name].value())
    ]


def _field_name(command: SupportCommand) -> str | None:
    """Return the name of the field for the text of a command, if it takes one."""
    return str(command.kind) if command.field else None


def _focused(form: DeskForm) -> DeskForm:
    """Move the focus to the field with the error."""
    for name in form.errors:
        if name in form.fields:
            form.fields[name].widget.attrs["autofocus"] = True
    return form


def _was_just_done(session: ChatSession, command: SupportCommand, text: str) -> bool:
    """Return whether this looks like a double click, which only people make."""
    since = timezone.now() - _DOUBLE_CLICK_WINDOW
    done = actions_of(session).filter(
        kind=command.kind, outcome=ActionOutcome.DONE, started_at__gt=since
    )
    return text in done.values_list("text", flat=True)
