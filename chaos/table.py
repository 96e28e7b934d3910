"""The table at the end of a campaign, in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from chaos import books as bookkeeping
from chaos.books import Books, Page

_COLUMNS = (
    "what went wrong",
    "sessions",
    "times",
    "summaries answered",
    "stored",
    "into a killed process",
    "which OSVI tells again",
    "and which are stored",
    "lost by us",
    "closed twice",
)


def report(books: Books, *, command: str, seconds: float) -> str:
    """The table, and the few numbers that stand above it."""
    kinds = Counter(death.why for death in books.deaths if not death.why.startswith("gunicorn"))
    kills = ", ".join(f"{number} {why}" for why, number in sorted(kinds.items()))
    outages = ", ".join(f"{end - begin:.1f}" for begin, end in books.outages)
    states = Counter(f"{page.status}, {page.summary_status}" for page in books.pages)
    ended = ", ".join(f"{number} {state}" for state, number in states.most_common())
    asks = sum(len(page.asks) for page in books.pages)
    told = sum(len(page.told) for page in books.pages)
    lines = [
        "",
        f"`python -m chaos.campaign {command}`: {seconds:.0f} s",
        "",
        f"- {told} wishes to close one of {len(books.pages)} sessions, {asks} requests to OSVI",
        f"- {sum(kinds.values())} kills: {kills or 'none'}",
        f"- {len(books.outages)} outages of the database, in seconds: {outages or 'none'}",
        f"- the sessions ended: {ended}",
        f"- unexplained: {len(bookkeeping.check(books))}",
        "",
        _line(_COLUMNS),
        "| --- |" + " ---: |" * (len(_COLUMNS) - 1),
        *_rows(books),
        "",
    ]
    return "\n".join(lines)


def _rows(books: Books) -> Iterator[str]:
    faults = sorted({ask.fault for page in books.pages for ask in page.asks})
    for fault in faults:
        pages = [page for page in books.pages if any(ask.fault == fault for ask in page.asks)]
        times = sum(ask.fault == fault for page in pages for ask in page.asks)
        yield _row(f"OSVI: {fault}", pages, times, books)
    for moment in ("asked", "closed", "answered", "anytime", "master"):
        yield from _chosen(f"kill: {moment}", books, _killed(moment))
    for moment in ("before", "closed", "answered"):
        yield from _chosen(f"database stopped: {moment}", books, _stopped(moment))
    yield _row("**all**", list(books.pages), None, books)


def _killed(moment: str) -> Callable[[Page], bool]:
    return lambda page: page.plan.kill is not None and page.plan.kill.moment == moment


def _stopped(moment: str) -> Callable[[Page], bool]:
    return lambda page: page.plan.outage is not None and page.plan.outage.moment == moment


def _chosen(name: str, books: Books, is_chosen: Callable[[Page], bool]) -> Iterator[str]:
    pages = [page for page in books.pages if is_chosen(page)]
    if pages:
        yield _row(name, pages, len(pages), books)


def _row(name: str, pages: list[Page], times: int | None, books: Books) -> str:
    answered = [page for page in pages if page.handed_out]
    killed = [
        page
        for page in answered
        if any(bookkeeping.into_killed(ask, page, books) for ask in page.handed_out)
    ]
    numbers = (
        len(pages),
        "" if times is None else times,
        len(answered),
        sum(page.text is not None for page in answered),
        len(killed),
        sum(page.plan.when_closed == "again" for page in killed),
        sum(page.text is not None for page in killed),
        sum(bookkeeping.lost_by_us(page, books) for page in pages),
        sum(bookkeeping.closed_twice(page, books) for page in pages),
    )
    return _line((name, *numbers))


def _line(cells: tuple[object, ...]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
