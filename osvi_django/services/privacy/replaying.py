"""Erase again whom a restored backup has brought back, by the hashes in the journal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.db import router

from osvi_django.database import in_utc
from osvi_django.exceptions import InvalidInput, OSVIError, translate
from osvi_django.models import Erasure
from osvi_django.services import selectors
from osvi_django.services.attempts.types import User
from osvi_django.services.permissions import require_erase
from osvi_django.services.privacy.erasure import ErasureResult, erase_customer
from osvi_django.services.privacy.hashing import customer_hashes
from osvi_django.validation import VIA_MAX_LENGTH, checks_types, stripped

_CHUNK: Final = 2_000


@dataclass(frozen=True, kw_only=True)
class ReplayedErasure:
    """What became of one customer who was found again: ``result``, or the ``error``."""

    result: ErasureResult | None = None
    error: OSVIError | None = None


def journal_lines() -> Iterator[str]:
    """Yield the journal of erasures as lines of JSON, to be kept apart from the backups."""
    for each in _erasures().order_by("pk").iterator():
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
    lines: Iterable[str] = (), *, requested_by: User | None = None, via: str = "code"
) -> Iterator[ReplayedErasure]:
    """Erase all customers of the journal, and of these lines of it, who are here (again).

    Raises ``NotAllowed``, and ``InvalidInput`` if a line is not of a journal, before anyone is
    erased.
    """
    require_erase(requested_by)
    via = stripped("via", via, VIA_MAX_LENGTH)
    wanted = {*_pairs(lines), *_erasures().values_list("customer_hash", "account")}
    theirs = selectors.all_sessions().exclude(customer_id="").filter(erased_at=None)
    found = theirs.order_by("customer_id").values_list("customer_id", "agent__account").distinct()
    # All are read before the first is erased.
    again = {
        (customer, account): None
        for customer, of_session in found.iterator(_CHUNK)
        for each in customer_hashes(customer)
        for account in ("", of_session)
        if (each, account) in wanted
    }
    for customer, account in again:
        yield _erase(customer, account or None, requested_by=requested_by, via=via)


def _erase(customer: str, account: str | None, **request: Any) -> ReplayedErasure:
    try:
        return ReplayedErasure(result=erase_customer(customer, account=account, **request))
    except OSVIError as error:
        return ReplayedErasure(error=error)


def _pairs(lines: Iterable[str]) -> set[tuple[str, str]]:
    return {_pair(line) for line in lines if str(line).strip()}


def _pair(line: str) -> tuple[str, str]:
    try:
        kept = json.loads(line)
        return str(kept["customer_hash"]), str(kept["account"])
    except (ValueError, TypeError, KeyError):
        problem = translate("This is not a line of a journal of erasures.")
        raise InvalidInput(problem, field="lines") from None


def _erasures() -> Any:
    return Erasure.objects.using(router.db_for_write(Erasure))
