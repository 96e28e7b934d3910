"""Ports of this machine that nothing listens at."""

from __future__ import annotations

import socket
from contextlib import closing


def free_port():
    """Return one that was free a moment ago."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
