"""Rotating and leaving a segment, died over at every step."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from dfs.core.errors import (
    NoSpaceError,
    StoreUnavailableError,
    WalCorruptError,
    WalError,
    WalGapError,
    WalReadOnlyError,
)
from dfs.wal.control import LogPosition
from dfs.wal.layout import Situation, find_situation
from dfs.wal.segment import (
    ACTIVE_NAME,
    NEXT_NAME,
    SEGMENT_HEADER_BYTES,
    read_header,
    sealed_path,
)
from tests.wal.conftest import OpenLog
from tests.wal.logs import (
    CLUSTER_ID,
    DeathError,
    Killer,
    append_commit,
    fail_with,
    lsns,
    raw_of,
    recover,
    rotate,
    seal_of,
    upload,
)

STEPS_OF_ROTATE = [
    "log.next_written",
    "log.dirty",
    "log.appended",
    "log.synced",
    "log.sealed",
    "log.next_activated",
]


def test_log_rotate_seals_and_begins_the_next(open_log: OpenLog, log_path: Path) -> None:
    """The sealed segment lies under its id, and the next one says where it ended."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    seal = rotate(log)
    assert find_situation(log_path) is Situation.OPEN
    assert not (log_path / NEXT_NAME).exists()
    header = read_header(log_path / ACTIVE_NAME)
    assert (header.segment_id, header.first_lsn) == (2, seal.lsn + 1)
    assert (header.previous_end, header.previous_last_lsn) == (seal.end, seal.lsn)
    assert header.cluster_id == CLUSTER_ID
    assert read_header(sealed_path(log_path, 1)).segment_id == 1
    assert log.position == LogPosition(2, SEGMENT_HEADER_BYTES, seal.lsn)
    assert not log.control.is_dirty


def test_log_is_full_at_its_size_limit(open_log: OpenLog) -> None:
    """A segment is full when the next write would pass the limit, unless it is empty."""
    log = open_log(segment_bytes=4096)
    assert not log.is_full(1 << 20)
    append_commit(log, upload("a", b"a"))
    room = 4096 - log.position.offset
    assert not log.is_full(room)
    assert log.is_full(room + 1)


def test_log_rotate_does_its_steps_in_order(open_log: OpenLog) -> None:
    """The next segment is complete before anything is renamed."""
    killer = Killer()
    log = open_log(on_step=killer)
    append_commit(log, upload("a", b"a"))
    killer.steps.clear()
    rotate(log)
    assert killer.steps == STEPS_OF_ROTATE


@pytest.mark.parametrize("reboot", [False, True])
@pytest.mark.parametrize("step", STEPS_OF_ROTATE)
def test_log_rotation_died_at_each_step_is_completed(
    open_log: OpenLog, log_path: Path, step: str, reboot: bool
) -> None:
    """Wherever a rotation stops, all records stay, and the log goes on in order."""
    killer = Killer()
    log = open_log(on_step=killer)
    append_commit(log, upload("a", b"a"))
    killer.fatal = step
    with pytest.raises(DeathError):
        rotate(log)
    log.close()
    if reboot:
        (log_path / "control").unlink()
    again = open_log(recovered=False)
    frames = recover(again)
    sealed = step not in {"log.next_written", "log.dirty"}
    assert lsns(frames) == ([1, 2, 3] if sealed else [1, 2])
    assert find_situation(log_path) is Situation.OPEN
    assert again.position.segment_id == (2 if sealed else 1)
    assert not again.control.is_dirty
    append_commit(again, upload("b", b"b"))
    rotate(again)
    append_commit(again, upload("c", b"c"))
    assert lsns(recover(again)) == list(range(1, again.position.lsn + 1))


