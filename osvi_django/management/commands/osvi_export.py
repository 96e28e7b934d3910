"""``manage.py osvi_export --format csv|jsonl|xlsx [--output FILE]``: export chat sessions."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final

from django.core.management.base import CommandError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.display import plain
from osvi_django.exceptions import InvalidInput, OSVIError, OSVINotConfigured, TooManyRows
from osvi_django.management.loop import STOPPED, interrupt_on_sigterm
from osvi_django.management.options import WRONG_ARGUMENTS, problem_of
from osvi_django.management.output import OSVICommand
from osvi_django.management.session_filter import OPTIONS, add_filters, filter_of
from osvi_django.models import DataExport
from osvi_django.services import Export, export_sessions

Format = DataExport.Format

NOT_EXPORTED: Final = 1
_OPTIONS: Final = OPTIONS | {"format": "--format", "file_format": "--format"}


class Command(OSVICommand):
    """Write all that is to be had to a file, or to the standard output: no web server waits."""

    help = _("Export chat sessions as CSV, JSON Lines or an Excel file.")

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the arguments for what to export, and where to."""
        parser.epilog = _(
            "Exit codes: 0, all are exported. 1, they are not: there are too many for Excel, the "
            "file cannot be written, or the database is unavailable. 2, the arguments are wrong. "
            "130, stopped by Ctrl-C or SIGTERM."
        )
        parser.add_argument(
            "--format",
            required=True,
            choices=Format.values,
            help=_("CSV for spreadsheets, JSON Lines for programs, XLSX for Excel."),
        )
        parser.add_argument(
            "--output",
            metavar="FILE",
            help=_(
                "Write to this file, which only you can read, when all is there. Default: the "
                "standard output."
            ),
        )
        parser.add_argument(
            "--force", action="store_true", help=_("Replace the file if it is there already.")
        )
        add_filters(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the file."""
        with _as_command_errors(options["output"]), interrupt_on_sigterm():
            self._require_target(options)
            export = export_sessions(
                filter_of(options),
                file_format=options["format"],
                search=options["search"],
                via="command",
            )
            with closing(export):
                self._write(export, options["output"])
        number = export.record.rows
        done = ngettext("Exported %(number)d chat.", "Exported %(number)d chats.", number)
        self.stderr.write(plain(done % {"number": number}), str)

    def _require_target(self, options: dict[str, Any]) -> None:
        """Raise ``CommandError`` before anything is read if there is nowhere to write to."""
        name = options["output"]
        if name is None:
            if options["format"] == Format.XLSX and self.stdout.isatty():
                raise _wrong(_("A terminal cannot show an Excel file. Give --output."))
            return
        path = Path(name)
        if path.exists() and not path.is_file():
            problem = _("--output: “%(file)s” is not a file. Leave it out for the standard output.")
            raise _wrong(problem % {"file": name})
        if path.exists() and not options["force"]:
            problem = _("--output: “%(file)s” is there already. Give --force to replace it.")
            raise _wrong(problem % {"file": name})

    def _write(self, export: Export, name: str | None) -> None:
        if name is not None:
            with _replaced(Path(name)) as file:
                file.writelines(export)
            return
        out: Any = self.stdout  # which passes this on to the stream
        for part in export:
            out.write_bytes(part)


@contextmanager
def _replaced(path: Path) -> Iterator[IO[bytes]]:
    """Yield a new file that gets the name when all of it is written, and is removed otherwise."""
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            yield file
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink()
            raise


@contextmanager
def _as_command_errors(output: str | None) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise CommandError(_("Stopped. Not all was exported."), returncode=STOPPED) from None
    except InvalidInput as error:
        code = NOT_EXPORTED if isinstance(error, TooManyRows) else WRONG_ARGUMENTS
        raise CommandError(problem_of(error, _OPTIONS), returncode=code) from None
    except (OSVIError, OSVINotConfigured) as error:
        raise CommandError(str(error), returncode=NOT_EXPORTED) from None
    except OSError as error:
        if output is None:
            problem = _("The standard output cannot be written to: %(why)s.")
        else:
            problem = _("--output: “%(file)s” cannot be written: %(why)s.")
        values = {"file": output, "why": error.strerror or error}
        raise CommandError(problem % values, returncode=NOT_EXPORTED) from None


def _wrong(problem: str) -> CommandError:
    return CommandError(problem, returncode=WRONG_ARGUMENTS)
