"""What remains of a segment that was dropped: its header and the record DropSegment.

The rules are in `dfs.wal`. A stub keeps the chain of headers whole; whether it can stand for the
segment depends on how far the log goes: `Stub.is_enough`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dfs.core.errors import WalCorruptError, WalFormatError
from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag, Frame, decode_frame, encode_frame
from dfs.wal.record import DropSegment, RecordType, decode_meta, encode_meta
from dfs.wal.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentBytes,
    SegmentHeader,
    decode_header,
    encode_header,
)

STUB_BYTES_MAX = 4096
"""A stub takes less, and its segment took more. So much of a file is read to tell what it is."""


@dataclass(frozen=True, slots=True)
class Stub:
    """A stub, and what it says.

    Attributes:
        data: the whole file.
        frame: its one record. drop: what that says.
    """

    data: bytes
    header: SegmentHeader
    frame: Frame
    drop: DropSegment

    @property
    def end(self) -> LogPosition:
        """Where the segment ended."""
        return LogPosition(self.drop.segment_id, self.drop.end, self.drop.last_lsn)

    def is_enough(self, end: LogPosition, *, log_lsn: int) -> bool:
        """Tell whether the stub can stand for the segment.

        Args:
            end: where the segment ends, as the next one's header says.
            log_lsn: of the last record of the log that the segment is part of.
        """
        return self.end == end and self.drop.moved_lsn <= log_lsn


def encode_stub(header: SegmentHeader, drop: DropSegment) -> bytes:
    """Return the stub of the segment with that header.

    Raises:
        ValueError: the record is another segment's; or the segment is too short to have a stub.
    """
    record_type, meta = encode_meta(drop)
    record = encode_frame(
        lsn=header.first_lsn, type=record_type, flags=Flag.COMMIT_START, meta=meta
    )
    data = encode_header(header) + record
    if decode_stub(data) is None:
        raise ValueError(f"{drop} is no reason to drop the segment of {header}")
    return data


def decode_stub(data: bytes) -> Stub | None:
    """Return the stub that these bytes are as a whole; None if they are none."""
    try:
        header = decode_header(data, path=Path())
        frame = decode_frame(
            memoryview(data)[SEGMENT_HEADER_BYTES:],
            segment_id=header.segment_id,
            offset=SEGMENT_HEADER_BYTES,
        )
        drop = decode_meta(frame)
    except (WalCorruptError, WalFormatError):
        return None
    if not isinstance(drop, DropSegment):
        return None
    is_own = (
        header.segment_id == drop.segment_id
        and header.first_lsn == frame.lsn == drop.first_lsn <= drop.last_lsn <= drop.moved_lsn
        and frame.flags == Flag.COMMIT_START
        and not frame.data
        and len(data) < STUB_BYTES_MAX < drop.end
    )
    return Stub(data, header, frame, drop) if is_own else None


def read_stub(segment: SegmentBytes) -> Stub | None:
    """Return the stub that a segment is; None if it is none. Raises StorageError."""
    if segment.size() >= STUB_BYTES_MAX:
        return None
    return decode_stub(segment.read(0, STUB_BYTES_MAX))


def find_stub(segment: SegmentBytes, start: LogPosition, stop: int | None) -> Stub | None:
    """Return the stub of a segment in which `start` is a place, and which ended at `stop`.

    Returns:
        None if it is no stub, or that of another segment. Raises StorageError.
    """
    stub = read_stub(segment)
    if stub is None or (stub.end.segment_id, stub.end.offset) != (start.segment_id, stop):
        return None
    before_lsn = stub.header.first_lsn - 1
    is_begin = start.offset == SEGMENT_HEADER_BYTES
    is_inside = before_lsn <= start.lsn <= (before_lsn if is_begin else stub.end.lsn)
    return stub if is_inside else None


def names_older(frame: Frame) -> bool:
    """Tell whether a DropSegment names an older segment, as it must outside of a stub.

    One that cannot be understood is not judged here: whoever wants to know what it says finds out.
    """
    try:
        drop = decode_meta(frame)
    except (WalCorruptError, WalFormatError):
        return True
    return not isinstance(drop, DropSegment) or drop.segment_id < frame.segment_id


def read_frame(segment: SegmentBytes, *, segment_id: int, offset: int, length: int) -> Frame:
    """Read one record. That of a stub is never the one meant, even if it lies in the same place.

    Raises:
        WalCorruptError: no record of that length lies there.
        StorageError.
    """
    data = segment.read(offset, length)
    frame = decode_frame(memoryview(data), segment_id=segment_id, offset=offset)
    if frame.type == RecordType.DROP_SEGMENT:
        raise WalCorruptError("Another record lies there.", segment_id=segment_id, offset=offset)
    return frame
