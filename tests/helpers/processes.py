"""Start and stop other processes that use the suite's database and ports."""

from __future__ import annotations

import io
import os
import signal
import socket
from contextlib import closing
from urllib.parse import quote

from django.db import connection


def free_port():
    """Return a port of this machine that was free a moment ago."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def database_url():
    """Return the URL of the suite's database, for another process."""
    where = connection.settings_dict
    engine = where["ENGINE"].rpartition(".")[2]
    if engine == "sqlite3":
        return f"sqlite:///{where['NAME']}"
    who = ":".join(quote(where[name]) for name in ("USER", "PASSWORD") if where[name])
    port = f":{where['PORT']}" if where["PORT"] else ""
    return f"{engine}://{who}@{where['HOST']}{port}/{where['NAME']}"


class TerminatingOutput(io.StringIO):
    """Send this process SIGTERM, as systemd does, when a text was written a number of times."""

    def __init__(self, said, times=1):
        super().__init__()
        self._said, self._times = said, times

    def write(self, text):
        written = super().write(text)
        if self._said in text:
            self._times -= 1
            if self._times == 0:
                os.kill(os.getpid(), signal.SIGTERM)
        return written
