"""Test that the received part of a body is kept, and marked if it is incomplete."""

from __future__ import annotations

import gzip
import zlib

import pytest

from osvi_django.client.transport import MAX_BODY
from osvi_django.exceptions import OSVINoAnswer
from tests.helpers.raw_server import RawServer, chunked_response, close_body, http_response

BODY = close_body(summary="Fine.")
GZIP = ("Content-Encoding", "gzip")


def then_hang_up(reply):
    def play(call):
        call.send(reply)
        call.hang_up()

    return play


def then_reset(reply):
    def play(call):
        call.send(reply)
        call.pause(0.1)
        call.reset()

    return play


def then_wait(reply):
    def play(call):
        call.send(reply)
        call.pause()

    return play


def wrong_checksum(data):
    packed = bytearray(gzip.compress(data))
    packed[-8] ^= 1
    return bytes(packed)


@pytest.fixture
def answer_of(make_client):
    """Return the unparsed answer to a close, from a server with this reply."""

    def _answer(reply, **options):
        with RawServer(reply) as server:
            client = make_client(server.url, **options)
            return client.send_close("s-1", agent_uuid="agent_1")

    return _answer


@pytest.mark.parametrize(
    "reply",
    [
        then_hang_up(http_response(BODY, length=999)),
        then_hang_up(chunked_response(BODY, end=b"")),
        then_hang_up(chunked_response(BODY, end=b"ZZ\r\n\r\n")),
        then_hang_up(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n999\r\n" + BODY),
        then_reset(http_response(BODY, length=999)),
        then_reset(chunked_response(BODY, end=b"")),
        then_wait(http_response(BODY, length=999)),
        then_wait(chunked_response(BODY, end=b"")),
        then_wait(b"HTTP/1.1 200 OK\r\n\r\n" + BODY),
        http_response(BODY, headers=[GZIP]),
        http_response(BODY, headers=[("Content-Encoding", "deflate")]),
        http_response(BODY, headers=[("Content-Encoding", ", ".join(["gzip"] * 9))]),
        http_response(wrong_checksum(BODY), headers=[GZIP]),
        then_hang_up(http_response(gzip.compress(BODY), headers=[GZIP], length=999)),
        http_response(wrong_checksum(BODY)),
    ],
)
def test_incomplete_answer_keeps_received_bytes(answer_of, reply):
    answer = answer_of(reply, read_timeout=1)
    assert (answer.status, answer.body) == (200, BODY)
    assert answer.incomplete
    assert not answer.truncated


def test_gzip_body_with_wrong_checksum_keeps_nearly_all_bytes(answer_of):
    data = b"".join(b"%d " % number for number in range(250_000))
    answer = answer_of(http_response(wrong_checksum(data), headers=[GZIP]), deadline=5)
    assert data.startswith(answer.body)
    assert len(data) - len(answer.body) < 100
    assert answer.incomplete


def test_gzip_body_with_broken_second_half_keeps_first_half(answer_of):
    packed = gzip.compress(b"".join(b"%d " % number for number in range(9000)))
    broken = packed[: len(packed) // 2] + b"\xff" * 500
    answer = answer_of(http_response(broken, headers=[GZIP]), deadline=5)
    assert answer.body.startswith(b"0 1 2 3 4 5")
    assert answer.incomplete


def test_broken_gzip_body_larger_than_limit_is_truncated(answer_of):
    packed = bytearray(gzip.compress(bytes(50_000_000)))
    packed[-8] ^= 1
    answer = answer_of(http_response(bytes(packed), headers=[GZIP]), deadline=5)
    assert len(answer.body) == MAX_BODY
    assert answer.truncated


def test_undeclared_gzip_body_larger_than_limit_is_truncated(answer_of):
    answer = answer_of(http_response(gzip.compress(bytes(50_000_000))), deadline=5)
    assert len(answer.body) == MAX_BODY
    assert answer.truncated


@pytest.mark.parametrize(
    "reply",
    [
        http_response(BODY),
        chunked_response(BODY),
        then_hang_up(b"HTTP/1.1 200 OK\r\n\r\n" + BODY),
        http_response(gzip.compress(BODY), headers=[GZIP]),
        http_response(zlib.compress(BODY), headers=[("Content-Encoding", "deflate")]),
        http_response(BODY, headers=[("Content-Encoding", "identity")]),
        http_response(gzip.compress(BODY)),
        http_response(gzip.compress(BODY), headers=[("Content-Encoding", "identity")]),
    ],
)
def test_complete_answer_is_not_marked_incomplete(answer_of, reply):
    answer = answer_of(reply)
    assert answer.body == BODY
    assert not answer.incomplete


def test_answer_without_any_body_bytes_raises_no_answer(answer_of):
    with pytest.raises(OSVINoAnswer):
        answer_of(then_hang_up(http_response(length=9)))


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("application/json", ""),
        ("application/json; charset=Latin-1", "latin-1"),
        ('text/html; a=b;charset="utf-8"', "utf-8"),
        ("application/json; charset =  'cp1252' ", "cp1252"),
        ("application/json; charset=", ""),
        ("application/json; charset=" + "x" * 99, "x" * 40),
        ("charset=utf-8", ""),
    ],
)
def test_answer_charset_is_the_declared_charset(answer_of, content_type, charset):
    answer = answer_of(http_response(BODY, headers=[("Content-Type", content_type)]))
    assert answer.charset == charset


def test_answer_charset_without_content_type_is_empty(answer_of):
    assert answer_of(http_response(BODY)).charset == ""
