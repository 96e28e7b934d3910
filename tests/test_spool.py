"""The spool: files for their owner's eyes alone, whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import tempfile

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


OTHER = 54_321  # a user who is somebody else


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


@pytest.fixture
def foreign(monkeypatch):
    """Give a file or directory to another user, of whom this process is in the group."""

    def _foreign(path):
        if os.geteuid() == 0:  # as in a container
            os.lchown(path, OTHER, os.getegid())
        monkeypatch.setattr(os, "geteuid", lambda: OTHER + 1)

    return _foreign


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o770, 0o2770, 0o1777])
def test_a_directory_of_this_user_may_be_seen_by_others(tmp_path, mode):
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    assert mode_of(spool.put(directory, ANSWER)) == 0o600
    assert len(list(spool.waiting(directory))) == 1


@pytest.mark.parametrize("mode", [0o770, 0o2770, 0o2775])
def test_a_directory_of_our_group_is_used(tmp_path, foreign, mode):
    """A volume that is mounted into a container belongs to root, and to the group of its user."""
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    foreign(directory)
    assert spool.read(spool.put(directory, ANSWER)) == ANSWER


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_a_directory_of_another_user_is_not_used(tmp_path, foreign, mode):
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    foreign(directory)
    with pytest.raises(spool.SpoolNotSafe, match="another user"):
        spool.put(directory, ANSWER)


def test_a_directory_that_all_may_write_is_not_used(tmp_path):
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(spool.SpoolNotSafe, match="all users"):
        spool.put(directory, ANSWER)
    with pytest.raises(spool.SpoolNotSafe):
        list(spool.waiting(directory))
    assert list(directory.iterdir()) == []


def test_a_link_of_this_user_is_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "spool").symlink_to(elsewhere)
    spool.put(tmp_path / "spool", ANSWER)
    assert len(list(elsewhere.iterdir())) == 1


def test_a_link_of_another_user_is_not_followed(tmp_path, foreign):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "spool").symlink_to(elsewhere)
    foreign(tmp_path / "spool")
    with pytest.raises(spool.SpoolNotSafe):
        spool.put(tmp_path / "spool", ANSWER)
    assert list(elsewhere.iterdir()) == []


def test_the_default_directory_is_not_shared_with_another_user(tmp_path, monkeypatch, foreign):
    """Its name is known: anyone may have made it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / f"osvi_django-{OTHER + 1}"
    directory.mkdir()
    directory.chmod(0o2770)
    foreign(directory)
    assert spool.default_spool_dir() == directory
    with pytest.raises(spool.SpoolNotSafe, match="another user"):
        spool.put(directory, ANSWER)


def test_a_file_of_another_user_is_not_read_if_all_may_put_one_there(tmp_path, foreign):
    path = spool.put(tmp_path / "spool", ANSWER)
    path.parent.chmod(0o1777)
    foreign(path)
    path.chmod(0o644)
    with pytest.raises(spool.SpoolNotSafe, match="another user"):
        spool.read(path)


def test_a_link_among_the_files_is_not_followed(tmp_path):
    path = spool.put(tmp_path / "spool", ANSWER)
    link = path.with_name("1-2-3.json")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        spool.read(link)


def test_what_cannot_be_written_whole_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    directory = tmp_path / "spool"
    assert spool.put_anywhere([directory], ANSWER) is None
    assert list(directory.iterdir()) == []


def test_an_answer_waits_in_the_next_directory_if_the_first_cannot_be_used(tmp_path, caplog):
    (tmp_path / "file").touch()
    path = spool.put_anywhere([tmp_path / "file", tmp_path / "spool"], ANSWER)
    assert path.parent == tmp_path / "spool"
    assert "the answer of attempt 11 cannot be put in a spool" in caplog.text


def test_a_file_that_cannot_be_removed_is_only_logged(tmp_path, caplog):
    path = tmp_path / "directory"
    path.mkdir()
    spool.remove(path)
    assert "cannot be removed" in caplog.text


class TestProblems:
    def test_there_is_none_with_a_directory_that_can_be_made(self, tmp_path):
        assert spool.problem_of(tmp_path / "deep" / "spool") == ""
        assert list(tmp_path.iterdir()) == []

    def test_there_is_none_with_a_directory_that_can_be_written(self, tmp_path):
        assert spool.problem_of(tmp_path) == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_in_the_way(self, tmp_path):
        (tmp_path / "file").touch()
        assert "is not a directory" in spool.problem_of(tmp_path / "file")
        assert "cannot be made in" in spool.problem_of(tmp_path / "file" / "spool")

    def test_a_directory_that_cannot_be_written(self, tmp_path, monkeypatch):
        def refuse(**_where):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

        monkeypatch.setattr(tempfile, "mkstemp", refuse)
        assert spool.problem_of(tmp_path) == "Permission denied."

    def test_a_directory_that_is_not_safe(self, tmp_path):
        tmp_path.chmod(0o777)
        assert "all users" in spool.problem_of(tmp_path)

    def test_it_is_told_once_in_a_process(self, tmp_path):
        (tmp_path / "file").touch()
        assert spool.problem_once(tmp_path / "file") != ""
        assert spool.problem_once(tmp_path / "file") == ""
        assert spool.problem_once(tmp_path / "spool") == ""
        assert not (tmp_path / "spool").exists()


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
