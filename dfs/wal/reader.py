"""Reading the log: the one iterator that recovery, inspection, rebuild and replication share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from dfs.core.checksum import crc32
from dfs.core.errors import WalCorruptError, WalGapError, WalTornTailError
from dfs.wal.control import LogPosition
from dfs.wal.frame import (
    COVERED_BYTES_MIN,
    FRAME_HEADER_BYTES,
    HEADER,
    PREFIX,
    RECORD_BYTES_MAX,
    Flag,
    Frame,
)
from dfs.wal.layout import COPY_HINT, SegmentFile
from dfs.wal.record import RecordType
from dfs.wal.segment import SEGMENT_HEADER_BYTES, OpenSegment, SegmentBytes
from dfs.wal.stub import find_stub, names_older

READ_BYTES = 1 << 20
SEARCH_BYTES = 4 * RECORD_BYTES_MAX
LSN_SPAN_MAX = 1 << 26
"""More records than a segment holds."""
_CONTINUES = int(Flag.CONTINUES)  # an enum's own `&` costs more than all else a record needs
_COMMIT_START = int(Flag.COMMIT_START)
_DROP_SEGMENT = int(RecordType.DROP_SEGMENT)


class Outcome(Enum):
    """How reading a segment ended."""

    CLEAN_END = "clean"
    """Every record up to the end was valid; behind it are zeros, or nothing."""
    TORN_TAIL = "torn"
    """The newest segment ends in bytes of a write that was never acknowledged: repair cuts them."""
    CORRUPT = "corrupt"
    """Bytes that were durable are damaged: only a copy of the segment mends this."""


@dataclass(frozen=True, slots=True)
class ReadEnd:
    """Where and how reading ended.

    Attributes:
        position: behind the last whole change.
        fault: what is wrong there, and None at a clean end.
        fault_offset: of the record that is not valid.
    """

    outcome: Outcome
    path: Path
    position: LogPosition
    fault: str | None = None
    fault_offset: int | None = None

    def error(self) -> WalTornTailError | WalCorruptError:
        """Return the error that says what is wrong. Only for an end that is not clean."""
        kind = WalTornTailError if self.outcome is Outcome.TORN_TAIL else WalCorruptError
        hint = (
            "The next start of dfs keeps these bytes aside and cuts them off."
            if kind is WalTornTailError
            else "Restore this file from a copy of the log; dfs never skips records."
        )
        return kind(
            f"The log is damaged: {self.fault}.",
            hint=hint,
            path=self.path,
            offset=self.fault_offset,
            first_lost_lsn=self.position.lsn + 1,
        )


class _InvalidRecordError(Exception):
    """What stands where a record belongs is none. Stays inside this module."""


class SegmentReader:
    """Iterates over the valid records of one segment, in order, and then knows its `end`.

    The records of a change come only when all of them are there. What follows a record that is not
    valid is never returned. Of a stub, its one record comes, if reading begins before it; the end
    is that of the segment.

    Args:
        start: where to begin: behind the header, or any place between two changes.
        stop: offset at which the segment ends: named by the header of the next segment, or by the
            control file. None for the newest segment, whose end is to be found.
        durable_lsn: records up to this one are known to have been durable, so that damage to them
            is corruption, never a torn write.

    Attributes:
        stub: what stands for the segment, if it was dropped.
    """

    def __init__(
        self, *, segment: SegmentBytes, start: LogPosition, stop: int | None, durable_lsn: int
    ) -> None:
        self._segment = segment
        self._path = segment.path
        self._position = start
        self._stop = stop
        self._durable_lsn = durable_lsn
        self._file_end = segment.size()
        self._limit = self._file_end if stop is None else min(stop, self._file_end)
        is_cut = stop is not None and self._file_end < stop
        self.stub = find_stub(segment, start, stop) if is_cut else None
        self._end: ReadEnd | None = None
        self._window = memoryview(b"")
        self._window_offset = start.offset

    @property
    def end(self) -> ReadEnd:
        """How reading ended. Only after the iterator is exhausted."""
        if self._end is None:
            raise RuntimeError("the segment has not been read to its end yet")
        return self._end

    def __iter__(self) -> Iterator[Frame]:
        if self.stub is not None:
            if self._position.offset == SEGMENT_HEADER_BYTES:
                yield self.stub.frame
            self._end = ReadEnd(Outcome.CLEAN_END, self._path, self.stub.end)
            return
        if self._position.offset > self._file_end:
            self._end = ReadEnd(
                Outcome.CORRUPT,
                self._path,
                self._position,
                "the segment is shorter than it was",
                self._file_end,
            )
            return
        change: list[Frame] = []
        offset, lsn = self._position.offset, self._position.lsn
        fault = None
        try:
            while (frame := self._next(offset, lsn + 1)) is not None:
                change.append(frame)
                offset, lsn = offset + frame.length, frame.lsn
                if not frame.flags & _CONTINUES:
                    self._position = LogPosition(frame.segment_id, offset, lsn)
                    yield from change
                    change.clear()
            if change:
                fault = "the last change lacks its end"
        except _InvalidRecordError as error:
            fault = str(error)
        self._end = self._judge(fault, offset)

    def _next(self, offset: int, lsn: int) -> Frame | None:
        """Return the record at `offset`, which must have that LSN, or None at a clean end."""
        if offset + FRAME_HEADER_BYTES > self._limit:
            self._require_zeros(offset)
            return None
        at = self._load(offset, FRAME_HEADER_BYTES)
        length, stored_crc, record_lsn, type_, flags, meta_length = HEADER.unpack_from(
            self._window, at
        )
        if length == 0:
            self._require_zeros(offset)
            return None
        size = PREFIX.size + length
        if length < COVERED_BYTES_MIN or size > RECORD_BYTES_MAX:
            raise _InvalidRecordError(f"no record has a length of {length}")
        if offset + size > self._limit:
            raise _InvalidRecordError("a record goes on behind the end of the segment")
        at = self._load(offset, size)
        window, end = self._window, at + size
        if crc32(window[at + PREFIX.size : end]) != stored_crc:
            raise _InvalidRecordError("the CRC32 of a record does not fit")
        if record_lsn != lsn:
            raise _InvalidRecordError(f"LSN {record_lsn} stands where {lsn} belongs")
        meta_at = at + FRAME_HEADER_BYTES
        data_at = meta_at + meta_length
        if data_at > end:
            raise _InvalidRecordError("the meta of a record is longer than the record")
        frame = Frame(
            self._position.segment_id,
            offset,
            size,
            record_lsn,
            type_,
            flags,
            window[meta_at:data_at].tobytes(),
            window[data_at:end],
        )
        if type_ == _DROP_SEGMENT and not names_older(frame):
            raise _InvalidRecordError("a segment that is no stub says that it was dropped")
        return frame

    def _load(self, offset: int, size: int) -> int:
        """Have `size` bytes from `offset` on in the window; return where in it they begin."""
        at = offset - self._window_offset
        if at + size > len(self._window):
            self._window, self._window_offset, at = self._read(offset, size), offset, 0
        return at

    def _require_zeros(self, offset: int) -> None:
        """Check that nothing but zeros follows the last record, and nothing where a stop is known.

        Raises:
            _InvalidRecordError: it is not so.
        """
        if self._stop is not None:
            if offset == self._stop:
                return
            if self._stop > self._file_end:
                raise _InvalidRecordError("the segment is shorter than it was")
            raise _InvalidRecordError("no record stands where one belongs")
        while offset < self._limit:
            piece = self._read(offset, READ_BYTES)
            if piece.tobytes() != bytes(len(piece)):  # a view is compared byte by byte
                raise _InvalidRecordError("the bytes behind the last record are not zero")
            offset += len(piece)

    def _judge(self, fault: str | None, offset: int) -> ReadEnd:
        if fault is None:
            return ReadEnd(Outcome.CLEAN_END, self._path, self._position)
        torn = (
            self._stop is None
            and self._position.lsn >= self._durable_lsn
            and not self._has_later_commit(self._position.offset, self._position.lsn)
        )
        outcome = Outcome.TORN_TAIL if torn else Outcome.CORRUPT
        return ReadEnd(outcome, self._path, self._position, fault, offset)

    def _has_later_commit(self, offset: int, lsn: int) -> bool:
        """Tell whether a valid record that begins a commit lies behind the first lost one.

        It proves that what was lost had been synced. The pieces overlap by a whole record.
        """
        while offset < self._limit:
            piece = self._read(offset, SEARCH_BYTES)
            if _holds_commit_start(piece, lsn + 2, lsn + LSN_SPAN_MAX):
                return True
            offset += len(piece)
            if offset < self._limit:
                offset -= RECORD_BYTES_MAX
        return False

    def _read(self, offset: int, length: int) -> memoryview:
        """Return at least `length` bytes from `offset` on, or as many as the segment has."""
        wanted = min(max(length, READ_BYTES), self._limit - offset)
        data = self._segment.read(offset, wanted)
        if len(data) < wanted:
            raise WalCorruptError("A segment became shorter while it was read.", path=self._path)
        return memoryview(data)


def _holds_commit_start(piece: memoryview, lsn_min: int, lsn_max: int) -> bool:
    """Tell whether a valid record that begins a commit and has such an LSN lies in `piece`.

    Candidates are found by the upper five bytes of the LSN, which are the same for nearly all that
    fit into a segment, and by the flag.
    """
    uppers = range(lsn_min >> 24, (lsn_max >> 24) + 1)
    upper = b"|".join(re.escape(number.to_bytes(5, "little")) for number in uppers)
    starts = b"".join(re.escape(bytes((flags,))) for flags in range(256) if flags & _COMMIT_START)
    for match in re.finditer(b"(?=(?:%s)[\\s\\S][%s])" % (upper, starts), piece):
        at = match.start() - 3 - PREFIX.size
        if at < 0 or at + FRAME_HEADER_BYTES > len(piece):
            continue
        length, stored_crc, lsn = HEADER.unpack_from(piece, at)[:3]
        end = at + PREFIX.size + length
        if not lsn_min <= lsn <= lsn_max or length < COVERED_BYTES_MIN or end > len(piece):
            continue
        if crc32(piece[at + PREFIX.size : end]) == stored_crc:
            return True
    return False


class LogReader:
    """Iterates over the records of a log behind an LSN, across segments, and then knows its `end`.

    It stops at the first fault; `end` says which, and in which file.

    Args:
        segments: all of the log, oldest first; there may be more of them than `until` reaches.
        known: a place between two changes, from where reading may begin if it is not too late.
        after_lsn: of the last record that is not wanted.
        durable_lsn: damage up to this LSN is corruption, never a torn write.
        until: where the log ends, for a reader that does not hold the lock; None finds out.

    Attributes:
        moved_lsn: the stubs of the log say that it was durable at least up to here.
    """

    def __init__(
        self,
        *,
        segments: list[SegmentFile],
        open_segment: Callable[[int], OpenSegment],
        known: LogPosition | None,
        after_lsn: int,
        durable_lsn: int,
        until: LogPosition | None,
    ) -> None:
        self._segments = segments
        self._open_segment = open_segment
        self._known = known
        self._after_lsn = after_lsn
        stubs = [segment.stub for segment in segments if segment.stub is not None]
        self.moved_lsn = max((stub.drop.moved_lsn for stub in stubs), default=0)
        self._durable_lsn = max(durable_lsn, self.moved_lsn)
        self._until = until
        self._end: ReadEnd | None = None

    @property
    def end(self) -> ReadEnd:
        """How reading ended. Only after the iterator is exhausted."""
        if self._end is None:
            raise RuntimeError("the log has not been read to its end yet")
        return self._end

    def __iter__(self) -> Iterator[Frame]:
        segments = self._segments
        first_lsn = segments[0].header.first_lsn
        if self._after_lsn + 1 < first_lsn:
            raise WalGapError(
                f"The log begins with LSN {first_lsn}; {self._after_lsn + 1} is needed.",
                hint=COPY_HINT,
                path=segments[0].path,
            )
        if self._until is not None:
            self._end = ReadEnd(Outcome.CLEAN_END, segments[-1].path, self._until)
        for segment in filter(self._is_wanted, segments):
            stop, last_lsn = self._find_stop(segment)
            reader = self._reader(segment, stop)
            for frame in reader:
                if frame.lsn > self._after_lsn:
                    yield frame
            # A segment opened while it was active keeps that path when it is sealed.
            self._end = _check_last_lsn(replace(reader.end, path=segment.path), last_lsn)
            if self._end.fault is not None:
                return

    def _is_wanted(self, segment: SegmentFile) -> bool:
        """Tell whether any record behind `after_lsn` and not behind `until` may be in a segment."""
        until = self._until
        if until is not None and (
            segment.header.segment_id > until.segment_id or until.lsn <= self._after_lsn
        ):
            return False
        return segment.last_lsn is None or segment.last_lsn > self._after_lsn

    def _find_stop(self, segment: SegmentFile) -> tuple[int | None, int | None]:
        """Return the offset at which to stop and the LSN of the last record before it."""
        if self._until is not None and self._until.segment_id == segment.header.segment_id:
            return self._until.offset, self._until.lsn
        return segment.end, segment.last_lsn

    def _reader(self, segment: SegmentFile, stop: int | None) -> SegmentReader:
        header = segment.header
        start = LogPosition(header.segment_id, SEGMENT_HEADER_BYTES, header.first_lsn - 1)
        known = self._known
        if known and known.segment_id == header.segment_id and known.lsn <= self._after_lsn:
            start = known
        return SegmentReader(
            segment=self._open_segment(header.segment_id),
            start=start,
            stop=stop,
            durable_lsn=self._durable_lsn,
        )


def _check_last_lsn(end: ReadEnd, last_lsn: int | None) -> ReadEnd:
    """Return `end`, or corruption if the segment read clean but not up to the LSN it should."""
    if end.fault is not None or last_lsn in (None, end.position.lsn):
        return end
    return replace(
        end,
        outcome=Outcome.CORRUPT,
        fault=f"a segment ends at LSN {end.position.lsn} and not at {last_lsn}",
        fault_offset=end.position.offset,
    )
