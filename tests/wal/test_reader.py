"""Reading: three outcomes, changes whole or not at all, and where reading begins and ends."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path

import pytest

from dfs.core.errors import (
    StoreUnavailableError,
    WalCorruptError,
    WalTornTailError,
)
from dfs.wal import reader as reader_module
from dfs.wal.control import LogPosition
from dfs.wal.frame import RECORD_BYTES_MAX, Flag, encode_frame
from dfs.wal.reader import Outcome, SegmentReader
from dfs.wal.segment import SEGMENT_HEADER_BYTES, OpenSegment
from tests.wal.logs import (
    Written,
    encode_commits,
    encode_segment,
    lsns,
    put_blob,
    raw_of,
    read_segment,
    some_commits,
    upload,
)

WRITTEN = encode_commits(some_commits(4))
LAST_COMMIT = next(record for record in reversed(WRITTEN) if record.starts_commit)


@pytest.fixture
def path(memory_path: Path) -> Path:
    """Return where the segment under test lies."""
    return memory_path


def damage(records: list[Written], at: int, patch: bytes, *, zeros: int = 64) -> bytes:
    """Return a segment of these records with some bytes overwritten."""
    data = encode_segment(records, zeros=zeros)
    return data[:at] + patch + data[at + len(patch) :]


@pytest.mark.parametrize("zeros", [0, 1, 21, 22, 4096, (1 << 20) + 5])
def test_reader_of_whole_segment_returns_all_records(path: Path, zeros: int) -> None:
    """Every record comes back as it was written; zeros behind the last one are a clean end."""
    path.write_bytes(encode_segment(WRITTEN, zeros=zeros))
    frames, end = read_segment(path)
    assert [raw_of(frame) for frame in frames] == [record.raw for record in WRITTEN]
    assert [(f.offset, f.length) for f in frames] == [(r.offset, len(r.raw)) for r in WRITTEN]
    assert (end.outcome, end.fault) == (Outcome.CLEAN_END, None)
    assert end.position == LogPosition(1, WRITTEN[-1].end, WRITTEN[-1].lsn)


def test_reader_of_empty_segment_ends_clean(path: Path) -> None:
    """A segment without records ends behind its header."""
    path.write_bytes(encode_segment([]))
    frames, end = read_segment(path)
    assert (frames, end.outcome) == ([], Outcome.CLEAN_END)
    assert end.position == LogPosition(1, SEGMENT_HEADER_BYTES, 0)


def test_reader_end_before_reading_raises(path: Path) -> None:
    """Nobody may ask how reading ended before it did."""
    path.write_bytes(encode_segment(WRITTEN))
    start = LogPosition(1, SEGMENT_HEADER_BYTES, 0)
    reader = SegmentReader(segment=OpenSegment(path), start=start, stop=None, durable_lsn=0)
    next(iter(reader))
    with pytest.raises(RuntimeError):
        _ = reader.end


@pytest.mark.parametrize("size", [1, 40, 1 << 10])
def test_reader_with_small_window_returns_all_records(
    path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Records are put together however the reads fall."""
    monkeypatch.setattr(reader_module, "READ_BYTES", size)
    path.write_bytes(encode_segment(WRITTEN, zeros=100))
    frames, end = read_segment(path)
    assert [raw_of(frame) for frame in frames] == [record.raw for record in WRITTEN]
    assert end.outcome is Outcome.CLEAN_END


def test_reader_of_large_records_returns_all(path: Path) -> None:
    """Records longer than the window, and views into past windows, stay right."""
    contents = [bytes([number]) * (1 << 20) for number in range(4)]
    written = encode_commits([[[put_blob(content)]] for content in contents])
    path.write_bytes(encode_segment(written))
    frames, end = read_segment(path)
    assert [bytes(frame.data) for frame in frames] == contents
    assert end.outcome is Outcome.CLEAN_END


