"""The log: beginning, appending, publishing, preallocating."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs.core.errors import (
    WalCorruptError,
    WalError,
    WalGapError,
)
from dfs.wal import control
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog
from dfs.wal.segment import (
    ACTIVE_NAME,
    SEGMENT_HEADER_BYTES,
    read_header,
)
from tests.wal.conftest import OpenLog
from tests.wal.logs import (
    CLUSTER_ID,
    DeathError,
    Killer,
    append_commit,
    lsns,
    put_blob,
    raw_of,
    recover,
    rotate,
    upload,
)

STEPS_OF_APPEND = ["log.dirty", "log.appended", "log.synced", "log.published"]


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


def test_log_closed_during_a_change_lets_it_end(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written then would else fall on a file that has the same descriptor by now."""
    monkeypatch.setattr(control, "CLOSE_WAIT_S", 0.1)
    log = open_log()
    with log.lock():
        log.close()
        written = append_commit(log, upload("a", b"abc"))
        assert [raw_of(frame) for frame in log.read(after_lsn=0)] == [r.raw for r in written]
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
    with pytest.raises(DeathError):
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


def test_log_preallocates_nothing_of_the_reserve(open_log: OpenLog, log_path: Path) -> None:
    """Neither behind a record nor in a new segment: zeros are not worth the last room."""
    log = open_log(preallocate_bytes=1 << 20, reserve_bytes=1 << 62)
    for number in range(3):
        append_commit(log, upload(f"{number}", b"abc"))
        assert (log_path / ACTIVE_NAME).stat().st_size == log.position.offset
        rotate(log)
        assert (log_path / ACTIVE_NAME).stat().st_size == log.position.offset
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
