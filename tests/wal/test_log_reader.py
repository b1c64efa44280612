"""Reading across segments: from any LSN, up to any place, with damage in any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfs.core.errors import (
    WalGapError,
)
from dfs.wal.reader import LogReader, Outcome
from dfs.wal.segment import SEGMENT_HEADER_BYTES
from tests.wal.conftest import OpenLog
from tests.wal.logs import (
    Written,
    append_commit,
    encode_commits,
    encode_segment,
    lsns,
    put_blob,
    rotate,
    upload,
)


def fill(open_log: OpenLog, segments: int) -> tuple[object, list[Written]]:
    """Return a log of so many segments of two commits each, and its records."""
    log = open_log()
    written: list[Written] = []
    for number in range(segments):
        written += append_commit(log, upload(f"a{number}", b"aaa"), upload(f"b{number}", b"b"))
        written += append_commit(log, upload(f"c{number}", b"c" * 100))
        if number < segments - 1:
            written.append(rotate(log))
    return log, written


def test_log_reader_returns_all_segments_from_any_lsn(open_log: OpenLog) -> None:
    """Reading behind an LSN gives exactly those above it, wherever that lies."""
    log, written = fill(open_log, 3)
    for after_lsn in range(written[-1].lsn + 1):
        reader = log.read(after_lsn=after_lsn)
        assert lsns(reader) == list(range(after_lsn + 1, written[-1].lsn + 1))
        assert reader.end.outcome is Outcome.CLEAN_END
        assert reader.end.position == log.position


def test_log_reader_until_any_position_stops_there(open_log: OpenLog) -> None:
    """A reader without the lock reads up to a place that was the end, in sealed segments, too."""
    log = open_log()
    positions = [log.position]
    for number in range(6):
        append_commit(log, upload(f"f{number}", b"x"))
        positions.append(log.position)
        if number % 2:
            rotate(log)
            positions.append(log.position)
    for until in positions:
        for after_lsn in (0, 3, 5, until.lsn, until.lsn + 1, until.lsn + 50):
            reader = log.read(after_lsn=after_lsn, until=until)
            assert lsns(reader) == list(range(after_lsn + 1, until.lsn + 1))
            assert (reader.end.outcome, reader.end.position) == (Outcome.CLEAN_END, until)


def test_log_reader_until_does_not_see_an_unfinished_write(open_log: OpenLog) -> None:
    """What is appended and not published does not exist for a reader without the lock."""
    log = open_log()
    append_commit(log, upload("a", b"a"))
    until = log.position
    log.append(b"half a record", last_lsn=99)
    reader = log.read(after_lsn=0, until=until)
    assert lsns(reader) == [1, 2]
    assert reader.end.position == until


def test_log_reader_behind_what_is_left_is_a_gap(open_log: OpenLog) -> None:
    """Records older than the first segment present are missing, and newer ones are not given."""
    log, written = fill(open_log, 3)
    segments = log.segments()[1:]
    reader = LogReader(
        segments=segments,
        open_segment=log.open_segments.get,
        known=None,
        after_lsn=0,
        durable_lsn=0,
        until=None,
    )
    with pytest.raises(WalGapError):
        next(iter(reader))
    assert written


@pytest.mark.parametrize("number", [1, 2])
def test_log_reader_with_damage_in_an_older_segment_is_corrupt(
    open_log: OpenLog, number: int
) -> None:
    """A flipped byte of a sealed segment is corruption, and nothing behind it is returned."""
    log, written = fill(open_log, 3)
    segment = log.segments()[number - 1]
    assert segment.end is not None
    data = segment.path.read_bytes()
    for at in range(SEGMENT_HEADER_BYTES, segment.end, 7):
        segment.path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        reader = log.read(after_lsn=0)
        got = lsns(reader)
        assert reader.end.outcome is Outcome.CORRUPT
        assert got == lsns(written[: len(got)])
        assert got[-1:] != [segment.last_lsn]
        assert reader.end.path == segment.path


def test_log_reader_with_segment_of_too_few_records_is_corrupt(
    open_log: OpenLog, log_path: Path
) -> None:
    """A segment that reads clean and does not reach the LSN it should ends the reading."""
    log, _ = fill(open_log, 2)
    segments = log.segments()
    sealed = encode_commits([[[put_blob(b"x" * 10)]]])
    segments[0].path.write_bytes(encode_segment(sealed))
    short = type(segments[0])(segments[0].path, segments[0].header, sealed[0].end, 8)
    reader = LogReader(
        segments=[short, segments[1]],
        open_segment=log.open_segments.get,
        known=None,
        after_lsn=0,
        durable_lsn=0,
        until=None,
    )
    assert lsns(reader) == [1]
    assert reader.end.outcome is Outcome.CORRUPT
    assert reader.end.fault == "a segment ends at LSN 1 and not at 8"
