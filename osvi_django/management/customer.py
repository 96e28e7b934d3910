"""The options of the commands about one customer."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any, Final

from django.utils.translation import gettext as _

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

    Raises ``InvalidInput`` for an account that this site does not have.
    """
    select_matching(SessionFilter(status=None, account=options["account"]))
    return options["customer"] or sys.stdin.readline().strip()
