"""``manage.py osvi_worker [--watch [SECONDS]] [--join]``: run close jobs, deliver events."""

from __future__ import annotations

import logging
import threading
from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from django.core.management.base import CommandError
from django.db import InterfaceError, OperationalError
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from osvi_django.management.loop import STOPPED, add_watch_argument, stop_on_signals, watch
from osvi_django.management.output import OSVICommand
from osvi_django.management.progress import line_of
from osvi_django.models import CloseJob
from osvi_django.services.events.background import delivering
from osvi_django.services.events.delivery import deliver_events, tidy
from osvi_django.services.jobs import due_jobs, pause_reason, run_close_job
from osvi_django.services.jobs.lifecycle import jobs_with_heartbeat
from osvi_django.services.jobs.progress import seconds_until_stalled

logger = logging.getLogger(__name__)

# The default interval.
_EVERY: Final = 5  # seconds


class Command(OSVICommand):
    """Run close jobs: from cron without ``--watch``, as a service with it; any number may run."""

    help = _(
        "Run the close jobs that are waiting, that have stalled, or whose pause is over, and "
        "deliver events to the receivers of OSVI_WEBHOOKS."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_watch_argument(parser, _EVERY)
        parser.add_argument(
            "--join",
            action="store_true",
            help=_("Also join jobs that another process is running, so that they finish sooner."),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run all jobs that are due and fail if one failed, or repeat until stopped."""
        work = partial(self._work, join=options["join"])
        if options["watch"] is None:
            self._work_once(work)
        else:
            # A job may take hours, and events are due in seconds.
            with delivering():
                watch(self, options["watch"], work, notices=self.stderr)

    def _work_once(self, work: Callable[[threading.Event], int]) -> None:
        with stop_on_signals(self.stderr) as stopped:
            failed = work(stopped)
            deliver_events(stopped)
            tidy()
        if stopped.is_set():
            raise CommandError(_("Stopped. The next run continues."), returncode=STOPPED)
        if failed:
            raise CommandError(
                _("%(failed)d failed. See the log for details.") % {"failed": failed}
            )
        self._report_held()

    def _report_held(self) -> None:
        """Say which jobs are left to other processes: one of these may have been killed."""
        for job in jobs_with_heartbeat():
            seconds = seconds_until_stalled(job)
            line = ngettext(
                "Close job %(id)s: another process may be running it. If that process has ended, "
                "run this command again in %(seconds)d second, or use --watch.",
                "Close job %(id)s: another process may be running it. If that process has ended, "
                "run this command again in %(seconds)d seconds, or use --watch.",
                seconds,
            )
            self.say(line % {"id": job.pk, "seconds": seconds})

    def _work(self, stopped: threading.Event, *, join: bool) -> int:
        """Run one job after the other; return how many failed because of an error of ours."""
        failed: set[int] = set()
        while not stopped.is_set() and (job := _next(failed, join=join)):
            if not self._run(job, stopped):
                failed.add(job.pk)
        return len(failed)

    def _run(self, job: CloseJob, stopped: threading.Event) -> bool:
        try:
            done = run_close_job(job.pk, stop=stopped)
        except (OperationalError, InterfaceError):
            raise  # all of them need the database
        except Exception as error:  # one bad job must not stop the others
            logger.exception("close job %s failed in this process", job.pk)
            values = {"id": job.pk, "kind": type(error).__name__}
            self.complain(_("Close job %(id)s: failed (%(kind)s)") % values)
            return False
        self.say(". ".join(filter(None, (line_of(done), pause_reason(done)))))
        return True


def _next(failed: set[int], *, join: bool) -> CloseJob | None:
    return next((job for job in due_jobs(join=join) if job.pk not in failed), None)
