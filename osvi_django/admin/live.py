"""The state of a session's page, for the script that keeps the page up to date."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final

from django.contrib.messages import get_messages
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.template.loader import render_to_string
from django.urls import URLPattern
from django.utils.html import conditional_escape

from osvi_django.admin.attempts import HistoryViews
from osvi_django.admin.timeline import lines_since
from osvi_django.models import ChatSession
from osvi_django.redaction import HiddenText
from osvi_django.services.mirroring import refresh_watched

_TEMPLATES: Final = "admin/osvi_django/chatsession"
# The parts of a page that change while it is shown; the composer does so only with an answer.
PARTS: Final = ("head", "actions", "turn", "readers")


class LiveViews(HistoryViews):
    """The view of ``ChatSessionAdmin`` that the script on a session's page asks."""

    @abstractmethod
    def page_of(
        self, request: HttpRequest, session: ChatSession, *, is_poll: bool = False
    ) -> dict[str, Any]:
        """Return the context of a session's page."""

    def own_urls(self) -> list[URLPattern]:
        """Return the URL of this view and those of the base classes."""
        return [self._path("<path:object_id>/live", self.live_view), *super().own_urls()]

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Return the state of the page as JSON, and what is new after the line ``since``.

        ``answer``: this answers a form that the script sent; otherwise OSVI is asked if it is time.
        """
        session = self._seen(request, object_id)
        if session is None:
            return JsonResponse({"is_gone": True}, status=404)
        is_answer = "answer" in request.GET
        if not is_answer and refresh_watched(session):
            session = self._seen(request, object_id) or session
        request.current_app = self.admin_site.name
        return JsonResponse(self._state_of(request, session, is_answer=is_answer))

    def _state_of(
        self, request: HttpRequest, session: ChatSession, *, is_answer: bool
    ) -> dict[str, Any]:
        """Return the state; only its revision if the page that asks has it already."""
        context = self.page_of(request, session, is_poll=not is_answer)
        timeline, turn = context["timeline"], context["turn"]
        context = {**context, "opts": self.opts, "original": session}
        since = request.GET.get("since", "")
        state: dict[str, Any] = {
            "status": session.status,
            "is_open": session.is_open,
            "mode": session.mode,
            "help_requested": session.help_requested,
            "taken_over_by": turn.who if turn.is_taken else "",
            "taken_over_at": turn.since.isoformat() if turn.since else None,
            "last": timeline.last_key,
            "parts": {name: self._html(request, name, context) for name in PARTS},
        }
        known = [[line.key, line.version] for line in timeline.lines]
        revision = _digest({**state, "known": known})
        if not is_answer and revision == request.GET.get("revision"):
            return {"revision": revision}
        lines = [
            {
                "key": line.key,
                "is_own": line.is_own,
                "html": self._html(request, "line", {**context, "line": line}),
            }
            for line in lines_since(session, timeline, since)
        ]
        state |= {"revision": revision, "lines": lines}
        if is_answer:
            state["composer"] = self._html(request, "composer", context)
            state["messages"] = [
                {
                    "level": message.level_tag,
                    "html": HiddenText(conditional_escape(message.message)),
                }
                for message in get_messages(request)
            ]
        return state

    def _html(self, request: HttpRequest, name: str, context: Mapping[str, Any]) -> str:
        html = render_to_string(f"{_TEMPLATES}/parts/{name}.html", dict(context), request)
        return HiddenText(html)


def _digest(state: Mapping[str, Any]) -> str:
    """Return a short text that differs whenever the state does."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
