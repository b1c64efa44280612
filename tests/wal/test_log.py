"""The log: append, sync, publish, rotate, leave, and what failures of the disk do to it."""

from __future__ import annotations

import errno
import os
import resource
import struct
from collections.abc import Callable, Sequence
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
from dfs.wal.log import WriteAheadLog
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
    append_commit,
    encode_commits,
    lsns,
    put_blob,
    raw_of,
    recover,
    rotate,
    seal_of,
    upload,
)

STEPS_OF_APPEND = ["log.dirty", "log.appended", "log.synced", "log.published"]
STEPS_OF_ROTATE = [
    "log.next_written",
    "log.dirty",
    "log.appended",
    "log.synced",
    "log.sealed",
    "log.next_activated",
]


class _DeathError(BaseException):
    """Stands for the death of a process."""


class Killer:
    """A step hook that ends the world at the n-th step from now on, when it is armed."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fatal: str | None = None

    def __call__(self, name: str) -> None:
        self.steps.append(name)
        if name == self.fatal:
            raise _DeathError


def write_of(log: WriteAheadLog, content: bytes) -> tuple[bytes, int]:
    """Return the bytes of a commit at the end of the log, and its last LSN."""
    position = log.position
    written = encode_commits(
        [[upload("x", content)]], first_lsn=position.lsn + 1, offset=position.offset
    )
    return b"".join(record.raw for record in written), written[-1].lsn


def fail_with(code: int) -> Callable[..., int]:
    """Return a function that raises that error of the operating system."""

    def fail(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail


# Beginning and appending


def test_log_begins_with_segment_one_of_the_cluster(open_log: OpenLog, log_path: Path) -> None:
    """A new log has one active segment, with the cluster's id, and ends behind its header."""
    log = open_log()
    header = read_header(log_path / ACTIVE_NAME)
    assert (header.segment_id, header.cluster_id, header.first_lsn) == (1, CLUSTER_ID, 1)
    assert log.position == LogPosition(1, SEGMENT_HEADER_BYTES, 0)
    assert log_path.joinpath(ACTIVE_NAME).stat().st_mode & 0o777 == 0o600


def test_log_unrecovered_has_no_position(open_log: OpenLog) -> None:
    """Nobody appends to a log that nobody recovered since boot."""
    log = open_log(recovered=False)
    with pytest.raises(WalError, match="not been recovered"):
        _ = log.position
    with pytest.raises(WalError):
        log.append(b"x", last_lsn=1)


def test_log_closed_twice_and_used_after_raises(open_log: OpenLog) -> None:
    """Closing is idempotent, and a closed log is not open."""
    log = open_log()
    log.close()
    log.close()
    with pytest.raises(RuntimeError):
        _ = log.control


def test_log_append_is_read_back_by_record_and_by_reader(open_log: OpenLog) -> None:
    """What was appended is found by place and in order."""
    log = open_log()
    written = append_commit(log, upload("a", b"abc"), upload("b", b"def"))
    written += append_commit(log, upload("c", b""))
    assert [raw_of(frame) for frame in log.read(after_lsn=0)] == [r.raw for r in written]
    for record in written:
        frame = log.read_record(segment_id=1, offset=record.offset, length=len(record.raw))
        assert raw_of(frame) == record.raw
    assert log.sync_count == 2


def test_log_read_record_from_sealed_segment(open_log: OpenLog) -> None:
    """A record stays where it was when its segment is sealed."""
    log = open_log()
    (record, _) = append_commit(log, upload("a", b"abc"))
    rotate(log)
    frame = log.read_record(segment_id=1, offset=record.offset, length=len(record.raw))
    assert bytes(frame.data) == b"abc"


def test_log_read_record_elsewhere_is_corrupt_or_a_gap(open_log: OpenLog) -> None:
    """A place that holds no record, and a segment that is not there, are told apart."""
    log = open_log()
    (record, _) = append_commit(log, upload("a", b"abc"))
    for off, more in ((1, 0), (0, 1), (0, -1), (1 << 20, 0)):
        with pytest.raises(WalCorruptError):
            log.read_record(segment_id=1, offset=record.offset + off, length=len(record.raw) + more)
    with pytest.raises(WalGapError):
        log.read_record(segment_id=2, offset=80, length=40)


