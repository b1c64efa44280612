"""Repair: write, damage, see it broken, repair, read, append, read again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.core.errors import StorageError, WalCorruptError, WalGapError
from dfs.wal import repair
from dfs.wal.control import LogPosition
from dfs.wal.reader import Outcome
from dfs.wal.segment import (
    ACTIVE_NAME,
    DAMAGED_NAME,
    SEGMENT_HEADER_BYTES,
    encode_header,
    sealed_path,
)
from tests.wal.conftest import OpenLog
from tests.wal.logs import (
    Change,
    Commit,
    Written,
    append_commit,
    encode_commits,
    encode_segment,
    header_of,
    lsns,
    put_blob,
    put_file,
    raw_of,
    recover,
    rotate,
    upload,
)

Damage = Callable[[bytes], bytes]

SECTOR_BYTES = 512
COMMITS: list[Commit] = [
    [upload("one", b"1" * 300)],
    [upload("two", b"22"), [put_file("three")]],
    [[put_blob(b"f" * 40), put_file("four")]],
]
RECORDS = encode_commits(COMMITS)
LAST = next(record for record in reversed(RECORDS) if record.starts_commit)
KEPT = [record for record in RECORDS if record.lsn < LAST.lsn]
NEW_CHANGE: Change = upload("after the repair", b"new")


def write_log(directory: Path, data: bytes) -> None:
    """Make a log whose active segment holds these bytes and whose control file says nothing."""
    (directory / "segments").mkdir(parents=True, exist_ok=True)
    (directory / "control").unlink(missing_ok=True)
    (directory / ACTIVE_NAME).write_bytes(data)


def check_repair(
    open_log: OpenLog,
    log_path: Path,
    records: list[Written],
    damage: Damage,
    expected: list[Written],
    *,
    outcome: Outcome = Outcome.TORN_TAIL,
    zeros: int = 0,
) -> None:
    """Write the records, damage them, and hold that a repair leaves exactly those expected.

    After it new records can be appended, and nothing cut off comes back with them.
    """
    write_log(log_path, damage(encode_segment(records, zeros=zeros)))
    log = open_log(recovered=False)
    broken = log.read(after_lsn=0)
    raws = [record.raw for record in expected]
    assert [raw_of(frame) for frame in broken] == raws
    assert broken.end.outcome is outcome
    assert [raw_of(frame) for frame in recover(log)] == raws
    end = expected[-1].end if expected else SEGMENT_HEADER_BYTES
    assert log.position == LogPosition(1, end, len(expected))
    added = append_commit(log, NEW_CHANGE)
    log.close()
    (log_path / "control").unlink()
    again = open_log(recovered=False)
    reader = again.read(after_lsn=0)
    assert [raw_of(frame) for frame in reader] == [*raws, *(record.raw for record in added)]
    assert reader.end.outcome is Outcome.CLEAN_END
    assert not any((log_path / ACTIVE_NAME).read_bytes()[added[-1].end :])
    again.close()


def kept_before(size: int) -> list[Written]:
    """Return the whole changes among the records that end within the first `size` bytes."""
    kept = [record for record in RECORDS if record.end <= size]
    while kept and not kept[-1].ends_change:
        kept.pop()
    return kept


def test_repair_of_last_commit_cut_at_every_byte(open_log: OpenLog, log_path: Path) -> None:
    """Wherever the file ends, all whole changes before that stay, and log goes on from there."""
    for size in range(LAST.offset, RECORDS[-1].end):
        is_clean = size == LAST.offset
        check_repair(
            open_log,
            log_path,
            RECORDS,
            lambda data, size=size: data[:size],
            kept_before(size),
            outcome=Outcome.CLEAN_END if is_clean else Outcome.TORN_TAIL,
        )


def test_repair_of_last_record_cut_at_every_byte_with_zeros_behind(
    open_log: OpenLog, log_path: Path
) -> None:
    """The same where the segment is preallocated, so that zeros follow and not the end."""
    last = RECORDS[-1]
    for size in range(last.offset, last.end):
        check_repair(
            open_log,
            log_path,
            RECORDS,
            lambda data, size=size: data[:size] + bytes(len(data) - size),
            KEPT,
            zeros=100,
        )


def test_repair_of_segment_zeroed_from_each_sector_on(open_log: OpenLog, log_path: Path) -> None:
    """A tail of zeros from any sector on leaves the whole changes before it."""
    many = encode_commits([[upload(f"file {n}", b"x" * 90 * n)] for n in range(1, 12)])
    for sector in range(1, many[-1].end // SECTOR_BYTES + 1):
        size = sector * SECTOR_BYTES
        kept = [record for record in many if record.end <= size]
        while kept and not kept[-1].ends_change:
            kept.pop()
        check_repair(
            open_log,
            log_path,
            many,
            lambda data, size=size: data[:size] + bytes(len(data) - size),
            kept,
            outcome=Outcome.TORN_TAIL,
        )


@pytest.mark.parametrize("missing_sector", range(1, 4))
def test_repair_of_commit_that_lacks_one_sector(
    open_log: OpenLog, log_path: Path, missing_sector: int
) -> None:
    """A commit of several changes with a sector missing loses that change and all behind it."""
    first = encode_commits([[[put_blob(b"durable")]]])
    changes: list[Change] = [[put_blob(bytes([65 + n]) * 150)] for n in range(8)]
    commit = encode_commits([changes], first_lsn=2, offset=first[-1].end)
    start, stop = missing_sector * SECTOR_BYTES, (missing_sector + 1) * SECTOR_BYTES
    check_repair(
        open_log,
        log_path,
        [*first, *commit],
        lambda data: data[:start] + bytes(SECTOR_BYTES) + data[stop:],
        [*first, *(record for record in commit if record.end <= start)],
    )


@pytest.mark.parametrize("at", range(22))
def test_repair_of_flip_in_every_header_byte_of_the_last_commit(
    open_log: OpenLog, log_path: Path, at: int
) -> None:
    """Length, CRC32, LSN, type, flags, length of meta: a flip in any takes the commit away."""
    place = LAST.offset + at
    check_repair(
        open_log,
        log_path,
        RECORDS,
        lambda data: data[:place] + bytes([data[place] ^ 0x24]) + data[place + 1 :],
        KEPT,
        zeros=64,
    )


def test_repair_refuses_flip_in_every_byte_before_the_last_commit(
    open_log: OpenLog, log_path: Path
) -> None:
    """What was durable is not cut: the log stays as it is, byte for byte."""
    data = encode_segment(RECORDS, zeros=64)
    for at in range(SEGMENT_HEADER_BYTES, LAST.offset, 5):
        damaged = data[:at] + bytes([data[at] ^ 0x24]) + data[at + 1 :]
        write_log(log_path, damaged)
        log = open_log(recovered=False)
        with pytest.raises(WalCorruptError):
            recover(log)
        log.close()
        assert (log_path / ACTIVE_NAME).read_bytes() == damaged
        assert not (log_path / DAMAGED_NAME).exists()


def test_repair_refuses_to_cut_what_was_durable(open_log: OpenLog, log_path: Path) -> None:
    """A torn end below the LSN that the index has seen is corruption."""
    data = encode_segment(RECORDS)[:-1]
    write_log(log_path, data)
    log = open_log(recovered=False)
    with pytest.raises(WalCorruptError):
        recover(log, durable_lsn=RECORDS[-1].lsn)
    assert (log_path / ACTIVE_NAME).read_bytes() == data


def test_repair_refuses_a_missing_segment(open_log: OpenLog, log_path: Path) -> None:
    """A log with a hole is not mended by going on behind it."""
    log = open_log()
    for number in range(3):
        append_commit(log, upload(f"{number}", b""))
        rotate(log)
    log.close()
    sealed_path(log_path, 2).unlink()
    log = open_log(recovered=False)
    with pytest.raises(WalGapError, match="missing: 2"):
        recover(log)


def test_repair_refuses_damage_in_an_older_segment(open_log: OpenLog, log_path: Path) -> None:
    """Even the last record of a sealed segment is never cut."""
    log = open_log()
    append_commit(log, upload("a", b""))
    seal = rotate(log)
    append_commit(log, upload("b", b""))
    log.close()
    path = sealed_path(log_path, 1)
    data = bytearray(path.read_bytes())
    data[seal.end - 1] ^= 1
    path.write_bytes(data)
    log = open_log(recovered=False)
    with pytest.raises(WalCorruptError) as raised:
        recover(log)
    assert raised.value.context["path"] == path
    assert raised.value.context["offset"] == seal.offset


def test_repair_keeps_what_it_cuts(open_log: OpenLog, log_path: Path) -> None:
    """The bytes cut off lie in `damaged/` under a name that says where they were."""
    torn = LAST.raw[:-1]
    write_log(log_path, encode_segment(KEPT) + torn + bytes(1000))
    open_log()
    (kept,) = (log_path / DAMAGED_NAME).iterdir()
    assert kept.read_bytes() == torn.rstrip(b"\0")
    assert kept.name.startswith(f"0000000001-{LAST.offset}-")
    assert kept.stat().st_mode & 0o777 == 0o600


def test_repair_of_long_tail_keeps_all_of_it(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tail longer than one read of the copy is kept whole."""
    monkeypatch.setattr(repair, "COPY_BYTES", 100)
    tail = os.urandom(1234) + b"\x01"
    write_log(log_path, encode_segment(KEPT) + tail)
    position = LogPosition(1, KEPT[-1].end, KEPT[-1].lsn)
    kept = repair.cut_tail(log_path, log_path / ACTIVE_NAME, position)
    assert kept is not None
    assert kept.read_bytes() == tail
    assert (log_path / ACTIVE_NAME).read_bytes() == encode_segment(KEPT)


