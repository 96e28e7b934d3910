"""Faults between us and OSVI, to be queued in a sandbox for one session.

A fault replaces one answer. If it *closes*, the request is first carried out as usual (the token is
checked, the session is closed, the latency passes) and only its answer is faulty; if it does not,
nothing happens to the session.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, Literal, Protocol

from osvi_django.testing.answers import Answer, failure, success


class Missing(enum.Enum):
    """The type of ``MISSING``."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING
"""For ``OddSummary``: the answer has no ``summary`` key at all."""


class Exchange(Protocol):
    """One request in progress, and what a fault may do with it."""

    def carry_out(self) -> Answer:
        """Carry out the request and return its correct answer."""

    def send(
        self,
        answer: Answer,
        *,
        drip: Literal["body", "headers"] | None = None,
        interval: float = 0.0,
    ) -> None:
        """Write an answer; the part named by ``drip`` takes ``interval`` seconds a byte."""

    def pause(self, seconds: float) -> None:
        """Wait; raises ConnectionAbortedError as soon as the sandbox stops."""

    def hang_up(self, *, reset: bool = False) -> None:
        """End the connection without an answer, with a TCP reset or an orderly end."""


class Fault(ABC):
    """One faulty answer."""

    @abstractmethod
    def play(self, exchange: Exchange) -> None:
        """Play the fault."""


@dataclass(frozen=True)
class Status(Fault):
    """An answer of any status, in OSVI's envelope."""

    code: int
    error: str = ""
    """The envelope's ``error``; it comes before ``errors``."""
    errors: tuple[str, ...] = ()
    """The envelope's ``errors``; the status's own phrase where both are empty."""
    retry_after: int | str | None = None
    """The ``Retry-After`` header: seconds, or anything at all."""
    body: bytes | None = None
    """These bytes in the place of the envelope."""
    close: bool = False
    """Whether the request is carried out first."""

    def play(self, exchange: Exchange) -> None:
        """Send the status."""
        if self.close:
            exchange.carry_out()
        exchange.send(replace(self._envelope(), headers=self._headers()))

    def _envelope(self) -> Answer:
        if self.body is not None:
            return Answer(status=self.code, payload=self.body)
        if self.code < HTTPStatus.MULTIPLE_CHOICES and not (self.error or self.errors):
            return replace(success({}), status=self.code)
        return failure(self.code, error=self.error, errors=self.errors or self._phrase())

    def _phrase(self) -> tuple[str, ...]:
        known = self.code in HTTPStatus.__members__.values()
        return (HTTPStatus(self.code).phrase if known else str(self.code),)

    def _headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


@dataclass(frozen=True)
class Drop(Fault):
    """No answer: the connection ends, before or after the session was closed."""

    after_closing: bool = False
    reset: bool = False
    """Whether it ends with a TCP reset in the place of an orderly end."""

    def play(self, exchange: Exchange) -> None:
        """End the connection."""
        if self.after_closing:
            exchange.carry_out()
        exchange.hang_up(reset=self.reset)


@dataclass(frozen=True)
class Hang(Fault):
    """No answer for a while, then the connection ends."""

    seconds: float = 60
    after_closing: bool = True

    def play(self, exchange: Exchange) -> None:
        """Send nothing."""
        if self.after_closing:
            exchange.carry_out()
        exchange.pause(self.seconds)
        exchange.hang_up()


@dataclass(frozen=True)
class Drip(Fault):
    """The correct answer, byte by byte: no single read is slow, but all of them together are."""

    part: Literal["body", "headers"] = "body"
    interval: float = 0.05
    """Seconds a byte."""
    close: bool = True
    """Whether the request is carried out; a 503 drips where it is not."""

    def play(self, exchange: Exchange) -> None:
        """Send the answer slowly."""
        answer = exchange.carry_out() if self.close else failure(503, errors=("Unavailable",))
        exchange.send(answer, drip=self.part, interval=self.interval)


@dataclass(frozen=True)
class Junk(Fault):
    """An answer that is not OSVI's: a proxy's page, cut JSON, a body that inflates."""

    body: bytes = b"<html>"
    content_type: str = "text/html"
    status: int = 200
    encoding: str | None = None
    """The ``Content-Encoding`` header; the body goes out as it is given."""
    close: bool = True

    def play(self, exchange: Exchange) -> None:
        """Send the bytes."""
        if self.close:
            exchange.carry_out()
        exchange.send(
            Answer(
                status=self.status,
                payload=self.body,
                content_type=self.content_type,
                headers={"Content-Encoding": self.encoding} if self.encoding else {},
            )
        )


@dataclass(frozen=True)
class Redirect(Fault):
    """An answer that sends the client, and the token of a careless one, elsewhere."""

    to: str
    """The ``Location`` header."""
    code: int = 302
    close: bool = False

    def play(self, exchange: Exchange) -> None:
        """Send the address."""
        if self.close:
            exchange.carry_out()
        exchange.send(Answer(status=self.code, payload=b"", headers={"Location": self.to}))


@dataclass(frozen=True)
class OddSummary(Fault):
    """The correct answer except for its ``summary``. It always closes."""

    value: Any
    """Any JSON value, or ``MISSING``."""

    def play(self, exchange: Exchange) -> None:
        """Send the answer; a refusal, which has no summary, is sent unchanged."""
        answer = exchange.carry_out()
        if answer.closing is not None:
            answer = replace(answer, payload=self._tamper(answer.payload))
        exchange.send(answer)

    def _tamper(self, payload: dict[str, Any]) -> dict[str, Any]:
        data = {name: value for name, value in payload["data"].items() if name != "summary"}
        if self.value is not MISSING:
            data["summary"] = self.value
        return {**payload, "data": data}
