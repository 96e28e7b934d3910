"""Run the example project with Sentry, and write its events to a file."""

from __future__ import annotations

import os
from pathlib import Path

import sentry_sdk
from sentry_sdk.transport import Transport


class FileTransport(Transport):
    """Append events to the file named in the environment instead of sending them."""

    def capture_envelope(self, envelope):
        with Path(os.environ["EVENTS"]).open("ab") as file:
            file.write(envelope.serialize() + b"\n")


sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", transport=FileTransport)

if os.environ.get("DJANGO_SETTINGS_MODULE"):
    from example_project.wsgi import application  # noqa: F401  # for gunicorn
