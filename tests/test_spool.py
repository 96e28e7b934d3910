"""The spool: files for their owner's eyes alone, whole or not there."""

from __future__ import annotations

import os
import stat

import pytest

from osvi_django import spool

ANSWER = spool.SpooledAnswer(
    session=7,
    attempt=11,
    claim="0f8fad5b-d9cb-469f-a165-70867728950e",
    status=200,
    body=b'\x00\xff{"summary": "secret"}',
    truncated=False,
)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_put_is_read(tmp_path):
    directory = tmp_path / "deep" / "spool"
    path = spool.put(directory, ANSWER)
    assert list(spool.waiting(directory)) == [path]
    assert spool.read(path) == ANSWER


def test_names_tell_session_and_attempt(tmp_path):
    path = spool.put(tmp_path / "spool", ANSWER)
    assert path.name == "7-11-0f8fad5b-d9cb-469f-a165-70867728950e.json"


def test_nobody_else_may_look(tmp_path):
    before = os.umask(0)
    try:
        path = spool.put(tmp_path / "spool", ANSWER)
    finally:
        os.umask(before)
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700


def test_a_directory_that_others_may_enter_is_not_used(tmp_path):
    directory = tmp_path / "spool"
    directory.mkdir(mode=0o700)
    directory.chmod(0o750)
    with pytest.raises(spool.SpoolNotSafe, match="chmod 700"):
        spool.put(directory, ANSWER)
    with pytest.raises(spool.SpoolNotSafe):
        list(spool.waiting(directory))
    assert list(directory.iterdir()) == []


def test_a_link_that_somebody_else_laid_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "spool").symlink_to(elsewhere)
    with pytest.raises(spool.SpoolNotSafe):
        spool.put(tmp_path / "spool", ANSWER)
    assert list(elsewhere.iterdir()) == []


def test_a_spool_that_was_never_used_is_empty(tmp_path):
    assert list(spool.waiting(tmp_path / "spool")) == []


def test_an_unfinished_file_is_not_waiting(tmp_path):
    directory = tmp_path / "spool"
    spool.put(directory, ANSWER)
    (directory / "tmpabc").write_text("{")
    assert len(list(spool.waiting(directory))) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"body": "?"}', '{"body": 5}', "\xff"])
def test_what_is_no_answer_is_an_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError):  # noqa: PT011
        spool.read(path)


def test_no_text_of_an_answer_is_in_its_repr():
    assert "secret" not in repr(ANSWER)
