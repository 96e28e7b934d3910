"""Iterate over the sessions that a caller names: each once, whatever their order.

A caller's queryset may be reversed, grouped, sliced or combined, so nothing is added to it: it only
supplies the keys, and a queryset of our own reads the sessions of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any, Final, TypeVar

from django.core.exceptions import FieldError
from django.db import DatabaseError, NotSupportedError, ProgrammingError, router
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from osvi_django.client.responses import spellings
from osvi_django.exceptions import InvalidInput
from osvi_django.models import ChatSession
from osvi_django.services import selectors
from osvi_django.validation import id_problem

_T = TypeVar("_T")

Wanted = Iterable[ChatSession] | Iterable[str] | Iterable[ChatSession | str]
Chosen = QuerySet[ChatSession] | list[str]
# The id of a session, its key, its account and whether it is unverified; without a key the session
# is not known here.
FoundSession = tuple[str, int | None, str, bool]

# How many sessions are read and written at a time, however many there are.
CHUNK: Final = 500
# How many keys are read at a time; the database may evaluate the caller's whole query each time.
_KEYS: Final = 10_000


def choose(wanted: Wanted) -> Chosen:
    """Return what ``walk`` can iterate over more than once. Raises ``InvalidInput``."""
    if isinstance(wanted, str | bytes | bytearray | Mapping) or not isinstance(wanted, Iterable):
        problem = _(
            "session_ids must be a list of ids or of chat sessions. If it is a manager, use all()."
        )
        raise InvalidInput(problem, field="session_ids")
    if not isinstance(wanted, QuerySet):
        return _ids_in(wanted)
    try:
        return _choose_from(wanted)
    except (NotSupportedError, ProgrammingError, FieldError) as error:
        raise _cannot_run(error) from error
    except DatabaseError as error:
        if type(error) is not DatabaseError:  # an error of the database itself
            raise
        raise _cannot_run(error) from error  # Django cannot write the query for this database


def walk(chosen: Chosen) -> Iterator[FoundSession]:
    """Yield each session once, in the order of the keys or of the ids."""
    if isinstance(chosen, QuerySet):
        for keys in chunks(_keys_of(chosen)):
            yield from _facts(selectors.all_sessions().filter(pk__in=keys).order_by("pk"))
        return
    walked = set()
    for ids in chunks(chosen):
        for found in _find_by_id(ids):
            # A UUID may have been named in both upper and lower case.
            if found[1] is None or found[1] not in walked:
                walked.add(found[1])
                yield found


def _find_by_id(ids: list[str]) -> Iterator[FoundSession]:
    """Yield each of these ids with its session, if that is known here."""
    spelt = {each: (each, *spellings(each)) for each in ids}
    wanted = list(dict.fromkeys(chain.from_iterable(spelt.values())))
    # MariaDB ignores case; if an id is not a UUID, one in another case is another session.
    known = {
        found[0]: found for found in _facts(selectors.all_sessions().filter(session_id__in=wanted))
    }
    for asked, ways in spelt.items():
        found = next((known[each] for each in ways if each in known), ("", None, "", False))
        yield asked, *found[1:]


def chunks(wanted: Iterable[_T]) -> Iterator[list[_T]]:
    """Yield lists of ``CHUNK`` items."""
    rest = iter(wanted)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def _choose_from(sessions: QuerySet[Any]) -> Chosen:
    if not issubclass(sessions.model, ChatSession):
        raise _no_sessions(sessions.model.__name__)
    if _is_fixed(sessions):
        return _ids_in(sessions)
    row = next(iter(sessions.order_by()[:1]), None)
    if row is not None and not isinstance(row, ChatSession):
        # Not iterator(): a cursor that an error leaves open would end in another transaction.
        return _ids_in(sessions)
    ours = router.db_for_write(ChatSession)
    if sessions.db in {ours, router.db_for_read(ChatSession)}:
        return sessions.using(ours)
    # Keys of another database are not ours, but the ids are the same everywhere.
    ids = ChatSession.objects.using(sessions.db).values_list("session_id", flat=True)
    return [each for keys in chunks(_keys_of(sessions)) for each in ids.filter(pk__in=keys)]


def _is_fixed(sessions: QuerySet[Any]) -> bool:
    """Return whether a queryset takes no further filter because it is sliced or combined."""
    try:
        sessions.filter(pk__gt=0)
    except (TypeError, NotSupportedError):
        return True
    return False


def _keys_of(sessions: QuerySet[Any]) -> Iterator[int]:
    """Yield the keys in order, each once, without holding all of them in memory."""
    mine = ChatSession.objects.using(sessions.db).filter(pk__in=sessions.values("pk"))
    keys = mine.order_by("pk").values_list("pk", flat=True)
    last = None
    while page := list((keys if last is None else keys.filter(pk__gt=last))[:_KEYS]):
        yield from page
        last = page[-1]


def _facts(sessions: QuerySet[ChatSession]) -> QuerySet[ChatSession, FoundSession]:
    return sessions.values_list("session_id", "pk", "agent__account", "is_unverified")


def _ids_in(wanted: Iterable[Any]) -> list[str]:
    """Return the ids of these, each once. Raises ``InvalidInput``."""
    return list(dict.fromkeys(map(_id_of, wanted)))


def _id_of(wanted: Any) -> str:
    requested_session_id = wanted.session_id if isinstance(wanted, ChatSession) else wanted
    if not isinstance(requested_session_id, str):
        raise _no_sessions(type(requested_session_id).__name__)
    if problem := id_problem(requested_session_id):
        raise InvalidInput(f"session_ids: {requested_session_id!r}: {problem}", field="session_ids")
    return requested_session_id


def _no_sessions(kind: str) -> InvalidInput:
    # The value itself may hold a person's words.
    problem = _(
        "session_ids contains something that is neither a chat session nor an id from OSVI: "
        "%(kind)s. Give a queryset of chat sessions without values(), or "
        'values_list("session_id", flat=True).'
    )
    return InvalidInput(problem % {"kind": kind}, field="session_ids")


def _cannot_run(error: Exception) -> InvalidInput:
    problem = _(
        "The database cannot run this queryset (%(error)s). Give a simpler one, or the ids of the "
        'sessions as a list: values_list("session_id", flat=True).'
    )
    return InvalidInput(problem % {"error": error}, field="session_ids")