def test_repair_of_zeros_keeps_nothing(log_path: Path) -> None:
    """Zeros are cut without a copy."""
    write_log(log_path, encode_segment(KEPT, zeros=5000))
    position = LogPosition(1, KEPT[-1].end, KEPT[-1].lsn)
    assert repair.cut_tail(log_path, log_path / ACTIVE_NAME, position) is None
    assert (log_path / ACTIVE_NAME).read_bytes() == encode_segment(KEPT)
    assert not (log_path / DAMAGED_NAME).exists()


def test_repair_cuts_only_after_the_copy_is_durable(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order on disk: the copy and its name, then the cut, then the sync of the cut."""
    calls: list[str] = []
    for name in ("fsync", "ftruncate", "fdatasync"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1]
        )
    write_log(log_path, encode_segment(KEPT) + LAST.raw[:-1])
    position = LogPosition(1, KEPT[-1].end, KEPT[-1].lsn)
    repair.cut_tail(log_path, log_path / ACTIVE_NAME, position)
    cut = calls.index("ftruncate")
    assert calls[:cut].count("fsync") >= 2
    assert calls[cut + 1 :] == ["fsync"]


def test_repair_without_space_for_the_copy_cuts_nothing(
    log_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the cut bytes cannot be kept, the segment stays as it was."""

    def fail(fd: int, data: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = encode_segment(KEPT) + LAST.raw[:-1]
    write_log(log_path, data)
    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StorageError):
        repair.cut_tail(
            log_path, log_path / ACTIVE_NAME, LogPosition(1, KEPT[-1].end, KEPT[-1].lsn)
        )
    assert (log_path / ACTIVE_NAME).read_bytes() == data
    assert list((log_path / DAMAGED_NAME).iterdir()) == []


@pytest.mark.parametrize("lost", [1, 2])
def test_append_after_repair_brings_nothing_old_back(
    open_log: OpenLog, log_path: Path, lost: int
) -> None:
    """A new record of the very size of the torn one does not join with those that followed it."""
    first = encode_commits([[[put_blob(b"durable")]]])
    changes: list[Change] = [[put_blob(b"old %d" % number)] for number in range(4)]
    old = encode_commits([changes], first_lsn=2, offset=first[-1].end)
    data = bytearray(encode_segment([*first, *old], zeros=200))
    data[old[lost].offset + 30] ^= 1
    write_log(log_path, bytes(data))
    log = open_log()
    assert log.position.lsn == 1 + lost
    added = append_commit(log, [put_blob(b"new %d" % lost)])
    assert added[0].end == old[lost].end
    expected = [*first, *old[:lost], *added]
    log.close()
    (log_path / "control").unlink()
    log = open_log(recovered=False)
    assert [raw_of(frame) for frame in recover(log)] == [record.raw for record in expected]
    assert lsns(expected) == list(range(1, 3 + lost))


def test_repair_twice_is_repair_once(open_log: OpenLog, log_path: Path) -> None:
    """Recovering a recovered log changes nothing."""
    write_log(log_path, encode_segment(RECORDS)[:-1])
    log = open_log()
    once = (log_path / ACTIVE_NAME).read_bytes()
    position = log.position
    log.close()
    (log_path / "control").unlink()
    log = open_log()
    assert (log_path / ACTIVE_NAME).read_bytes() == once
    assert log.position == position
    assert len(list((log_path / DAMAGED_NAME).iterdir())) == 1


def test_repair_refuses_a_damaged_header(open_log: OpenLog, log_path: Path) -> None:
    """The header of the active segment was durable before its first record."""
    header = bytearray(encode_header(header_of()))
    header[20] ^= 1
    write_log(log_path, bytes(header) + encode_segment(RECORDS)[SEGMENT_HEADER_BYTES:])
    log = open_log(recovered=False)
    with pytest.raises(WalCorruptError):
        recover(log)
