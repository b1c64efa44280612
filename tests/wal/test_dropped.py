"""A log in which segments were dropped: listing, reading, recovering, and going on."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.core.errors import WalCorruptError, WalDroppedError
from dfs.services.restore import needs_restoring
from dfs.wal import segment as segment_module
from dfs.wal.frame import Frame
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome
from dfs.wal.record import DropSegment, decode_meta
from dfs.wal.segment import SEGMENT_HEADER_BYTES
from dfs.wal.stub import encode_stub
from tests.wal.conftest import OpenLog
from tests.wal.logs import (
    Written,
    append_commit,
    drop_of,
    lsns,
    place_stub,
    recover,
    rotate,
    upload,
)

SEGMENTS = 4


def fill(log: WriteAheadLog) -> list[list[Written]]:
    """Write sealed segments and an active one; return the records of each."""
    segments = []
    for number in range(SEGMENTS):
        written = [
            record
            for index in range(3)
            for record in append_commit(log, upload(f"{number}-{index}", os.urandom(2000)))
        ]
        segments.append(written if number == SEGMENTS - 1 else [*written, rotate(log)])
    return segments


def dropped_ids(frames: list[Frame]) -> list[int]:
    """Return the segments that the records of stubs name."""
    metas = [decode_meta(frame) for frame in frames]
    return [meta.segment_id for meta in metas if isinstance(meta, DropSegment)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    dropped=st.sets(st.integers(1, SEGMENTS - 1)),
    after=st.floats(0, 1),
    is_told=st.booleans(),
)
def test_log_with_stubs_reads_as_without_what_was_dropped(dropped, after, is_told) -> None:
    """Whatever was dropped, and wherever reading begins: all records of the other segments come,
    one for each stub, in order; and reading ends where the log does."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        log = WriteAheadLog(path=Path(name), segment_bytes=1 << 16, preallocate_bytes=4096)
        log.open()
        recover(log)
        segments = fill(log)
        end = log.position
        for segment in log.segments()[:-1]:
            if segment.header.segment_id in dropped:
                place_stub(segment)
        after_lsn = int(after * end.lsn)
        expected = [
            lsn
            for number, records in enumerate(segments, start=1)
            for lsn in (lsns(records[:1]) if number in dropped else lsns(records))
            if lsn > after_lsn
        ]
        reader = log.read(after_lsn=after_lsn, durable_lsn=end.lsn, until=end if is_told else None)
        assert lsns(list(reader)) == expected
        assert (reader.end.outcome, reader.end.position) == (Outcome.CLEAN_END, end)
        log.close()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    number=st.integers(1, SEGMENTS - 1),
    offset=st.integers(0, 200),
    harm=st.sampled_from(["flip", "cut", "longer"]),
)
def test_log_with_a_damaged_stub_is_refused(number, offset, harm) -> None:
    """Nothing that is behind a damaged stub is read, and its file is named."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        log = WriteAheadLog(path=Path(name), segment_bytes=1 << 16, preallocate_bytes=4096)
        log.open()
        recover(log)
        segments = fill(log)
        segment = log.segments()[number - 1]
        stub = bytearray(place_stub(segment))
        offset = min(offset, len(stub) - 1)
        if harm == "flip":
            stub[offset] ^= 0xFF
        elif harm == "cut":
            del stub[offset:]
        else:
            stub += bytes(offset + 1)
        segment.path.write_bytes(stub)
        assert needs_restoring(log.path) is not None
        if harm != "longer" and offset < SEGMENT_HEADER_BYTES:
            with pytest.raises(WalCorruptError) as refused:
                log.read(after_lsn=0)
            assert refused.value.context["path"] == segment.path
        else:
            reader = log.read(after_lsn=0, durable_lsn=log.position.lsn)
            assert lsns(list(reader)) == [
                lsn for done in segments[: number - 1] for lsn in lsns(done)
            ]
            assert (reader.end.outcome, reader.end.path) == (Outcome.CORRUPT, segment.path)
        log.close()


@pytest.mark.parametrize("change", [{"last_lsn": 6}, {"last_lsn": 8, "moved_lsn": 9}])
def test_stub_that_names_another_last_lsn_is_damage(open_log: OpenLog, change) -> None:
    """The header of the next segment says what the last LSN was."""
    log = open_log()
    fill(log)
    segment = log.segments()[0]
    assert segment.last_lsn == 7
    drop = drop_of(segment)
    fields = {name: getattr(drop, name) for name in drop.__struct_fields__}
    segment.path.write_bytes(encode_stub(segment.header, DropSegment(**fields | change)))
    assert log.segments()[0].is_cut
    assert needs_restoring(log.path) is not None
    reader = log.read(after_lsn=0, durable_lsn=log.position.lsn)
    list(reader)
    assert reader.end.outcome is Outcome.CORRUPT


def test_segments_lists_stubs_as_such(open_log: OpenLog) -> None:
    """A stub keeps its place in the chain, with the end that the segment had, and lacks nothing."""
    log = open_log()
    fill(log)
    before = log.segments()
    stub = place_stub(before[1])
    after = log.segments()
    assert [(s.header, s.end, s.last_lsn) for s in after] == [
        (s.header, s.end, s.last_lsn) for s in before
    ]
    assert [s.stub is not None for s in after] == [False, True, False, False]
    assert after[1].size_bytes == len(stub)
    assert not any(s.is_cut for s in after)
    assert needs_restoring(log.path) is None


def test_log_with_stubs_recovers_and_goes_on(open_log: OpenLog) -> None:
    """After a restart the log ends where it did, and takes the next records."""
    log = open_log()
    fill(log)
    end = log.position
    for segment in log.segments()[:2]:
        place_stub(segment)
    log.close()
    (log.path / "control").unlink()
    log = open_log()
    assert log.position == end
    more = append_commit(log, upload("more", b"more"))
    frames = recover(log)
    assert dropped_ids(frames) == [1, 2]
    assert frames[-1].lsn == more[-1].lsn == end.lsn + 2


def test_record_of_a_dropped_segment_is_read_by_who_has_it_open(open_log: OpenLog) -> None:
    """A process goes on reading the file that it holds; one that opens the stub is told."""
    log = open_log()
    record = fill(log)[0][0]
    place = {"segment_id": 1, "offset": record.offset, "length": len(record.raw)}
    frame = log.read_record(**place)
    stub = place_stub(log.segments()[0])
    assert log.read_record(**place).data == frame.data
    log.open_segments.clear()
    for length in (len(record.raw), len(stub) - SEGMENT_HEADER_BYTES):
        with pytest.raises(WalDroppedError):
            log.read_record(**place | {"length": length})


@pytest.mark.parametrize("by_writing", [False, True])
def test_files_that_were_replaced_are_closed_soon(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, by_writing: bool
) -> None:
    """A file without a name is given back to the disk when its time has come, no other one."""
    log = open_log()
    records = fill(log)
    held = [log.open_segments.get(number) for number in (1, 2)]
    place_stub(log.segments()[0])
    assert log.open_segments.get(1) is held[0]
    monkeypatch.setattr(segment_module.time, "monotonic", lambda: 1e12)
    if by_writing:
        append_commit(log, upload("more", b"more"))
        monkeypatch.undo()
    assert log.open_segments.get(2) is held[1]
    assert log.open_segments.get(1) is not held[0]
    record = records[0][0]
    assert held[0].read(record.offset, len(record.raw)) == record.raw