@pytest.mark.parametrize("step", ["log.next_written", "log.sealed", "log.next_activated"])
def test_log_leaving_a_segment_died_at_each_step_is_completed(
    open_log: OpenLog, log_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A start that dies while it abandons a segment is repeated without losing that segment."""
    killer = Killer()
    log = open_log(on_step=killer)
    written = append_commit(log, upload("a", b"a"))
    log.control.mark_read_only("a sync failed")
    killer.fatal = step
    with pytest.raises(DeathError):
        recover(log)
    log.close()
    again = open_log(recovered=False)
    assert [raw_of(frame) for frame in recover(again)] == [record.raw for record in written]
    assert [segment.header.segment_id for segment in again.segments()] == [1, 2]
    assert again.position == LogPosition(2, SEGMENT_HEADER_BYTES, 2)
    append_commit(again, upload("b", b"b"))
    assert lsns(recover(again)) == [1, 2, 3, 4]


def test_log_rotation_whose_renames_cannot_be_synced_turns_read_only(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start goes on behind the seal, which was synced before."""
    log = open_log()
    append_commit(log, upload("a", b"a"))

    def fail(path: Path) -> None:
        raise StoreUnavailableError("The disk did not do what was asked.", path=path)

    real_write = log._write_next

    def write_then_fail(ended: LogPosition) -> None:
        real_write(ended)
        monkeypatch.setattr("dfs.wal.log.sync_directory", fail)

    monkeypatch.setattr(log, "_write_next", write_then_fail)
    with pytest.raises(WalReadOnlyError):
        rotate(log)
    monkeypatch.undo()
    log.close()
    again = open_log(recovered=False)
    assert lsns(recover(again)) == [1, 2, 3]
    assert again.position == LogPosition(2, SEGMENT_HEADER_BYTES, 3)


def test_log_rotation_without_space_leaves_the_segment_active(
    open_log: OpenLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the next segment or the seal does not fit, the active one goes on."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    position = log.position
    seal = seal_of(log)
    with monkeypatch.context() as patch:
        patch.setattr("dfs.wal.segment.os.fsync", fail_with(errno.ENOSPC))
        with pytest.raises(NoSpaceError):
            log.rotate(seal.raw, last_lsn=seal.lsn)
    assert not (log_path / NEXT_NAME).exists()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", fail_with(errno.ENOSPC))
        with pytest.raises(NoSpaceError):
            log.rotate(seal.raw, last_lsn=seal.lsn)
    assert log.position == position
    append_commit(log, upload("b", b"b"))
    rotate(log)
    assert lsns(recover(log)) == [1, 2, 3, 4, 5]


def test_log_rotation_with_failed_sync_turns_read_only(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seal that may not be on disk does not count: the segment is left before it."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail_with(errno.EIO))
        with pytest.raises(WalReadOnlyError):
            rotate(log)
    log.close()
    again = open_log()
    assert again.position == LogPosition(2, SEGMENT_HEADER_BYTES, 2)
    assert lsns(again.read(after_lsn=0)) == [1, 2]


def test_log_never_seals_over_a_sealed_segment(open_log: OpenLog, log_path: Path) -> None:
    """A segment that already lies under that name is not replaced."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    sealed_path(log_path, 1).write_bytes(b"something precious")
    with pytest.raises(WalCorruptError):
        log.leave_active(log.position)
    assert sealed_path(log_path, 1).read_bytes() == b"something precious"
    assert (log_path / ACTIVE_NAME).exists()


def test_log_append_to_a_segment_that_is_not_active_refuses(
    open_log: OpenLog, log_path: Path
) -> None:
    """A control file that speaks of another segment than lies there stops the writer."""
    log = open_log()
    log.control.publish(LogPosition(7, SEGMENT_HEADER_BYTES, 0))
    with pytest.raises(WalCorruptError):
        log.append(b"x", last_lsn=1)


@pytest.mark.parametrize("names", [[], [NEXT_NAME]])
def test_log_prepare_without_active_segment_refuses(
    open_log: OpenLog, log_path: Path, names: list[str]
) -> None:
    """A log whose newest segment is gone is not begun anew."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    rotate(log)
    log.close()
    (log_path / ACTIVE_NAME).rename(log_path / NEXT_NAME)
    if names:
        sealed_path(log_path, 1).unlink()
    else:
        (log_path / NEXT_NAME).unlink()
    log = open_log(recovered=False)
    with pytest.raises(WalGapError):
        log.prepare(cluster_id=CLUSTER_ID)


def test_log_prepare_syncs_names_before_it_renames(
    open_log: OpenLog, log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a sealed segment is durable before another file takes the name it had."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    rotate(log)
    (log_path / ACTIVE_NAME).rename(log_path / NEXT_NAME)
    synced: list[str] = []

    def sync(path: Path) -> None:
        synced.append(f"{path.name} {'open' if (log_path / ACTIVE_NAME).exists() else 'rotating'}")

    monkeypatch.setattr("dfs.wal.log.sync_directory", sync)
    log.prepare(cluster_id=CLUSTER_ID)
    assert synced == ["segments rotating", "wal rotating", "wal open"]


def test_log_prepare_of_newer_format_refuses(open_log: OpenLog, log_path: Path) -> None:
    """A log of a newer program is left alone."""
    log = open_log()
    log.close()
    data = bytearray((log_path / ACTIVE_NAME).read_bytes())
    data[8:12] = struct.pack("<I", 2)
    (log_path / ACTIVE_NAME).write_bytes(data)
    log = open_log(recovered=False)
    with pytest.raises(WalError):
        log.prepare(cluster_id=CLUSTER_ID)
    assert (log_path / ACTIVE_NAME).read_bytes() == bytes(data)
