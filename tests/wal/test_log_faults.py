"""The log on a disk that is full or fails."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Sequence
from pathlib import Path

import pytest

from dfs.core.errors import (
    NoSpaceError,
    WalReadOnlyError,
)
from dfs.wal.control import LogPosition
from dfs.wal.segment import (
    ACTIVE_NAME,
    SEGMENT_HEADER_BYTES,
    sealed_path,
)
from tests.wal.conftest import OpenLog
from tests.wal.logs import (
    append_commit,
    fail_with,
    lsns,
    raw_of,
    recover,
    rotate,
    upload,
    write_of,
)


@pytest.mark.parametrize("fitting", [0, 1, 21, 50])
def test_log_append_without_space_cuts_back(
    open_log: OpenLog, log_path: Path, monkeypatch: pytest.MonkeyPatch, fitting: int
) -> None:
    """A disk that fills in the middle of a write leaves the log as it was, and usable."""
    log = open_log(preallocate_bytes=0)
    append_commit(log, upload("a", b"a"))
    before = (log_path / ACTIVE_NAME).read_bytes()
    position = log.position
    real_pwrite = os.pwrite

    def write_some(fd: int, pieces: Sequence[bytes], offset: int) -> int:
        if not fitting:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real_pwrite(fd, pieces[0][:fitting], offset)

    data, last_lsn = write_of(log, b"lost")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", write_some)
        patch.setattr(os, "pwrite", fail_with(errno.ENOSPC))
        with pytest.raises(NoSpaceError):
            log.append(data, last_lsn=last_lsn)
    assert (log_path / ACTIVE_NAME).read_bytes() == before
    assert (log.position, log.control.is_dirty) == (position, False)
    assert log.control.read_only_reason is None
    with pytest.raises(RuntimeError):
        log.publish()
    append_commit(log, upload("b", b"b"))
    assert lsns(recover(log)) == [1, 2, 3, 4]


def test_log_append_written_in_pieces_is_whole(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that takes a few bytes at a time gets all of them in the end."""
    log = open_log(preallocate_bytes=512)
    real_pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwritev", lambda fd, pieces, offset: real_pwrite(fd, pieces[0][:7], offset)
    )
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real_pwrite(fd, data[:5], offset))
    written = append_commit(log, upload("a", b"abc" * 50))
    assert [raw_of(frame) for frame in recover(log)] == [record.raw for record in written]


def test_log_append_over_the_limit_of_file_sizes_cuts_back(
    open_log: OpenLog, log_path: Path
) -> None:
    """A real refusal of the kernel, in the middle of a write, leaves the log usable."""
    log = open_log(preallocate_bytes=0)
    append_commit(log, upload("a", b"a" * 5000))
    size = (log_path / ACTIVE_NAME).stat().st_size
    data, last_lsn = write_of(log, b"b" * 20_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, hard))
    try:
        with pytest.raises(NoSpaceError):
            log.append(data, last_lsn=last_lsn)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (log_path / ACTIVE_NAME).stat().st_size == size
    append_commit(log, upload("c", b"c"))
    assert lsns(recover(log)) == [1, 2, 3, 4]


