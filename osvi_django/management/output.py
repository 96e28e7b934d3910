"""The output of the commands: anything the terminal can show, even if it has been closed."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, Final, TextIO, cast

from django.core.management.base import BaseCommand, CommandError
from django.db import Error, InterfaceError, OperationalError
from django.utils.translation import gettext as _

from osvi_django.database import is_without_tables, safe_error_name
from osvi_django.display import plain
from osvi_django.management.loop import STOPPED
from osvi_django.management.tables import require_tables
from osvi_django.redaction import hidden

_STREAMS: Final = ("stdout", "stderr")
# Options that hold personal texts or ids.
_PERSONAL: Final = ("customer", "customer_id", "note", "search")


class Stream(io.TextIOBase):
    """A stream that accepts every text and never fails.

    Characters that its encoding does not have are escaped. If it cannot be written to, because the
    other end of a pipe is closed or a disk is full, the text is dropped, unless ``must_arrive``.
    """

    def __init__(self, stream: Any, *, must_arrive: bool = False) -> None:
        self._stream = stream
        self._must_arrive = must_arrive

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return bool(self._attempt("isatty"))

    def write(self, text: str, /) -> int:
        """Write what can be written of ``text``."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = text.encode(encoding, "backslashreplace").decode(encoding)
        self._attempt("write", shown)
        return len(text)

    def write_bytes(self, content: bytes) -> None:
        """Write bytes as they are, or raise ``OSError``; a stream of texts gets them as UTF-8."""
        if self._stream is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        binary = getattr(self._stream, "buffer", None)
        if binary is None:
            self._stream.write(content.decode())
            return
        try:
            binary.write(content)
            binary.flush()
        except BrokenPipeError:
            _discard(self._stream)
            raise

    def flush(self) -> None:
        """Write what is buffered."""
        self._attempt("flush")

    def _attempt(self, method: str, *args: str) -> object:
        if self._stream is None:  # Python has none if it was closed before the start
            return None
        try:
            return getattr(self._stream, method)(*args)
        except (OSError, ValueError) as error:  # the latter if the stream is closed
            if isinstance(error, BrokenPipeError):
                _discard(self._stream)
            if self._must_arrive:
                raise
        return None


def _discard(stream: Any) -> None:
    """Discard what Python still has buffered: it would be an error when the process ends."""
    if stream in (sys.__stdout__, sys.__stderr__):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class OSVICommand(BaseCommand):
    """A command whose output cannot stop it, and cannot send control codes to the terminal."""

    # Whether there is no point in running if nothing can be written.
    is_output_required = False
    requires_migrations_checks = True

    def __init__(self, stdout: Any = None, stderr: Any = None, **options: Any) -> None:
        out, err = self._safe(stdout or sys.stdout), self._safe(stderr or sys.stderr)
        super().__init__(out, err, **options)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run the command, with safe streams and safe error messages.

        Ctrl-C, and a database that is unavailable, end it with a sentence, unless it has its own.
        """
        options |= {name: self._safe(options[name]) for name in _STREAMS if options.get(name)}
        # An error reporter reads these from a frame; a message uses str() and not repr() of them.
        options |= {name: hidden(options[name]) for name in _PERSONAL if name in options}
        try:
            return super().execute(*args, **options)
        except KeyboardInterrupt:
            raise CommandError(_("Stopped."), returncode=STOPPED) from None
        except Error as error:
            if is_without_tables(error):  # they were there when it started
                self.check_migrations()
            if is_without_tables(error) or not isinstance(error, OperationalError | InterfaceError):
                raise
            problem = _("The database is unavailable: %(kind)s") % {"kind": safe_error_name(error)}
            raise CommandError(problem) from error
        except CommandError as error:
            if type(error) is CommandError:  # the message of a failed check has lines and colours
                error.args = (plain(str(error)),)
            raise
        finally:
            self.stdout.flush()

    def check_migrations(self) -> None:
        """Raise ``CommandError`` if the tables of this app are not those of this version."""
        require_tables()

    def say(self, line: str) -> None:
        """Write a line and flush it, so that a pipe passes it on at once."""
        self.stdout.write(plain(line))
        self.stdout.flush()

    def complain(self, line: str) -> None:
        """Write a line about an error."""
        self.stderr.write(plain(line))

    def _safe(self, stream: Any) -> TextIO:
        return cast("TextIO", Stream(stream, must_arrive=self.is_output_required))
