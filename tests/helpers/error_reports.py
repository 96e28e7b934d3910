"""Find what error reporters would send if an error ended a piece of work."""

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

from tests.helpers.own_files import PACKAGE, is_of_package

# Personal data in any field: a summary, a message, a note, or a customer's id.
CANARY = "CANARY-"
SUMMARY, MESSAGE, NOTE, CUSTOMER = (CANARY + kind for kind in ("summary", "words", "note", "+1555"))

# Tables that are read and written while local variables hold personal data.
_TABLES = ("osvi_django_", "django_admin_log")
# Its sandbox is no part of a site.
_TESTING = f"{PACKAGE}/testing/"
# Threads whose local variables hold personal data.
_THREADS = (threading.current_thread().name, "osvi-rescuer", "osvi-writer")


class Interrupted(BaseException):
    """Stand for the end of a worker: no code handles it."""


class ErrorRecorder(logging.Handler):
    """Record the errors that an error reporter sees: in logs and at the end of threads."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.errors = []

    def emit(self, record):
        if record.exc_info and record.exc_info[1]:
            self.errors.append(record.exc_info[1])

    @contextmanager
    def recording(self):
        before, threading.excepthook = threading.excepthook, self._record_thread_error
        logging.getLogger().addHandler(self)
        try:
            yield
        except BaseException as error:  # noqa: BLE001  # every error is reported
            self.errors.append(error)
        finally:
            logging.getLogger().removeHandler(self)
            threading.excepthook = before

    def _record_thread_error(self, ended):
        self.errors.append(ended.exc_value)

    def leaks(self):
        return set().union(*map(find_leaks, self.errors))


class RecordingEmailHandler(AdminEmailHandler):
    """Keep an email instead of sending it."""

    def send_mail(self, subject, message, *args, html_message=None, **kwargs):
        self.sent = (message, html_message)


class QueryInterruption:
    """Raise an error at the nth query to one of our tables, in this thread or a helper thread."""

    def __init__(self, number, error):
        self.is_over = False
        self._number, self._error, self._numbers = number, error, count(1)

    def __call__(self, run, sql, params, many, context):
        if any(table in sql for table in _TABLES) and next(self._numbers) == self._number:
            self.is_over = True
            raise self._error
        return run(sql, params, many, context)

    def wrap(self, connection, **_named):
        """Watch the queries of a connection, also if it is opened again."""
        is_ours = threading.current_thread().name.startswith(_THREADS)
        if is_ours and self not in connection.execute_wrappers:
            connection.execute_wrappers.append(self)

    @contextmanager
    def active(self):
        self.wrap(connection)
        connection_created.connect(self.wrap)
        try:
            yield
        finally:
            connection_created.disconnect(self.wrap)
            connection.execute_wrappers.remove(self)


def keep_own_frames(error):
    """Remove the frames of other packages, which take far longer to report."""
    each = error
    while each is not None:
        each.__traceback__ = _own_frames_of(each.__traceback__)
        each = each.__cause__ or each.__context__
    return error


def _own_frames_of(traceback):
    found = None
    for frame in reversed([*_frames_of(traceback)]):
        path = frame.tb_frame.f_code.co_filename
        if is_of_package(path) and not path.startswith(_TESTING):
            found = TracebackType(found, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return found


def _frames_of(traceback):
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def sentry_frames(error):
    """Yield each frame and its variables as Sentry would send them."""
    event, _hint = event_from_exception(error, client_options=DEFAULT_OPTIONS)
    event = serialize(event, max_request_body_size="medium")
    for value in event["exception"]["values"]:
        yield value["type"], {"text": value["value"]}
        for frame in value.get("stacktrace", {}).get("frames", ()):
            yield f"{frame['abs_path']}:{frame['function']}", frame["vars"]


def email_frames(error):
    """Yield each frame and its variables as Django would email them."""
    reporter = ExceptionReporter(None, type(error), error, error.__traceback__)
    for frame in reporter.get_traceback_data()["frames"]:
        if "filename" in frame:  # it has a stack
            yield f"{frame['filename']}:{frame['function']}", dict(frame["vars"])


def find_leaks(error):
    """Return the frames and variables in which a report shows personal data."""
    found = set()
    for report in (sentry_frames, email_frames):
        for where, variables in report(keep_own_frames(error)):
            shown = [name for name, value in variables.items() if CANARY in str(value)]
            found |= {f"{where.removeprefix(f'{PACKAGE}/')}: {name}" for name in shown}
    return found


def find_leaks_at_each_query(work, *made, error=Interrupted):
    """Interrupt a piece of work at its first query, its second, and so on; return the leaks."""
    found, number_of_errors = set(), 0
    for number in count(1):
        arguments = [make() for make in made]
        interruption, reporter = QueryInterruption(number, error), ErrorRecorder()
        with reporter.recording(), interruption.active():
            work(*arguments)
        found |= reporter.leaks()
        number_of_errors += len(reporter.errors)
        if not interruption.is_over:
            assert not reporter.errors
            break
    assert number_of_errors
    return found
