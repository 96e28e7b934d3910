"""Erase again whom a restored backup has brought back, by the hashes in the journal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any, Final

from django.db.models import Min, QuerySet

from osvi_django.database import in_utc, to_db_datetime
from osvi_django.exceptions import InvalidInput, OSVIError, translate
from osvi_django.models import Erasure
from osvi_django.services import selectors
from osvi_django.services.attempts.types import User
from osvi_django.services.permissions import require_erase
from osvi_django.services.privacy import journal
from osvi_django.services.privacy.erasure import ErasureResult, erase_again
from osvi_django.services.privacy.hashing import (
    customer_hashes,
    fingerprint_of,
    known_fingerprints,
)
from osvi_django.validation import VIA_MAX_LENGTH, checks_types, require_id, stripped

_CHUNK: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class ReplayedErasure:
    """What became of one customer who was found again: ``result``, or the ``error``.

    The last one may have neither, and ``unknown_keys``: how many lines of the journal were written
    with a key that this site does not have, so that it cannot tell whom they mean.
    """

    result: ErasureResult | None = None
    error: OSVIError | None = None
    unknown_keys: int = 0


def journal_lines() -> Iterator[str]:
    """Yield the journal of erasures as lines of JSON, to be kept apart from the backups."""
    for each in _erasures().iterator():
        kept = {
            "customer_hash": each.customer_hash,
            "account": each.account,
            "marker": each.marker,
            "state": each.state_now.value,
            "started_at": in_utc(each.started_at).isoformat(),
            "finished_at": each.finished_at and in_utc(each.finished_at).isoformat(),
        }
        yield json.dumps(kept)


@checks_types
def replay_erasures(
    lines: Iterable[str] = (),
    *,
    requested_by: User | None = None,
    via: str = "code",
    dry_run: bool = False,
) -> Iterator[ReplayedErasure]:
    """Erase all customers of the journal, and of these lines of it, who are here (again).

    Only what was there before an erasure ended is erased again. ``dry_run`` counts only. Raises
    ``NotAllowed``, and ``InvalidInput`` if a line is not of a journal, before anyone is erased.
    """
    require_erase(requested_by)
    via = stripped("via", via, VIA_MAX_LENGTH)
    kept = [*map(_line, filter(str.strip, map(str, lines))), *map(_line_of, _erasures())]
    # An erasure of a part of a customer's chats has no hash, and is not repeated.
    wanted = [each for each in kept if each.customer_hash]
    for (customer, account), line in _here_again(wanted).items():
        yield _erase(
            customer,
            line,
            account=account or None,
            requested_by=requested_by,
            via=via,
            dry_run=dry_run,
        )
    known = known_fingerprints()
    unknown = {each.marker for each in wanted if fingerprint_of(each.customer_hash) not in known}
    if unknown:
        yield ReplayedErasure(unknown_keys=len(unknown))


def _here_again(wanted: Iterable[journal.Line]) -> dict[tuple[str, str], journal.Line]:
    """Return the customers who are here, with the account and the line that says what to erase.

    All are read before the first is erased.
    """
    by_hash: dict[tuple[str, str], journal.Line] = {}
    for line in sorted(wanted, key=lambda each: each.until):  # the last one holds for all before
        by_hash[line.customer_hash, line.account] = line
    theirs = selectors.all_sessions().exclude(customer_id="").filter(erased_at=None)
    by_customer = theirs.order_by("customer_id").values_list("customer_id", "agent__account")
    found = by_customer.annotate(Min("started_at"), Min("created_at"))
    again: dict[tuple[str, str], journal.Line] = {}
    for customer, of_session, *moments in found.iterator(_CHUNK):
        first = min(each for each in moments if each is not None)
        for hashed, account in product(customer_hashes(customer), ("", of_session)):
            named = by_hash.get((hashed, account))
            if named is not None and first < named.until:
                before = again.setdefault((customer, account), named)
                again[customer, account] = max(before, named, key=lambda each: each.until)
    return again


def _erase(customer: str, line: journal.Line, **request: Any) -> ReplayedErasure:
    try:
        return ReplayedErasure(result=erase_again(customer, line, **request))
    except OSVIError as error:
        return ReplayedErasure(error=error)


def _line_of(erasure: Erasure) -> journal.Line:
    return journal.Line(
        customer_hash=erasure.customer_hash,
        account=erasure.account,
        marker=erasure.marker,
        started_at=erasure.started_at,
        until=erasure.finished_at or erasure.started_at,
    )


def _line(text: str) -> journal.Line:
    try:
        kept = json.loads(text)
        started_at = datetime.fromisoformat(kept["started_at"])
        ended_at = kept["finished_at"] and datetime.fromisoformat(kept["finished_at"])
        return journal.Line(
            customer_hash=str(kept["customer_hash"]),
            account=str(kept["account"]),
            marker=require_id("marker", kept["marker"]),
            started_at=to_db_datetime(started_at),
            until=to_db_datetime(ended_at or started_at),
        )
    except (ValueError, TypeError, KeyError, InvalidInput):
        problem = translate("This is not a line of a journal of erasures.")
        raise InvalidInput(problem, field="lines") from None


def _erasures() -> QuerySet[Erasure]:
    return journal.erasures().order_by("pk")
