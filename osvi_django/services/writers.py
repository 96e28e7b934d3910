"""Threads in which this site writes the summaries that OSVI did not, while a job closes more."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Final

from osvi_django.models import ChatSession
from osvi_django.services.crew import Crew
from osvi_django.services.summaries import has_summarizer, summarize_by_key

logger = logging.getLogger(__name__)

# At once: each has a connection of its own, and whoever writes may be a language model.
MOST: Final = 4


class Writers(Crew[None]):
    """Writes for one run of a job."""

    def __init__(self, using: str) -> None:
        super().__init__("osvi-writer", using)
        self._waiting: deque[int] = deque()
        self._is_halted = False

    def write_of(self, sessions: Iterable[ChatSession]) -> None:
        """Let these wait for their turn, where their account has a summarizer."""
        self._waiting.extend(each.pk for each in sessions if has_summarizer(each.agent.account))

    def go_on(self, seconds: float) -> bool:
        """Begin what there is a thread for, after so long a wait for one; False: none is at it."""
        self.collect(seconds)
        while self._waiting and self.under_way < MOST and not self._is_halted:
            self.do(partial(summarize_by_key, self._waiting.popleft()))
        return self.under_way > 0

    def halt(self) -> None:
        """Begin no more: what still waits is left to ``manage.py osvi_summarize``."""
        self._is_halted = True

    def end(self) -> None:
        """Say how many were not begun."""
        if self._waiting:
            logger.warning("%s summaries wait for manage.py osvi_summarize", len(self._waiting))
