"""What a process that died left behind the end of the log, when the next one makes it durable."""

from __future__ import annotations

import os

import pytest

from tests.wal.conftest import OpenLog
from tests.wal.logs import append_commit, lsns, recover, upload, write_of

Call = tuple[str, int, bytes]


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Return a list that takes each os.pwrite and os.fsync: (name, offset, bytes written)."""
    calls: list[Call] = []
    real_pwrite, real_fsync = os.pwrite, os.fsync

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        calls.append(("pwrite", offset, bytes(data)))
        return real_pwrite(fd, data, offset)

    def fsync(fd: int) -> None:
        calls.append(("fsync", 0, b""))
        real_fsync(fd)

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(os, "fsync", fsync)
    return calls


def test_log_sync_of_the_tail_writes_it_again_first(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a sync that failed the kernel takes the pages for clean: a sync alone does nothing."""
    dead = open_log()
    append_commit(dead, upload("a", b"a"))
    data, last_lsn = write_of(dead, b"appended, and perhaps on disk")
    dead.append(data, last_lsn=last_lsn)
    heir = open_log(recovered=False)
    with monkeypatch.context() as patch:
        calls = record_calls(patch)
        heir.sync_active()
    assert calls == [("pwrite", heir.position.offset, data.rstrip(b"\0")), ("fsync", 0, b"")]
    assert lsns(recover(heir)) == [1, 2, 3, 4]