def test_reader_starting_between_changes_returns_the_rest(path: Path) -> None:
    """Reading may begin behind any change."""
    path.write_bytes(encode_segment(WRITTEN))
    for index, record in enumerate(WRITTEN):
        if record.ends_change:
            start = LogPosition(1, record.end, record.lsn)
            reader = SegmentReader(segment=OpenSegment(path), start=start, stop=None, durable_lsn=0)
            assert lsns(reader) == lsns(WRITTEN[index + 1 :])


def test_reader_starting_behind_the_end_is_corrupt(path: Path) -> None:
    """A segment shorter than a place that was durable has lost something."""
    path.write_bytes(encode_segment(WRITTEN))
    start = LogPosition(1, WRITTEN[-1].end + 1, 99)
    reader = SegmentReader(segment=OpenSegment(path), start=start, stop=None, durable_lsn=0)
    assert list(reader) == []
    assert reader.end.outcome is Outcome.CORRUPT


def test_reader_of_open_change_returns_none_of_it(path: Path) -> None:
    """A change whose last record is missing does not happen; the one before it does."""
    first, second = encode_commits([[[put_blob(b"a")]], [upload("b", b"b")]])[:2]
    for zeros in (0, 100):
        path.write_bytes(encode_segment([first, second], zeros=zeros))
        frames, end = read_segment(path)
        assert lsns(frames) == [1]
        assert end.outcome is Outcome.TORN_TAIL
        assert end.fault == "the last change lacks its end"
        assert end.position == LogPosition(1, first.end, 1)


@pytest.mark.parametrize("at", range(4))
def test_reader_of_damaged_change_returns_none_of_it(path: Path, at: int) -> None:
    """Damage to any record of a change of four takes all four away, and the change before stays."""
    change = [put_blob(b"b%d" % number) for number in range(4)]
    written = encode_commits([[[put_blob(b"a")], change]])
    path.write_bytes(damage(written, written[1 + at].end - 1, b"\xff"))
    frames, end = read_segment(path)
    assert lsns(frames) == [1]
    assert (end.outcome, end.position.lsn) == (Outcome.TORN_TAIL, 1)
    assert end.fault_offset == written[1 + at].offset


def test_reader_with_damage_before_a_later_commit_is_corrupt(path: Path) -> None:
    """A byte flipped anywhere before the last commit is corruption; within it, a torn tail."""
    data = encode_segment(WRITTEN, zeros=32)
    for at in range(SEGMENT_HEADER_BYTES, WRITTEN[-1].end):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        frames, end = read_segment(path)
        torn = at >= LAST_COMMIT.offset
        assert end.outcome is (Outcome.TORN_TAIL if torn else Outcome.CORRUPT), at
        hit = next(record for record in WRITTEN if record.offset <= at < record.end)
        whole = [r for r in WRITTEN if r.lsn < hit.lsn]
        while whole and not whole[-1].ends_change:
            whole.pop()
        assert lsns(frames) == lsns(whole)
        assert end.position.lsn == (whole[-1].lsn if whole else 0)


@pytest.mark.parametrize("durable_lsn", [WRITTEN[-1].lsn, LAST_COMMIT.lsn])
def test_reader_with_damage_up_to_the_durable_lsn_is_corrupt(path: Path, durable_lsn: int) -> None:
    """What is known to have been durable is never a torn write."""
    path.write_bytes(damage(WRITTEN, LAST_COMMIT.offset + 30, b"\xff\xff"))
    assert read_segment(path, durable_lsn=durable_lsn)[1].outcome is Outcome.CORRUPT
    below = LAST_COMMIT.lsn - 1
    assert read_segment(path, durable_lsn=below)[1].outcome is Outcome.TORN_TAIL


def test_reader_with_stop_never_reads_behind_it(path: Path) -> None:
    """Valid records and garbage behind the stop do not exist for the reader."""
    stop = WRITTEN[3].end
    for tail in (b"", b"\xff" * 100):
        path.write_bytes(encode_segment(WRITTEN) + tail)
        frames, end = read_segment(path, stop=stop)
        assert lsns(frames) == [1, 2, 3, 4]
        assert (end.outcome, end.position.offset) == (Outcome.CLEAN_END, stop)


