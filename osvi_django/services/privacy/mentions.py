"""Rows that name a customer, or one of the customer's sessions, without belonging to a session.

They are found by the ids in their texts, which takes a look at all of them: jobs, exports, answers
of the last hours, Django's own history and locks.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Final

from django.db import router
from django.db.models import Model, Q, QuerySet

from osvi_django.database import lease_expired
from osvi_django.models import (
    ChatAgent,
    ChatSession,
    CloseAttempt,
    CloseJob,
    CloseJobItem,
    DataExport,
    IdempotentRequest,
    SessionSummary,
    StartLock,
    SupportAction,
)
from osvi_django.services.privacy.history import HISTORY, entries_about
from osvi_django.services.privacy.places import label_of
from osvi_django.services.start_locks import key_of

# How many ids one query looks for.
_IDS_AT_ONCE: Final = 50
# A pattern that is found nowhere.
_NOTHING: Final = "(?!)"
_TEXTS: Final[dict[type[Model], tuple[str, ...]]] = {
    CloseJob: ("note", "goodbye", "selection"),
    DataExport: ("selection",),
}
# What of a filter may name a customer; all else names a user, an agent, an account or a state.
_OF_CUSTOMER: Final = ("customer_id", "close_reason")
_IN_HISTORY: Final = (ChatSession, SessionSummary, CloseAttempt, SupportAction, CloseJob)


class Mentions:
    """What names any of a customer's ids; each is replaced by the same marker.

    ``is_narrowed``: only the ids of the sessions count, as rows that name the customer may be about
    sessions which the user may not see.
    """

    def __init__(
        self,
        customer_id: str,
        session_ids: Collection[str],
        *,
        account: str | None,
        marker: str,
        is_narrowed: bool = False,
    ) -> None:
        self.customer_id = customer_id
        self.session_ids = list(session_ids)
        self.account = account
        self.marker = marker
        self.is_narrowed = is_narrowed
        ids = {*session_ids} if is_narrowed else {customer_id, *session_ids}
        self.ids = sorted(ids, key=len, reverse=True)
        # An id is not a part of a longer number or word.
        either = "|".join(re.escape(form) for each in self.ids for form in _forms(each))
        self._pattern = re.compile(rf"(?<!\w)(?:{either or _NOTHING})(?!\w)")

    def count(self) -> Counter[str]:
        """Return how many rows there are in each place."""
        found = Counter({_place_of(model): len(rows) for model, rows in self._named()})
        found[label_of(CloseJob)] += len(self._filters())
        found[label_of(IdempotentRequest)] = len(self._answers())
        found[label_of(StartLock)] = 0 if self.is_narrowed else self.locks().count()
        found[label_of(CloseJobItem)] = sum(each.count() for each in self._unknown_items())
        return +found

    def erase(self) -> Counter[str]:
        """Replace the ids in texts, and delete answers and locks; return how many rows."""
        found: Counter[str] = Counter()
        for model, rows in self._named():
            for row in rows:
                row.save(update_fields=list(_columns_of(model)))
            found[_place_of(model)] += len(rows)
        for key, kept in self._filters():
            found[label_of(CloseJob)] += _all(CloseJob).filter(pk=key).update(session_filter=kept)
        answers = _all(IdempotentRequest).filter(pk__in=self._answers())
        found[label_of(IdempotentRequest)] = answers.delete()[0]
        found[label_of(StartLock)] = 0 if self.is_narrowed else self.locks().delete()[0]
        found[label_of(CloseJobItem)] = sum(
            each.update(requested_session_id=self.marker) for each in self._unknown_items()
        )
        return +found

    def is_being_started(self) -> bool:
        """Return whether a chat of the customer is being started."""
        held = self.locks().exclude(claim=None).exclude(lease_expired())
        return held.exists()

    def locks(self) -> QuerySet[StartLock]:
        """Return the locks of starts, each of which is a hash of the customer and an agent."""
        agents = _all(ChatAgent).exclude(uuid=None)
        if self.account is not None:
            agents = agents.filter(account=self.account)
        pairs = agents.values_list("account", "uuid").iterator()
        keys = [key_of(account, str(uuid), self.customer_id) for account, uuid in pairs]
        locks: QuerySet[StartLock] = _all(StartLock).filter(key__in=keys)
        return locks

    def are_in(self, text: str) -> bool:
        """Return whether a text has one of the ids."""
        return self._pattern.search(text) is not None

    def masked(self, text: str, *, column: str = "") -> str:
        """Return a text with the ids replaced.

        In a selection, what is alone between quotation marks is the name of a user or an account,
        as ``SessionFilter`` writes it there.
        """
        if column != "selection":
            return self._pattern.sub(self.marker, text)

        def replaced(found: re.Match[str]) -> str:
            is_name = text[: found.start()].endswith("“") and text[found.end() :].startswith("”")
            return found[0] if is_name else self.marker

        return self._pattern.sub(replaced, text)

    def _masked_filter(self, kept: dict[str, Any]) -> dict[str, Any]:
        named = {name: self.masked(kept[name]) for name in _OF_CUSTOMER if name in kept}
        return kept | named

    def _named(self) -> Iterator[tuple[type[Model], list[Any]]]:
        """Yield rows with their texts replaced, not saved yet."""
        for rows in self._texts():
            columns = _columns_of(rows.model)
            changed = [row for row in self._with_ids(rows, columns) if self._mask(row, columns)]
            yield rows.model, changed

    def _texts(self) -> Iterator[QuerySet[Any]]:
        yield from map(_all, _TEXTS)
        if (entries := entries_about(*_IN_HISTORY)) is not None:
            yield entries

    def _mask(self, row: Any, columns: tuple[str, ...]) -> bool:
        """Replace the ids in a row; return whether there were any."""
        before = [getattr(row, name) for name in columns]
        after = [self.masked(text, column=name) for name, text in zip(columns, before, strict=True)]
        for name, text in zip(columns, after, strict=True):
            setattr(row, name, text)
        return before != after

    def _filters(self) -> list[tuple[int, Any]]:
        """Return jobs whose filter names the customer, with the filter that they get."""
        jobs = (
            _all(CloseJob).filter(session_filter__isnull=False).values_list("pk", "session_filter")
        )
        return [
            (key, masked)
            for key, kept in jobs.iterator()
            if (masked := self._masked_filter(kept)) != kept
        ]

    def _answers(self) -> list[int]:
        # What has an id in its headers, as an address, has it in its body as well.
        answers = self._with_ids(_all(IdempotentRequest), ("body",))
        return [row.pk for row in answers if self.are_in(row.body)]

    def _unknown_items(self) -> Iterator[QuerySet[CloseJobItem]]:
        """Yield items with ids that this site did not know when they were made."""
        for start in range(0, len(self.session_ids), _IDS_AT_ONCE):
            ids = self.session_ids[start : start + _IDS_AT_ONCE]
            yield _all(CloseJobItem).filter(session=None, requested_session_id__in=ids)

    def _with_ids(self, rows: QuerySet[Any], columns: tuple[str, ...]) -> Iterator[Any]:
        """Yield rows that may have one of the ids in these columns, each once."""
        seen: set[int] = set()
        for start in range(0, len(self.ids), _IDS_AT_ONCE):
            condition = Q()
            for each in self.ids[start : start + _IDS_AT_ONCE]:
                for name, form in ((name, form) for name in columns for form in _forms(each)):
                    condition |= Q(**{f"{name}__contains": form})
            for row in rows.filter(condition):
                if row.pk not in seen:
                    seen.add(row.pk)
                    yield row


def _place_of(model: type[Model]) -> str:
    return label_of(model) if model in _TEXTS else HISTORY


def _columns_of(model: type[Model]) -> tuple[str, ...]:
    return _TEXTS.get(model, ("object_repr", "change_message"))


def _forms(text: str) -> set[str]:
    """Return how a text is written: as it is, and in JSON."""
    return {text, json.dumps(text, ensure_ascii=False)[1:-1]}


def _all(model: type[Any]) -> QuerySet[Any]:
    rows: QuerySet[Any] = model.objects.using(router.db_for_write(model))
    return rows
