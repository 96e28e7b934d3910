"""Wait for other threads and processes, with a limit."""

from __future__ import annotations

import threading
import time

from django.db import connection

TIMEOUT = 60  # seconds


def wait_until(condition, seconds=TIMEOUT):
    """Wait until the condition is true, and fail after this many seconds."""
    ends_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends_at, f"the condition was not met in {seconds} s"
        time.sleep(0.005)


def call_threads():
    """Return the threads of this process that send calls to OSVI."""
    return {each for each in threading.enumerate() if each.name.startswith("osvi-call")}


def run_in_thread(work):
    """Run a function in a thread with its own database connection, and wait for its end."""

    def run():
        try:
            work()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
