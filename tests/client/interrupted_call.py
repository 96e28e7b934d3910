"""Report an interrupted call to Sentry.

The personal data comes from the environment, so that no source line in a report shows it.
"""

from __future__ import annotations

import os
import signal

import sentry_sdk

from osvi_django.client import OSVIClient
from tests.client import sentry_app  # noqa: F401  # begins to report


def interrupt(*args):
    raise {"SystemExit": SystemExit, "RuntimeError": RuntimeError}[os.environ["RAISES"]](1)


def client():
    return OSVIClient(token=lambda: os.environ["CANARY_A"], base_url=os.environ["URL"])


signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.5)
try:
    client().inbound(
        agent_uuid="a", customer_id=os.environ["CANARY_B"], content=os.environ["CANARY_C"]
    )
except BaseException as error:  # noqa: BLE001  # as a web server's integration does
    sentry_sdk.capture_exception(error)
sentry_sdk.flush()
