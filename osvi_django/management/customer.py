"""The options of the commands about one customer."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.utils.translation import gettext as _


def add_customer(parser: ArgumentParser) -> None:
    """Declare the options that name a customer."""
    parser.add_argument("--customer", metavar="ID", help=_("The id of the customer."))
    parser.add_argument("--account", help=_("Only the chats of this account."))


def customer_of(options: dict[str, Any]) -> str:
    """Return the customer that is named, or that standard input names."""
    return options["customer"] or sys.stdin.readline().strip()
