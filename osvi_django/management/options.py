"""Options that several commands have, and errors that name options."""

from __future__ import annotations

import re
from argparse import ArgumentError, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping
from typing import Any, Final

from django.utils.translation import gettext as _

# The exit code of a command that was called in a wrong way, as argparse has it.
WRONG_ARGUMENTS: Final = 2
# A value in quotes, or a word.
_PART: Final = re.compile(r'“[^”]*”|"[^"]*"|\w+')


def add_dry_run(parser: ArgumentParser) -> None:
    """Declare ``--dry-run``."""
    parser.add_argument(
        "--dry-run", action="store_true", help=_("Do nothing, and say what would be done.")
    )


def add_account(parser: ArgumentParser) -> None:
    """Declare the option for the chats of one account."""
    parser.add_argument("--account", metavar="ALIAS", help=_("Only the chats of this account."))


class Flag(BooleanOptionalAction):
    """An option that also exists with ``--no-``; both together are an error."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store which of the two is given."""
        before = getattr(namespace, self.dest)
        super().__call__(parser, namespace, values, option_string)
        if before not in {None, getattr(namespace, self.dest)}:
            raise ArgumentError(self, _("these contradict each other: leave one of them out."))


def option_of(name: str) -> str:
    """Return the option that is usual for an argument of this name."""
    return f"--{name.replace('_', '-')}"


def problem_of(error: Exception, options: Mapping[str, str]) -> str:
    """Return the message of an error with the options that were typed.

    ``options``: by the names of the arguments that the service knows. Values in quotes stay, and so
    do names that are words, such as "account", except the one with which a message begins.
    """
    said, field = str(error), getattr(error, "field", "")
    option = options.get(field, "")

    def shown(part: re.Match[str]) -> str:
        name = part[0]
        is_name = "_" in name or (name == field and part.start() == 0)
        return options.get(name, name) if is_name else name

    shown_text = _PART.sub(shown, said)
    return shown_text if option in shown_text else f"{option}: {shown_text}"
