"""The options of the commands about one customer."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any, Final

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from osvi_django.exceptions import InvalidInput
from osvi_django.management.options import add_account
from osvi_django.services.selectors import SessionFilter, select_matching

# What users of these commands type for the arguments of the services.
OPTIONS: Final = {"customer_id": "--customer", "account": "--account"}


def add_customer(parser: ArgumentParser) -> None:
    """Declare the options that name a customer."""
    parser.add_argument("--customer", metavar="ID", help=_("The id of the customer."))
    add_account(parser)


def customer_of(options: dict[str, Any]) -> str:
    """Return the customer that is named, or that standard input names.

    Of standard input, only the last line break is no part of the id. Raises ``InvalidInput`` for
    more than one line, and for an account that this site does not have.
    """
    select_matching(SessionFilter(status=None, account=options["account"]))
    given: str | None = options["customer"]
    return _only_line() if given is None else given


def read_standard_input() -> str:
    """Return all of standard input. Raises ``CommandError`` if it is not a text."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        problem = _("Standard input cannot be read: it is not a text in UTF-8.")
        raise CommandError(problem) from None


def _only_line() -> str:
    # At a terminal, the end of the line is the end of the id.
    given = sys.stdin.readline() if sys.stdin.isatty() else read_standard_input()
    line = given.removesuffix("\n")
    if "\n" in line:
        problem = _("customer_id: give one id, on one line; standard input has more lines.")
        raise InvalidInput(problem, field="customer_id")
    return line
