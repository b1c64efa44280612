"""Stubs: what is one, and what a reader makes of segments that were dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag, encode_frame
from dfs.wal.reader import Outcome, SegmentReader
from dfs.wal.record import DropSegment, decode_meta, encode_meta
from dfs.wal.segment import SEGMENT_HEADER_BYTES, OpenSegment, SegmentHeader, encode_header
from dfs.wal.stub import STUB_BYTES_MAX, decode_stub, encode_stub
from tests.wal.golden import SPACE_PATH, STUB_NAME
from tests.wal.logs import (
    encode_commits,
    encode_segment,
    header_of,
    lsns,
    put_blob,
    put_file,
    read_segment,
    some_commits,
)

HEADER = header_of(3, first_lsn=11, previous_end=5000)
DROP = DropSegment(
    segment_id=3,
    first_lsn=11,
    last_lsn=29,
    end=70_000,
    sealed_at_ms=1_700_000_000_000,
    moved_lsn=44,
    dropped_at_ms=1_700_000_000_001,
)
STUB = encode_stub(HEADER, DROP)
BEGIN = LogPosition(3, SEGMENT_HEADER_BYTES, 10)
END = LogPosition(3, 70_000, 29)


def stub_of(
    drop: DropSegment = DROP,
    *,
    header: SegmentHeader = HEADER,
    lsn: int = 11,
    flags: int = Flag.COMMIT_START,
    data: bytes = b"",
) -> bytes:
    """Return a file that is laid out as a stub, whatever it says."""
    record_type, meta = encode_meta(drop)
    record = encode_frame(lsn=lsn, type=record_type, flags=flags, meta=meta, data=data)
    return encode_header(header) + record


def read(path: Path, data: bytes, *, start: LogPosition = BEGIN, stop: int | None = 70_000):
    """Return the records of a segment's file, and how reading it ended."""
    path.write_bytes(data)
    reader = SegmentReader(segment=OpenSegment(path), start=start, stop=stop, durable_lsn=29)
    return list(reader), reader.end


FORGERIES = {
    "another segment": stub_of(msgspec.structs.replace(DROP, segment_id=2)),
    "another first LSN": stub_of(msgspec.structs.replace(DROP, first_lsn=12)),
    "ends before it begins": stub_of(msgspec.structs.replace(DROP, last_lsn=10)),
    "moved before it ends": stub_of(msgspec.structs.replace(DROP, moved_lsn=28)),
    "too short to have a stub": stub_of(msgspec.structs.replace(DROP, end=STUB_BYTES_MAX)),
    "another LSN": stub_of(lsn=12),
    "other flags": stub_of(flags=Flag.NONE),
    "goes on": stub_of(flags=Flag.COMMIT_START | Flag.CONTINUES),
    "data": stub_of(data=b"x"),
    "header of another": stub_of(header=replace(HEADER, segment_id=4)),
    "zeros behind": STUB + bytes(1),
    "a record behind": STUB + STUB[SEGMENT_HEADER_BYTES:],
    "as long as a segment": stub_of(data=bytes(STUB_BYTES_MAX)),
    "no record": STUB[:SEGMENT_HEADER_BYTES],
    "an ordinary record": encode_segment(
        encode_commits([[[put_file("a")]]], first_lsn=11), segment_id=3, first_lsn=11
    ),
}


def test_stub_says_what_it_was_made_of() -> None:
    """Header and record come back as they were given, and where the segment ended."""
    stub = decode_stub(STUB)
    assert stub is not None
    assert (stub.header, stub.drop, stub.data, stub.end) == (HEADER, DROP, STUB, END)
    assert decode_meta(stub.frame) == DROP


@pytest.mark.parametrize("data", FORGERIES.values(), ids=FORGERIES)
def test_stub_that_breaks_a_rule_is_none(tmp_path: Path, data: bytes) -> None:
    """What only looks like a stub is damage to the reader: it gives nothing of it."""
    assert decode_stub(data) is None
    frames, end = read(tmp_path / "segment", data)
    assert end.outcome is Outcome.CORRUPT
    assert not any(getattr(decode_meta(frame), "segment_id", 0) == 3 for frame in frames)


def test_stub_damaged_anywhere_is_none() -> None:
    """Each flipped bit and each cut is noticed."""
    for offset in range(len(STUB)):
        for bit in range(8):
            flipped = STUB[offset] ^ (1 << bit)
            assert decode_stub(STUB[:offset] + bytes([flipped]) + STUB[offset + 1 :]) is None
        assert decode_stub(STUB[:offset]) is None


