"""The filters of the lists of sessions, as options of a command."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput
from osvi_django.management.durations import read_moment
from osvi_django.management.options import Flag, add_account, option_of
from osvi_django.models import ChatSession
from osvi_django.services import SessionFilter
from osvi_django.services.selectors import select_matching

_TIMES: Final = (
    *(
        f"{name}_{side}"
        for name in ("started", "closed", "updated")
        for side in ("after", "before")
    ),
    "idle_since",
)
_OTHERS: Final = (
    "status",
    "open",
    "account",
    "agent_uuid",
    "customer_id",
    "mode",
    "help_requested",
    "summary_status",
    "closed_by",
    "close_job",
    "close_reason",
)
# What users of the commands type for the fields of ``SessionFilter``.
OPTIONS: Final = {
    **{name: option_of(name) for name in (*_TIMES, *_OTHERS, "search")},
    "exclude_agents": "--exclude-agent",
}


def add_filters(parser: ArgumentParser, *, without: Collection[str] = ()) -> None:
    """Declare the options; ``without``: the times that this command cannot filter by."""
    parser.add_argument(
        "--status",
        nargs="+",
        action="extend",
        choices=ChatSession.Status.values,
        help=_("Only sessions with one of these statuses."),
    )
    parser.add_argument(
        "--open",
        action=Flag,
        help=_("Only sessions that can be closed, or with --no- only the others."),
    )
    add_account(parser)
    parser.add_argument("--agent-uuid", metavar="UUID", help=_("Only sessions of this agent."))
    parser.add_argument("--customer-id", metavar="ID", help=_("Only sessions of this customer."))
    parser.add_argument(
        "--mode",
        choices=ChatSession.Mode.values,
        help=_("Only sessions that the AI agent (ai) or support staff (support) answers."),
    )
    parser.add_argument(
        "--help-requested",
        action=Flag,
        help=_("Only sessions whose customers wait for a person, or with --no- only the others."),
    )
    parser.add_argument(
        "--close-reason", metavar="REASON", help=_("Only sessions closed for this reason.")
    )
    parser.add_argument(
        "--summary-status",
        choices=ChatSession.SummaryStatus.values,
        help=_("Only sessions with a summary, or without one for this reason."),
    )
    parser.add_argument(
        "--closed-by", metavar="USERNAME", help=_("Only sessions that this user has closed.")
    )
    parser.add_argument(
        "--close-job", type=int, metavar="ID", help=_("Only sessions of this close job.")
    )
    for name in (each for each in _TIMES if each not in without):
        parser.add_argument(
            option_of(name),
            metavar="WHEN",
            help=_("A time such as 2026-01-31 or 2026-01-31T12:00+01:00."),
        )
    parser.add_argument(
        "--search", metavar="TEXT", help=_("Only sessions that this search finds, at most 1,000.")
    )


def filter_of(options: dict[str, Any], **others: Any) -> SessionFilter:
    """Return the filter that the options mean, with other values.

    Raises ``InvalidInput``, also for an agent, account, user or job that this site does not have.
    """
    chosen: dict[str, Any] = {name: options[name] for name in _OTHERS}
    times: dict[str, Any] = {
        name: _moment(name, text) for name in _TIMES if (text := options.get(name)) is not None
    }
    found = SessionFilter(**{**chosen, **times, **others})
    select_matching(found)
    return found


def given_filters(options: dict[str, Any]) -> set[str]:
    """Return the names of the filters that are given."""
    names = (*_OTHERS, *_TIMES, "search")
    return {name for name in names if options.get(name) is not None}


def _moment(name: str, text: str) -> datetime:
    moment = read_moment(text)
    if moment is None:
        problem = _("%(option)s needs a time such as 2026-01-31 or 2026-01-31T12:00+01:00.")
        raise InvalidInput(problem % {"option": option_of(name)}, field=name)
    return moment