@pytest.mark.parametrize("off", [-30, -1, 1, 30])
def test_reader_with_stop_elsewhere_is_corrupt(path: Path, off: int) -> None:
    """A segment that does not end exactly where it must is damaged."""
    path.write_bytes(encode_segment(WRITTEN, zeros=100))
    frames, end = read_segment(path, stop=WRITTEN[-1].end + off)
    assert end.outcome is Outcome.CORRUPT
    assert len(frames) <= len(WRITTEN)


def test_reader_with_stop_behind_the_file_is_corrupt(path: Path) -> None:
    """A sealed segment cut at any byte is damaged, at a boundary of records, too."""
    data = encode_segment(WRITTEN)
    for size in range(SEGMENT_HEADER_BYTES, len(data)):
        path.write_bytes(data[:size])
        frames, end = read_segment(path, stop=len(data))
        assert end.outcome is Outcome.CORRUPT
        assert lsns(frames) == lsns([r for r in WRITTEN if r.lsn <= end.position.lsn])


@pytest.mark.parametrize("length", [1, 13, (16 << 20) - 7, 0x7FFFFFFF, 0xFFFFFFFF])
def test_reader_with_forged_length_takes_no_memory_for_it(
    path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A length that cannot be is refused before anything of that size is read."""
    sizes: list[int] = []
    real_pread = os.pread

    def pread(fd: int, size: int, offset: int) -> bytes:
        sizes.append(size)
        return real_pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    path.write_bytes(damage(WRITTEN, LAST_COMMIT.offset, struct.pack("<I", length)))
    frames, end = read_segment(path)
    assert lsns(frames) == lsns([r for r in WRITTEN if r.lsn < LAST_COMMIT.lsn])
    assert end.outcome is Outcome.TORN_TAIL
    assert max(sizes) <= reader_module.READ_BYTES


def test_reader_of_record_over_the_limit_stops(path: Path) -> None:
    """A record one byte longer than any may be is none, even if it is all there."""
    covered = struct.pack("<QBBI", 1, 1, 2, 0) + bytes(RECORD_BYTES_MAX - 8 - 14 + 1)
    record = struct.pack("<II", len(covered), zlib.crc32(covered)) + covered
    path.write_bytes(encode_segment([]) + record)
    frames, end = read_segment(path)
    assert (frames, end.outcome) == ([], Outcome.TORN_TAIL)
    assert end.fault == f"no record has a length of {len(covered)}"


def test_reader_with_length_forged_into_the_next_record_is_corrupt(path: Path) -> None:
    """A length that swallows the next record does not fit the CRC32."""
    first, second = WRITTEN[0], WRITTEN[1]
    length = struct.pack("<I", len(first.raw) + len(second.raw) - 8)
    path.write_bytes(damage(WRITTEN, first.offset, length))
    frames, end = read_segment(path)
    assert (frames, end.outcome) == ([], Outcome.CORRUPT)


@pytest.mark.parametrize("lsn", [0, 1, 3, 2**64 - 1])
def test_reader_with_valid_record_of_another_lsn_stops(path: Path, lsn: int) -> None:
    """A record with a right CRC32 and the wrong LSN is not the one expected."""
    first = encode_commits([[[put_blob(b"a")]]])
    other = encode_frame(lsn=lsn, type=1, flags=0, meta=b"\x80")
    path.write_bytes(encode_segment(first) + other)
    frames, end = read_segment(path)
    assert lsns(frames) == [1]
    assert end.fault == f"LSN {lsn} stands where 2 belongs"
    assert end.outcome is Outcome.TORN_TAIL


def test_reader_with_meta_longer_than_the_record_stops(path: Path) -> None:
    """A meta length that goes on behind the record is refused under a right CRC32."""
    covered = struct.pack("<QBBI", 1, 2, 2, 100) + b"x" * 10
    record = struct.pack("<II", len(covered), zlib.crc32(covered)) + covered
    path.write_bytes(encode_segment([]) + record + bytes(200))
    frames, end = read_segment(path)
    assert (frames, end.outcome) == ([], Outcome.TORN_TAIL)
    assert end.fault is not None
    assert "meta" in end.fault


@pytest.mark.parametrize("flags", [Flag.COMMIT_START, Flag.COMMIT_START | Flag.CONTINUES, 0x82])
@pytest.mark.parametrize("first_lsn", [1, (1 << 24) - 2, (1 << 40) - 2])
def test_reader_finds_a_later_commit_with_any_flags_and_lsn(
    path: Path, flags: int, first_lsn: int
) -> None:
    """The proof of durability is found where the upper bytes of the LSN change, too."""
    records = [
        encode_frame(lsn=first_lsn + n, type=9, flags=flags, meta=b"\x80" * 5) for n in range(4)
    ]
    data = encode_segment([], first_lsn=first_lsn) + b"".join(records)
    at = SEGMENT_HEADER_BYTES + 25
    path.write_bytes(data[:at] + b"\x81" + data[at + 1 :])
    assert read_segment(path, first_lsn=first_lsn)[1].outcome is Outcome.CORRUPT


def test_reader_finds_a_later_commit_across_pieces_of_the_search(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that lies across two pieces of the search, at any place, is found."""
    later = encode_frame(lsn=9, type=1, flags=Flag.COMMIT_START, meta=b"m" * 20)
    monkeypatch.setattr(reader_module, "READ_BYTES", 128)
    monkeypatch.setattr(reader_module, "SEARCH_BYTES", 128)
    monkeypatch.setattr(reader_module, "RECORD_BYTES_MAX", len(later))
    for gap in range(1, 300):
        path.write_bytes(encode_segment([]) + b"\x01" * gap + later + bytes(40))
        assert read_segment(path)[1].outcome is Outcome.CORRUPT, gap


def test_reader_does_not_take_older_commits_for_later_ones(path: Path) -> None:
    """Stale commits of lower LSNs behind a torn record prove nothing."""
    stale = b"".join(record.raw for record in WRITTEN)
    torn = bytearray(encode_commits(some_commits(1), first_lsn=WRITTEN[-1].lsn + 1)[0].raw)
    torn[-1] ^= 1
    path.write_bytes(encode_segment(WRITTEN) + torn + stale)
    frames, end = read_segment(path)
    assert (lsns(frames), end.outcome) == (lsns(WRITTEN), Outcome.TORN_TAIL)


def test_reader_with_failing_disk_raises_storage_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input/output error is neither an end nor damage."""

    def fail(fd: int, size: int, offset: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    path.write_bytes(encode_segment(WRITTEN))
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(StoreUnavailableError):
        read_segment(path)


def test_reader_of_segment_that_shrinks_is_corrupt(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file cut while it is read is no clean end."""
    path.write_bytes(encode_segment(WRITTEN))
    real_pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real_pread(fd, size, at)[:-1])
    with pytest.raises(WalCorruptError, match="shorter"):
        read_segment(path)


def test_read_end_error_says_where_and_what_to_do(path: Path) -> None:
    """The error of an end names file, offset and the first lost LSN."""
    path.write_bytes(damage(WRITTEN, LAST_COMMIT.offset + 30, b"\xff\xff"))
    torn = read_segment(path)[1].error()
    assert isinstance(torn, WalTornTailError)
    corrupt = read_segment(path, durable_lsn=99)[1].error()
    assert isinstance(corrupt, WalCorruptError)
    for error in (torn, corrupt):
        assert error.hint
        assert error.context == {
            "path": path,
            "offset": LAST_COMMIT.offset,
            "first_lost_lsn": LAST_COMMIT.lsn,
        }
