"""What the agent of a new chat is given of the customer's earlier chats."""

from __future__ import annotations

from typing import Final

from osvi_django.client.validation import CONTEXT_KEPT
from osvi_django.conf import Account, configured
from osvi_django.database import exact_match
from osvi_django.redaction import HiddenText, hides
from osvi_django.services import selectors
from osvi_django.services.attempts.types import User
from osvi_django.services.permissions import readable_summaries

_LENGTH: Final = 1_000  # characters
# Of so many summaries, those are shared that the user may read.
_LOOKED_AT: Final = 20


def number_to_share(account: str, *, own: int) -> int:
    """Return how many summaries to share with OSVI, beside ``own`` texts of the caller.

    Raises ``OSVINotConfigured``.
    """
    with configured():
        return max(0, min(Account(account).share_summaries, CONTEXT_KEPT - own))


@hides("customer_id")
def earlier_summaries(
    customer_id: str, *, account: str, number: int, requested_by: User | None
) -> list[str]:
    """Return so many of the customer's latest summaries to share with OSVI, the oldest first.

    A user shares only what they may read; None is the host's own code, which may read all.
    """
    if not number:
        return []
    written = selectors.all_sessions().select_related("summary")
    theirs = written.filter(exact_match("customer_id", customer_id), agent__account=account)
    newest = theirs.exclude(summary=None).exclude(summary__text="").order_by("-started_at", "-id")
    looked_at = list(newest[:_LOOKED_AT])
    if requested_by is None:
        readable = {each.pk for each in looked_at}
    else:
        readable = readable_summaries(requested_by, looked_at)
    shared = [each.summary.text for each in looked_at if each.pk in readable]
    return [_capped(text) for text in reversed(shared[:number])]


def _capped(text: str) -> str:
    return HiddenText(text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1].rstrip()}…")
