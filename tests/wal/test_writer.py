"""Writing behind the end of the active segment."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from dfs.core.errors import WalReadOnlyError
from dfs.wal.segment import ACTIVE_NAME, SEGMENT_HEADER_BYTES, ZEROS_BYTES_MAX, zeros
from tests.wal.conftest import OpenLog
from tests.wal.logs import append_commit, fail_with, lsns, recover, rotate, upload, write_of


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    copy.rename(path)


def cut(path: Path) -> None:
    os.truncate(path, SEGMENT_HEADER_BYTES)


def move(path: Path) -> None:
    path.rename(path.with_name("moved"))


@pytest.mark.parametrize(
    ("harm", "proc_fault"),
    [*product([remove, replace, cut], [None, errno.ENOENT, errno.EACCES]), (move, None)],
)
def test_segment_that_nobody_would_read_takes_no_more_writes(
    open_log: OpenLog,
    log_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
    proc_fault: int | None,
) -> None:
    """Nothing is acknowledged into a file that was removed, replaced, cut or moved meanwhile.

    Where /proc tells nothing of it, one that was moved is not found out.
    """
    log = open_log()
    append_commit(log, upload("a", b"a"))
    if proc_fault is not None:
        monkeypatch.setattr(os, "readlink", fail_with(proc_fault))
    append_commit(log, upload("b", b"b"))
    harm(log_path / ACTIVE_NAME)
    data, last_lsn = write_of(log, b"lost")
    with pytest.raises(WalReadOnlyError, match="taken away or cut"):
        log.append(data, last_lsn=last_lsn)


def test_writing_asks_for_the_times_of_no_file(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the kernel gives every write a time of its own, and the sync has it to write, too."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    with monkeypatch.context() as patched:
        for name in ("stat", "fstat", "lstat"):
            patched.setattr(os, name, fail_with(13))
        append_commit(log, upload("b", b"b" * 10_000))
    assert lsns(recover(log)) == [1, 2, 3, 4]


def test_segment_begins_with_as_many_zeros_as_were_asked_for(
    open_log: OpenLog, log_path: Path
) -> None:
    """Whether or not that is a multiple of the pieces in which they are written."""
    log = open_log(segment_bytes=4 << 20, preallocate_bytes=(2 << 20) + 17)
    append_commit(log, upload("a", b"a"))
    rotate(log)
    data = (log_path / ACTIVE_NAME).read_bytes()
    assert len(data) == (2 << 20) + 17
    assert not any(data[SEGMENT_HEADER_BYTES:])


@pytest.mark.parametrize("size", [-1, 0, 1, 1 << 20, (3 << 20) + 5])
def test_zeros_are_as_many_as_asked_for(size: int) -> None:
    """None where there is room for none."""
    assert b"".join(zeros(size)) == bytes(max(0, size))


def test_zeros_of_one_write_are_no_more_buffers_than_the_kernel_takes() -> None:
    """The data of the write is one more."""
    assert len(zeros(ZEROS_BYTES_MAX)) < os.sysconf("SC_IOV_MAX")
