"""``manage.py osvi_erase [--customer ID | --replay [FILE] | --journal]``: erase a customer."""

from __future__ import annotations

from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from django.core.management.base import CommandError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.exceptions import OSVIError
from osvi_django.management.customer import (
    OPTIONS,
    add_customer,
    customer_of,
    read_standard_input,
)
from osvi_django.management.options import add_dry_run, option_of, problem_of
from osvi_django.management.output import OSVICommand
from osvi_django.services.privacy.erasure import ErasureResult, erase_customer
from osvi_django.services.privacy.replaying import journal_lines, replay_erasures

_STANDARD_INPUT: Final = "-"


class Command(OSVICommand):
    """Erase one customer, or again those whom a restored backup has brought back."""

    help = _(
        "Erase what this site stores of a customer. OSVI keeps its own copy. Without --customer, "
        "the id is read from standard input, so that no list of processes shows it."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the options."""
        add_customer(parser)
        add_dry_run(parser)
        parser.add_argument(
            "--replay",
            nargs="?",
            const="",
            metavar="FILE",
            help=_(
                "Erase everyone again who is in the journal, and in this file of --journal, after "
                "a backup was restored."
            ),
        )
        parser.add_argument(
            "--journal",
            action="store_true",
            help=_("Print the journal, without any customer, to keep it apart from the backups."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the options say."""
        _require_one_task(options)
        try:
            self._run(**options)
        except OSVIError as error:
            raise CommandError(problem_of(error, OPTIONS)) from None

    def _run(self, **options: Any) -> None:
        if options["journal"]:
            for line in journal_lines():
                self.say(line)
        elif options["replay"] is not None:
            self._replay(options["replay"], dry_run=options["dry_run"])
        else:
            self._say_of(
                erase_customer(
                    customer_of(options),
                    account=options["account"],
                    dry_run=options["dry_run"],
                    via="command",
                )
            )

    def _say_of(self, result: ErasureResult) -> None:
        self.say(_said_of(result.counts, dry_run=result.dry_run))
        self.say(result.notice)
        if result.obstacle is not None:
            problem = _("The customer cannot be erased now. %(why)s")
            raise CommandError(problem % {"why": result.obstacle})

    def _replay(self, path: str, *, dry_run: bool) -> None:
        problems: list[str] = []
        failed = number = 0
        counts: Counter[str] = Counter()
        for each in replay_erasures(_lines_of(path), via="command", dry_run=dry_run):
            if each.unknown_keys:
                problems.append(_unknown_keys(each.unknown_keys))
                continue
            number += 1
            error = each.error or (each.result and each.result.obstacle)
            if error:
                failed += 1
                self.complain(str(error))
            counts.update(each.result.counts if each.result else {})
        self.say(_here_again(number, dry_run=dry_run))
        if dry_run:
            self.say(_said_of(counts, dry_run=True))
        if failed:
            problems.insert(0, _not_erased(failed, dry_run=dry_run))
        if problems:
            raise CommandError(" ".join(problems))


def _said_of(counts: Mapping[str, int], *, dry_run: bool) -> str:
    places = ", ".join(f"{number} {place}" for place, number in counts.items())
    said = _("would be erased: %(counts)s") if dry_run else _("erased: %(counts)s")
    return said % {"counts": places or "0"}


def _here_again(number: int, *, dry_run: bool) -> str:
    if dry_run:
        said = ngettext(
            "%(number)d customer is here again", "%(number)d customers are here again", number
        )
    else:
        said = ngettext(
            "%(number)d customer was here again", "%(number)d customers were here again", number
        )
    return said % {"number": number}


def _not_erased(number: int, *, dry_run: bool) -> str:
    if dry_run:
        return _("%(number)d of them cannot be erased now.") % {"number": number}
    said = ngettext(
        "%(number)d of them is not erased.", "%(number)d of them are not erased.", number
    )
    return said % {"number": number}


def _unknown_keys(number: int) -> str:
    said = ngettext(
        "%(number)d line of the journal was written with a SECRET_KEY that this site does not "
        "have, so it cannot tell whether that customer is here again. Add the key to "
        "SECRET_KEY_FALLBACKS and repeat this.",
        "%(number)d lines of the journal were written with a SECRET_KEY that this site does not "
        "have, so it cannot tell whether those customers are here again. Add the key to "
        "SECRET_KEY_FALLBACKS and repeat this.",
        number,
    )
    return said % {"number": number}


def _require_one_task(options: dict[str, Any]) -> None:
    """Raise ``CommandError`` for options that the journal or a replay would ignore."""
    for task in ("journal", "replay"):
        if options[task] in {None, False}:
            continue
        others = {"customer", "account", "dry_run", "replay"} - {task}
        if task == "replay":
            others.remove("dry_run")
        if given := sorted(
            option_of(each) for each in others if options[each] not in {None, False}
        ):
            problem = _("%(task)s cannot be used together with %(others)s.")
            raise CommandError(problem % {"task": option_of(task), "others": ", ".join(given)})


def _lines_of(path: str) -> Iterable[str]:
    if not path:
        return ()
    if path == _STANDARD_INPUT:
        return read_standard_input().splitlines()
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        why = error.strerror
    except UnicodeDecodeError:
        why = _("It is not a text in UTF-8")
    problem = _("--replay: “%(file)s” cannot be read: %(why)s.")
    raise CommandError(problem % {"file": path, "why": why})
