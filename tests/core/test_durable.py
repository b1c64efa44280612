"""Durable files and directories. That they sync in order is traced in tests/storage."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from dfs.core.durable import (
    make_directory_durably,
    replace_durably,
    storage_error,
    sync_directory,
    write_all,
)
from dfs.core.errors import NoSpaceError, StoreUnavailableError


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the path of each file or directory synced, and sync it."""
    paths: list[str] = []
    fsync = os.fsync

    def record(fd: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", record)
    return paths


def fail_fsync(fd: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_storage_error_of_full_disk_is_no_space(number: int) -> None:
    """A full disk, a full quota and a file at its limit are answered as lack of space."""
    error = storage_error(OSError(number, os.strerror(number)), path="/store/x")

    assert isinstance(error, NoSpaceError)
    assert error.context == {"errno": errno.errorcode[number], "path": "/store/x"}
    assert error.retryable


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES, errno.ENOENT])
def test_storage_error_of_other_faults_is_unavailable(number: int) -> None:
    """Any other fault says what the system said, and prefers the path the system named."""
    error = storage_error(OSError(number, os.strerror(number), "/named"), path="/store/x")

    assert type(error) is StoreUnavailableError
    assert os.strerror(number) in str(error)
    assert error.context["path"] == "/named"


def test_storage_error_without_errno_is_unavailable() -> None:
    """An error that carries nothing is still translated."""
    assert type(storage_error(OSError())) is StoreUnavailableError


def test_write_all_with_short_writes_writes_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A system that takes a few bytes a call gets the rest in further calls."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    fd = os.open(tmp_path / "f", os.O_WRONLY | os.O_CREAT)
    try:
        write_all(fd, b"0123456789")
        write_all(fd, memoryview(b"abcdefgh").cast("I"))
    finally:
        os.close(fd)

    assert (tmp_path / "f").read_bytes() == b"0123456789abcdefgh"


def test_sync_directory_syncs_that_directory(synced: list[str], tmp_path: Path) -> None:
    """The directory itself is synced."""
    sync_directory(tmp_path)

    assert synced == [str(tmp_path)]


def test_sync_directory_missing_or_failing_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a missing directory nor a failed sync is passed over; the descriptor is closed."""
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StoreUnavailableError):
        sync_directory(tmp_path / "missing")
    monkeypatch.setattr(os, "fsync", fail_fsync)
    with pytest.raises(StoreUnavailableError, match="Input/output error"):
        sync_directory(tmp_path)

    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_make_directory_missing_levels_syncs_the_parent_of_each(
    synced: list[str], tmp_path: Path
) -> None:
    """Every new name is made durable, and so is the one of the directory that was there."""
    make_directory_durably(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [str(path) for path in (tmp_path.parent, tmp_path, *_levels(tmp_path))]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def _levels(path: Path) -> list[Path]:
    return [path / "a", path / "a" / "b"]


def test_make_directory_existing_syncs_its_parent(synced: list[str], tmp_path: Path) -> None:
    """Whoever created it may have been killed before the sync, so it is done again."""
    (tmp_path / "there").mkdir(mode=0o750)

    make_directory_durably(tmp_path / "there")

    assert synced == [str(tmp_path)]
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o750


def test_make_directory_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    """A file of that name is neither replaced nor taken for a directory."""
    (tmp_path / "taken").write_bytes(b"x")

    with pytest.raises(StoreUnavailableError):
        make_directory_durably(tmp_path / "taken")
    with pytest.raises(StoreUnavailableError):
        make_directory_durably(tmp_path / "taken" / "below")


def test_make_directory_that_may_not_be_looked_at_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fault while looking for what exists is translated like any other."""

    def deny(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_dir", deny)

    with pytest.raises(StoreUnavailableError, match="Permission denied"):
        make_directory_durably(tmp_path / "a")


def test_make_directory_created_by_another_meanwhile_is_taken(
    monkeypatch: pytest.MonkeyPatch, synced: list[str], tmp_path: Path
) -> None:
    """Two processes may create the same directory: both return with it durable."""
    mkdir = Path.mkdir

    def mkdir_after_another(path: Path, mode: int = 0o777) -> None:
        mkdir(path)
        mkdir(path, mode=mode)

    monkeypatch.setattr(Path, "mkdir", mkdir_after_another)

    make_directory_durably(tmp_path / "a")

    assert synced[-1] == str(tmp_path)


def test_make_directory_with_failing_sync_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A directory whose name may not be durable is not reported as created."""
    monkeypatch.setattr(os, "fsync", fail_fsync)

    with pytest.raises(StoreUnavailableError):
        make_directory_durably(tmp_path / "new")


def test_replace_file_gives_new_bytes_private_and_synced(synced: list[str], tmp_path: Path) -> None:
    """The bytes are synced under another name first, the directory last; nothing is left over."""
    path = tmp_path / "file"
    path.write_bytes(b"old")

    replace_durably(path, b"new")

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert len(synced) == 2
    assert synced[0].startswith(str(tmp_path / ".file."))
    assert synced[1] == str(tmp_path)


def test_replace_file_with_failing_sync_keeps_the_old(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Bytes that may not be on disk never take the name, and their file is removed."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", fail_fsync)

    with pytest.raises(StoreUnavailableError):
        replace_durably(path, b"new")

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_replace_file_in_missing_directory_is_an_error(tmp_path: Path) -> None:
    """There is no file without its directory."""
    with pytest.raises(StoreUnavailableError):
        replace_durably(tmp_path / "missing" / "file", b"x")
