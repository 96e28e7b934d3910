"""Tools for the tests of hosts: a sandbox OSVI on this machine, and faults for it to play."""

from __future__ import annotations

from osvi_django.testing.account import ReceivedRequest
from osvi_django.testing.faults import (
    MISSING,
    Drip,
    Drop,
    Fault,
    Hang,
    Junk,
    OddSummary,
    Redirect,
    Status,
)
from osvi_django.testing.sandbox import OSVISandbox
from osvi_django.testing.sessions import SandboxSession

__all__ = [
    "MISSING",
    "Drip",
    "Drop",
    "Fault",
    "Hang",
    "Junk",
    "OSVISandbox",
    "OddSummary",
    "ReceivedRequest",
    "Redirect",
    "SandboxSession",
    "Status",
]
