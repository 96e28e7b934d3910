"""Test the spool: its files are private, and complete or absent."""

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


OTHER_USER = 54_321


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_read_of_put_answer_returns_same_answer(tmp_path):
    directory = tmp_path / "deep" / "spool"
    path = spool.put(directory, ANSWER)
    assert list(spool.waiting(directory)) == [path]
    assert spool.read(path) == ANSWER


def test_put_names_file_after_session_attempt_and_claim(tmp_path):
    path = spool.put(tmp_path / "spool", ANSWER)
    assert path.name == "7-11-0f8fad5b-d9cb-469f-a165-70867728950e.json"


def test_put_creates_file_and_directory_for_owner_only(tmp_path):
    before = os.umask(0)
    try:
        path = spool.put(tmp_path / "spool", ANSWER)
    finally:
        os.umask(before)
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700


@pytest.fixture
def give_to_other_user(monkeypatch):
    """Give a file or directory to another user, whose group this process is in."""

    def _foreign(path):
        if os.geteuid() == 0:  # as in a container
            os.lchown(path, OTHER_USER, os.getegid())
        monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER + 1)

    return _foreign


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o770, 0o2770, 0o1777])
def test_put_in_directory_of_this_user_visible_to_others_works(tmp_path, mode):
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    assert mode_of(spool.put(directory, ANSWER)) == 0o600
    assert len(list(spool.waiting(directory))) == 1


@pytest.mark.parametrize("mode", [0o770, 0o2770, 0o2775])
def test_put_in_directory_of_own_group_works(tmp_path, give_to_other_user, mode):
    """A volume mounted into a container belongs to root and to the group of its user."""
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    give_to_other_user(directory)
    assert spool.read(spool.put(directory, ANSWER)) == ANSWER


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_put_in_directory_of_other_user_raises_spool_not_safe(tmp_path, give_to_other_user, mode):
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(mode)
    give_to_other_user(directory)
    with pytest.raises(spool.SpoolNotSafe, match="another user"):
        spool.put(directory, ANSWER)


def test_put_in_directory_writable_by_all_raises_spool_not_safe(tmp_path):
    directory = tmp_path / "spool"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(spool.SpoolNotSafe, match="all users"):
        spool.put(directory, ANSWER)
    with pytest.raises(spool.SpoolNotSafe):
        list(spool.waiting(directory))
    assert list(directory.iterdir()) == []


def test_put_in_link_of_this_user_follows_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "spool").symlink_to(elsewhere)
    spool.put(tmp_path / "spool", ANSWER)
    assert len(list(elsewhere.iterdir())) == 1


def test_put_in_link_of_other_user_raises_spool_not_safe(tmp_path, give_to_other_user):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    (tmp_path / "spool").symlink_to(elsewhere)
    give_to_other_user(tmp_path / "spool")
    with pytest.raises(spool.SpoolNotSafe):
        spool.put(tmp_path / "spool", ANSWER)
    assert list(elsewhere.iterdir()) == []


def test_put_in_default_directory_of_other_user_raises_spool_not_safe(
    tmp_path, monkeypatch, give_to_other_user
):
    """Its name is known, so that any user may have created it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / f"osvi_django-{OTHER_USER + 1}"
    directory.mkdir()
    directory.chmod(0o2770)
    give_to_other_user(directory)
    assert spool.default_spool_dir() == directory
    with pytest.raises(spool.SpoolNotSafe, match="another user"):
        spool.put(directory, ANSWER)


def test_read_of_file_of_other_user_in_shared_directory_raises(tmp_path, give_to_other_user):
    path = spool.put(tmp_path / "spool", ANSWER)
    path.parent.chmod(0o1777)
    give_to_other_user(path)
    path.chmod(0o644)
    with pytest.raises(spool.SpoolNotSafe, match="another user"):
        spool.read(path)


def test_read_of_symbolic_link_raises_os_error(tmp_path):
    path = spool.put(tmp_path / "spool", ANSWER)
    link = path.with_name("1-2-3.json")
    link.symlink_to(path)
    with pytest.raises(OSError, match="symbolic links"):
        spool.read(link)


def test_put_on_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    directory = tmp_path / "spool"
    assert spool.put_anywhere([directory], ANSWER) is None
    assert list(directory.iterdir()) == []


def test_put_anywhere_with_unusable_first_directory_uses_next(tmp_path, caplog):
    (tmp_path / "file").touch()
    path = spool.put_anywhere([tmp_path / "file", tmp_path / "spool"], ANSWER)
    assert path.parent == tmp_path / "spool"
    assert "the answer of attempt 11 cannot be put in a spool" in caplog.text


def test_remove_that_fails_is_logged(tmp_path, caplog):
    path = tmp_path / "directory"
    path.mkdir()
    spool.remove(path)
    assert "cannot be removed" in caplog.text


class TestProblems:
    def test_problem_of_directory_that_can_be_created_is_empty(self, tmp_path):
        assert spool.problem_of(tmp_path / "deep" / "spool") == ""
        assert list(tmp_path.iterdir()) == []

    def test_problem_of_writable_directory_is_empty(self, tmp_path):
        assert spool.problem_of(tmp_path) == ""
        assert list(tmp_path.iterdir()) == []

    def test_problem_of_file_says_it_is_no_directory(self, tmp_path):
        (tmp_path / "file").touch()
        assert "is not a directory" in spool.problem_of(tmp_path / "file")
        assert "cannot be made in" in spool.problem_of(tmp_path / "file" / "spool")

    def test_problem_of_read_only_directory_is_permission_denied(self, tmp_path, monkeypatch):
        def refuse(**_where):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

        monkeypatch.setattr(tempfile, "mkstemp", refuse)
        assert spool.problem_of(tmp_path) == "Permission denied."

    def test_problem_of_directory_writable_by_all_mentions_all_users(self, tmp_path):
        tmp_path.chmod(0o777)
        assert "all users" in spool.problem_of(tmp_path)

    def test_problem_once_reports_each_directory_once_per_process(self, tmp_path):
        (tmp_path / "file").touch()
        assert spool.problem_once(tmp_path / "file") != ""
        assert spool.problem_once(tmp_path / "file") == ""
        assert spool.problem_once(tmp_path / "spool") == ""
        assert not (tmp_path / "spool").exists()


def test_waiting_without_directory_is_empty(tmp_path):
    assert list(spool.waiting(tmp_path / "spool")) == []


def test_waiting_ignores_unfinished_files(tmp_path):
    directory = tmp_path / "spool"
    spool.put(directory, ANSWER)
    (directory / "tmpabc").write_text("{")
    assert len(list(spool.waiting(directory))) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"body": "?"}', '{"body": 5}', "\xff"])
def test_read_of_invalid_file_raises_value_error(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError):  # noqa: PT011
        spool.read(path)


def test_repr_of_answer_contains_no_body():
    assert "secret" not in repr(ANSWER)
