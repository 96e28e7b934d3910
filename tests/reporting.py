"""What error reporters send of a piece of work that an error has ended."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from itertools import count
from types import TracebackType

from django.db import connection
from django.db.backends.signals import connection_created
from django.utils.log import AdminEmailHandler
from django.views.debug import ExceptionReporter
from sentry_sdk.consts import DEFAULT_OPTIONS
from sentry_sdk.serializer import serialize
from sentry_sdk.utils import event_from_exception

# In whichever field it is, it is somebody's: a summary, a message, a note, or a customer's id.
CANARY = "CANARY-"
SUMMARY, MESSAGE, NOTE, CUSTOMER = (CANARY + kind for kind in ("summary", "words", "note", "+1555"))

# What is read and written while words are in hand.
_TABLES = ("osvi_django_", "django_admin_log")
# Those that have words in hand, and end with what they do.
_THREADS = (threading.current_thread().name, "osvi-rescuer", "osvi-writer")


class Interrupted(BaseException):
    """A worker that is ended: nothing handles it."""


class Reporter(logging.Handler):
    """Keeps the errors that an error reporter is shown: in logs, and at the end of threads."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.errors = []

    def emit(self, record):
        if record.exc_info and record.exc_info[1]:
            self.errors.append(record.exc_info[1])

    @contextmanager
    def at_work(self):
        before, threading.excepthook = threading.excepthook, self._note_end
        logging.getLogger().addHandler(self)
        try:
            yield
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is reported
            self.errors.append(error)
        finally:
            logging.getLogger().removeHandler(self)
            threading.excepthook = before

    def _note_end(self, ended):
        self.errors.append(ended.exc_value)

    def leaks(self):
        return set().union(*map(leaks, self.errors))


class KeptMails(AdminEmailHandler):
    """Keeps what would be sent."""

    def send_mail(self, subject, message, *args, html_message=None, **kwargs):
        self.sent = (message, html_message)


class Interruption:
    """Raises an error at the query of a number to a table of ours, in this thread or a helper."""

    def __init__(self, number, error):
        self.is_over = False
        self._number, self._error, self._numbers = number, error, count(1)

    def __call__(self, run, sql, params, many, context):
        if any(table in sql for table in _TABLES) and next(self._numbers) == self._number:
            self.is_over = True
            raise self._error
        return run(sql, params, many, context)

    def wrap(self, connection, **_named):
        """Be asked of each query of a connection; it may be one that was opened once more."""
        is_ours = threading.current_thread().name.startswith(_THREADS)
        if is_ours and self not in connection.execute_wrappers:
            connection.execute_wrappers.append(self)

    @contextmanager
    def awaited(self):
        self.wrap(connection)
        connection_created.connect(self.wrap)
        try:
            yield
        finally:
            connection_created.disconnect(self.wrap)
            connection.execute_wrappers.remove(self)


def with_our_frames(error):
    """The same error with our frames alone, as to report the others takes far longer."""
    each = error
    while each is not None:
        each.__traceback__ = _our_part(each.__traceback__)
        each = each.__cause__ or each.__context__
    return error


def _our_part(traceback):
    found = None
    for frame in reversed([*_all_of(traceback)]):
        path = frame.tb_frame.f_code.co_filename
        if "/osvi_django/" in path and "/osvi_django/testing/" not in path:
            found = TracebackType(found, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return found


def _all_of(traceback):
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def sent(error):
    """What Sentry would send of an error: where, and the variables there."""
    event, _hint = event_from_exception(error, client_options=DEFAULT_OPTIONS)
    event = serialize(event, max_request_body_size="medium")
    for value in event["exception"]["values"]:
        yield value["type"], {"text": value["value"]}
        for frame in value.get("stacktrace", {}).get("frames", ()):
            yield f"{frame['abs_path']}:{frame['function']}", frame["vars"]


def mailed(error):
    """What Django would mail of it."""
    reporter = ExceptionReporter(None, type(error), error, error.__traceback__)
    for frame in reporter.get_traceback_data()["frames"]:
        if "filename" in frame:  # it has a stack
            yield f"{frame['filename']}:{frame['function']}", dict(frame["vars"])


def leaks(error):
    """Where somebody's words are shown."""
    found = set()
    for report in (sent, mailed):
        for where, variables in report(with_our_frames(error)):
            shown = [name for name, value in variables.items() if CANARY in str(value)]
            found |= {f"{where.rpartition('/osvi_django/')[2]}: {name}" for name in shown}
    return found


def of_each_interruption(work, *made, error=Interrupted):
    """Do a piece of work, interrupted at its first query, at its second, and so on to its end."""
    found, number_of_errors = set(), 0
    for number in count(1):
        arguments = [make() for make in made]
        interruption, reporter = Interruption(number, error), Reporter()
        with reporter.at_work(), interruption.awaited():
            work(*arguments)
        found |= reporter.leaks()
        number_of_errors += len(reporter.errors)
        if not interruption.is_over:
            assert not reporter.errors
            break
    assert number_of_errors
    return found