def test_log_append_does_its_steps_in_order(open_log: OpenLog, log_path: Path) -> None:
    """Dirty before the write, the position only after the sync."""
    seen: list[tuple[str, bool, int]] = []

    def look(name: str) -> None:
        if logs:
            seen.append((name, logs[0].control.is_dirty, logs[0].position.lsn))

    logs: list[WriteAheadLog] = []
    log = open_log(on_step=look)
    logs.append(log)
    append_commit(log, upload("a", b"a"))
    assert seen == [
        ("log.dirty", True, 0),
        ("log.appended", True, 0),
        ("log.synced", True, 0),
        ("log.published", False, 2),
    ]


def test_log_publish_without_append_raises(open_log: OpenLog) -> None:
    """Nothing is published that was not appended."""
    log = open_log()
    with pytest.raises(RuntimeError):
        log.publish()
    append_commit(log, upload("a", b"a"))
    with pytest.raises(RuntimeError):
        log.publish()


@pytest.mark.parametrize("step", STEPS_OF_APPEND)
def test_log_append_died_at_each_step_is_rolled_forward(open_log: OpenLog, step: str) -> None:
    """A commit that was written whole is found by the next holder; before that, nothing is."""
    killer = Killer()
    log = open_log(on_step=killer)
    append_commit(log, upload("a", b"a"))
    killer.fatal = step
    with pytest.raises(_DeathError):
        append_commit(log, upload("b", b"b"))
    other = open_log(recovered=False)
    assert other.control.is_dirty == (step != "log.published")
    other.sync_active()
    reader = other.read(after_lsn=2, durable_lsn=2)
    assert lsns(reader) == ([] if step == "log.dirty" else [3, 4])
    other.control.reset(reader.end.position)
    append_commit(other, upload("c", b"c"))
    assert lsns(recover(other)) == list(range(1, other.position.lsn + 1))


def test_logs_of_two_processes_append_in_turn(open_log: OpenLog) -> None:
    """Each sees what the other appended, across rotations by either."""
    one, other = open_log(), open_log(recovered=False)
    for number in range(12):
        log = one if number % 2 else other
        append_commit(log, upload(f"{number}", b"x" * number))
        if number % 5 == 4:
            rotate(log)
        assert one.position == other.position
    assert lsns(recover(one)) == list(range(1, one.position.lsn + 1))


# Preallocation


def test_log_preallocates_ahead_of_the_tail(open_log: OpenLog, log_path: Path) -> None:
    """The file grows by whole steps of zeros, so that most syncs do not have to grow it."""
    log = open_log(preallocate_bytes=4096)
    sizes = set()
    for number in range(40):
        append_commit(log, [put_blob(b"x" * 200)])
        size = (log_path / ACTIVE_NAME).stat().st_size
        assert size >= log.position.offset
        sizes.add(size)
        assert number == 0 or not any((log_path / ACTIVE_NAME).read_bytes()[log.position.offset :])
    assert len(sizes) <= 4


def test_log_preallocates_no_further_than_the_segment(open_log: OpenLog, log_path: Path) -> None:
    """Zeros end where the segment is full; a larger write still fits."""
    log = open_log(preallocate_bytes=1 << 20, segment_bytes=8192)
    assert (log_path / ACTIVE_NAME).stat().st_size == 8192
    append_commit(log, [put_blob(b"x" * 10_000)])
    assert (log_path / ACTIVE_NAME).stat().st_size == log.position.offset


@pytest.mark.parametrize("preallocate_bytes", [0, 1, 79, 80, 81])
def test_log_with_little_preallocation_works(open_log: OpenLog, preallocate_bytes: int) -> None:
    """No amount of preallocation changes what is read."""
    log = open_log(preallocate_bytes=preallocate_bytes)
    for number in range(3):
        append_commit(log, upload(f"{number}", b"abc"))
        rotate(log)
    assert lsns(recover(log)) == list(range(1, 10))


def test_log_preallocates_after_another_process_grew_the_file(
    open_log: OpenLog, log_path: Path
) -> None:
    """A process that comes back does not overwrite what others appended meanwhile."""
    one, other = open_log(), open_log(recovered=False)
    append_commit(one, upload("a", b"a"))
    for number in range(30):
        append_commit(other, upload(f"b{number}", b"x" * 400))
    append_commit(one, upload("c", b"c"))
    assert lsns(recover(one)) == list(range(1, 65))


# No space


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


# Rotation


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
    with pytest.raises(_DeathError):
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
    with pytest.raises(_DeathError):
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