def test_log_append_with_space_for_data_but_not_for_zeros_succeeds(
    open_log: OpenLog, log_path: Path
) -> None:
    """Preallocation takes what there is, and is not missed."""
    log = open_log(preallocate_bytes=0)
    log.close()
    log = open_log(preallocate_bytes=32_768, recovered=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        append_commit(log, upload("a", b"a" * 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (log_path / ACTIVE_NAME).stat().st_size == 4096
    assert lsns(recover(log)) == [1, 2]


def test_log_cut_back_after_sync_is_durable(
    open_log: OpenLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken back is synced away: after a power cut it must not be rolled forward."""
    log = open_log(preallocate_bytes=0)
    append_commit(log, upload("a", b"a"))
    before = (log_path / ACTIVE_NAME).read_bytes()
    data, last_lsn = write_of(log, b"b")
    log.append(data, last_lsn=last_lsn)
    log.sync()
    calls: list[str] = []
    for name in ("ftruncate", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]
        )
    log.cut_back()
    assert calls == ["ftruncate", "fdatasync"]
    assert (log_path / ACTIVE_NAME).read_bytes() == before
    assert not log.control.is_dirty


def test_log_cut_back_without_append_changes_nothing(open_log: OpenLog, log_path: Path) -> None:
    """Taking back nothing, also just after a rotation, is no failure of the disk."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    rotate(log)
    log.cut_back()
    assert log.control.read_only_reason is None
    append_commit(log, upload("b", b"b"))
    assert lsns(recover(log)) == [1, 2, 3, 4, 5]


def test_log_cut_back_that_fails_turns_read_only(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If not even the cut works, nobody knows what the segment holds."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    data, last_lsn = write_of(log, b"b")
    monkeypatch.setattr(os, "pwritev", fail_with(errno.ENOSPC))
    monkeypatch.setattr(os, "ftruncate", fail_with(errno.EIO))
    with pytest.raises(WalReadOnlyError):
        log.append(data, last_lsn=last_lsn)
    assert log.control.read_only_reason is not None


# A disk that fails


def test_log_append_on_failing_disk_turns_read_only(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input/output error stops all processes of the node from writing."""
    log, other = open_log(), open_log(recovered=False)
    data, last_lsn = write_of(log, b"a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", fail_with(errno.EIO))
        with pytest.raises(WalReadOnlyError) as raised:
            log.append(data, last_lsn=last_lsn)
    assert raised.value.context["path"] == str(log.active_path)
    for one in (log, other):
        with pytest.raises(WalReadOnlyError):
            one.append(data, last_lsn=last_lsn)


def test_log_failed_sync_turns_read_only_and_is_not_retried(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one failed sync nothing is synced, published or appended again."""
    calls: list[int] = []

    def fail_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.EIO, "Input/output error")

    log, other = open_log(), open_log(recovered=False)
    append_commit(log, upload("a", b"a"))
    position = log.position
    data, last_lsn = write_of(log, b"b")
    log.append(data, last_lsn=last_lsn)
    monkeypatch.setattr(os, "fdatasync", fail_once)
    with pytest.raises(WalReadOnlyError):
        log.sync()
    assert len(calls) == 1
    with pytest.raises(RuntimeError):
        log.publish()
    for one in (log, other):
        assert one.control.read_only_reason is not None
        assert one.position == position
        with pytest.raises(WalReadOnlyError):
            one.append(data, last_lsn=last_lsn)
    assert len(calls) == 1


def test_log_failed_sync_leaves_the_segment_at_its_last_durable_offset(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start begins a fresh segment, and the unsynced records are never read."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    durable = log.position
    data, last_lsn = write_of(log, b"unsynced")
    log.append(data, last_lsn=last_lsn)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail_with(errno.EIO))
        with pytest.raises(WalReadOnlyError):
            log.sync()
    log.close()
    again = open_log()
    assert again.position == LogPosition(2, SEGMENT_HEADER_BYTES, durable.lsn)
    assert again.control.read_only_reason is None
    assert again.segments()[0].end == durable.offset
    assert b"unsynced" in sealed_path(again.path, 1).read_bytes()
    new = append_commit(again, upload("b", b"b"))
    frames = recover(again)
    assert lsns(frames) == [1, 2, 3, 4]
    assert [raw_of(frame) for frame in frames[2:]] == [record.raw for record in new]
    until = LogPosition(1, durable.offset, durable.lsn)
    assert lsns(again.read(after_lsn=0, until=until)) == [1, 2]


def test_log_failed_sync_of_the_tail_turns_read_only(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tail that cannot be synced for a dead process is not believed at the next attempt."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail_with(errno.EIO))
        with pytest.raises(WalReadOnlyError):
            log.sync_active()
    assert log.control.read_only_reason is not None
