"""The addresses that a receiver's host has, and which of them may be called."""

from __future__ import annotations

import ipaddress
import socket
import threading
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final

# A name server may keep a look-up waiting for much longer.
LOOK_UP_TIMEOUT: Final = 5.0  # seconds
# A host may have many addresses, each of which may not answer.
MAX_ADDRESSES: Final = 3

_IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class NoAddress(OSError):
    """A host has no address, or none was found in time."""


class AddressRefused(Exception):
    """A host has only addresses that may not be called."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where to connect to, exactly as it was looked up and checked."""

    family: int
    sockaddr: tuple[Any, ...]

    @property
    def ip(self) -> str:
        """Return the address as text."""
        return str(self.sockaddr[0])


def addresses_of(host: str, port: int, *, allow_private: bool, is_encrypted: bool) -> list[Address]:
    """Look a host up once, and return a few of its addresses that may be called.

    Without encryption, only private ones may. Raises ``NoAddress`` and ``AddressRefused``.
    """
    known = _looked_up(host, port)
    allowed = [
        each
        for each in known
        if (allow_private or is_public(each.ip)) and (is_encrypted or not is_public(each.ip))
    ]
    if not allowed:
        raise AddressRefused
    return allowed[:MAX_ADDRESSES]


def is_public(address: str) -> bool:
    """Return whether an address is one of the internet, also if it wraps another one."""
    ip = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
    is_special = ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False)
    return ip.is_global and not is_special


def _unwrapped(ip: _IP) -> _IP:
    """Return the IPv4 address that an IPv6 address leads to, if it does."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    return ip.ipv4_mapped or ip.sixtofour or ip


def _looked_up(host: str, port: int) -> list[Address]:
    """Return all addresses of a host, in a thread: the system's own look-up has no limit."""
    found: SimpleQueue[list[Address] | None] = SimpleQueue()

    def look_up() -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found.put(None)
        else:
            found.put([Address(family=each[0], sockaddr=each[4]) for each in answers])

    threading.Thread(target=look_up, name="osvi-look-up", daemon=True).start()
    try:
        addresses = found.get(timeout=LOOK_UP_TIMEOUT)
    except Empty:
        addresses = None
    if not addresses:
        raise NoAddress
    return addresses