def test_stub_is_not_made_of_a_record_that_does_not_fit() -> None:
    """Whoever drops a segment by another one's record, or a tiny one, is told so at once."""
    for change in ({"segment_id": 2}, {"first_lsn": 12}, {"end": STUB_BYTES_MAX}, {"moved_lsn": 1}):
        with pytest.raises(ValueError, match="no reason to drop"):
            encode_stub(HEADER, msgspec.structs.replace(DROP, **change))


@pytest.mark.parametrize(
    ("end", "log_lsn", "is_enough"),
    [
        (END, 44, True),
        (END, 45, True),
        (END, 43, False),
        (structs.replace(END, offset=70_001), 44, False),
        (structs.replace(END, lsn=30), 44, False),
        (structs.replace(END, segment_id=4), 44, False),
    ],
)
def test_stub_is_enough_only_for_a_log_that_has_what_was_moved(end, log_lsn, is_enough) -> None:
    """It stands for the segment that ends there, in a log that reaches its `moved_lsn`."""
    stub = decode_stub(STUB)
    assert stub is not None
    assert stub.is_enough(end, log_lsn=log_lsn) is is_enough


def test_reading_a_stub_gives_its_record_and_the_end_of_the_segment(tmp_path: Path) -> None:
    """One record, with the first LSN; then the reader is where the segment ended."""
    frames, end = read(tmp_path / "segment", STUB)
    assert lsns(frames) == [11]
    assert decode_meta(frames[0]) == DROP
    assert (end.outcome, end.position) == (Outcome.CLEAN_END, END)


def test_reading_from_inside_a_segment_that_is_a_stub_gives_its_end(tmp_path: Path) -> None:
    """Who had read a part of the segment before it was dropped gets nothing more of it."""
    frames, end = read(tmp_path / "segment", STUB, start=LogPosition(3, 40_000, 20))
    assert frames == []
    assert (end.outcome, end.position) == (Outcome.CLEAN_END, END)


@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (BEGIN, 70_001),
        (BEGIN, 69_999),
        (structs.replace(BEGIN, lsn=9), 70_000),
        (structs.replace(BEGIN, lsn=11), 70_000),
        (structs.replace(BEGIN, segment_id=2), 70_000),
        (LogPosition(3, 40_000, 9), 70_000),
        (LogPosition(3, 40_000, 30), 70_000),
    ],
)
def test_reading_a_stub_that_belongs_elsewhere_is_corruption(tmp_path: Path, start, stop) -> None:
    """A stub does not stand for a segment that begins or ends in another place."""
    frames, end = read(tmp_path / "segment", STUB, start=start, stop=stop)
    assert frames == []
    assert end.outcome is Outcome.CORRUPT


def test_stub_in_the_place_of_the_newest_segment_is_not_read(tmp_path: Path) -> None:
    """Only a sealed segment can be dropped: nothing says where the newest one would end."""
    frames, end = read(tmp_path / "segment", STUB, stop=None)
    assert frames == []
    assert end.fault == "a segment that is no stub says that it was dropped"


@pytest.mark.parametrize(("named", "is_sound"), [(2, True), (3, False), (4, False)])
def test_segment_tells_only_of_older_ones_that_they_were_dropped(
    tmp_path: Path, named: int, is_sound: bool
) -> None:
    """In a segment that is whole the record is one among others, and names an older segment."""
    drop = msgspec.structs.replace(DROP, segment_id=named)
    commits = [[[put_file("a")]], [[(drop, b"")]], [[put_blob(b"content")]]]
    written = encode_commits(commits, first_lsn=11)
    data = encode_segment(written, segment_id=3, first_lsn=11)
    frames, end = read(tmp_path / "segment", data, stop=written[-1].end)
    assert lsns(frames) == ([11, 12, 13] if is_sound else [11])
    assert (end.outcome is Outcome.CLEAN_END) is is_sound


def test_short_segment_that_is_no_stub_stays_one(tmp_path: Path) -> None:
    """A segment of few bytes, which a stub is not longer than, is read as before."""
    written = encode_commits(some_commits(1))
    data = encode_segment(written)
    assert decode_stub(data) is None
    path = tmp_path / "segment"
    path.write_bytes(data)
    frames, end = read_segment(path, stop=written[-1].end)
    assert lsns(frames) == lsns(written)
    assert end.outcome is Outcome.CLEAN_END


def test_golden_stub_is_read_and_written_as_it_was() -> None:
    """The stub of a released format stays one, byte for byte."""
    data = (SPACE_PATH / STUB_NAME).read_bytes()
    stub = decode_stub(data)
    assert stub is not None
    assert stub.header.segment_id == 1
    assert encode_stub(stub.header, stub.drop) == data
