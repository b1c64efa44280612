"""Reading the log: the one iterator that recovery, inspection, rebuild and replication share."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dfs.core.checksum import crc32
from dfs.core.durable import storage_error
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
from dfs.wal.segment import SEGMENT_HEADER_BYTES, OpenSegment

READ_BYTES = 1 << 20


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
    valid is never returned.

    Args:
        start: where to begin: behind the header, or any place between two changes.
        stop: offset at which the segment ends: named by the header of the next segment, or by the
            control file. None for the newest segment, whose end is to be found.
        durable_lsn: records up to this one are known to have been durable, so that damage to them
            is corruption, never a torn write.
    """

    def __init__(
        self, *, segment: OpenSegment, start: LogPosition, stop: int | None, durable_lsn: int
    ) -> None:
        self._segment = segment
        self._path = segment.path
        self._position = start
        self._stop = stop
        self._durable_lsn = durable_lsn
        self._file_end = os.fstat(segment.fd).st_size
        self._limit = self._file_end if stop is None else min(stop, self._file_end)
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
                if not frame.flags & Flag.CONTINUES:
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
        window = self._window
        if crc32(window[at + PREFIX.size : at + size]) != stored_crc:
            raise _InvalidRecordError("the CRC32 of a record does not fit")
        if record_lsn != lsn:
            raise _InvalidRecordError(f"LSN {record_lsn} stands where {lsn} belongs")
        meta_at = at + FRAME_HEADER_BYTES
        if FRAME_HEADER_BYTES + meta_length > size:
            raise _InvalidRecordError("the meta of a record is longer than the record")
        return Frame(
            segment_id=self._position.segment_id,
            offset=offset,
            length=size,
            lsn=record_lsn,
            type=type_,
            flags=flags,
            meta=bytes(window[meta_at : meta_at + meta_length]),
            data=window[meta_at + meta_length : at + size],
        )

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
            if piece != bytes(len(piece)):
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

        It proves that what was lost had been synced. Records are found by the upper bytes of their
        LSN, which are the same for all that fit behind `offset`, and by their flags.
        """
        rest = self._read(offset, self._limit - offset)
        lsn_max = lsn + 1 + len(rest) // FRAME_HEADER_BYTES
        uppers = {number.to_bytes(8, "little")[3:] for number in (lsn, lsn_max)}
        pattern = b"(?=(?:%s)[\\s\\S][\\x02\\x03])" % b"|".join(map(re.escape, sorted(uppers)))
        for match in re.finditer(pattern, rest):
            at = match.start() - 3 - PREFIX.size
            if at < 0 or at + FRAME_HEADER_BYTES > len(rest):
                continue
            length, stored_crc, record_lsn = HEADER.unpack_from(rest, at)[:3]
            end = at + PREFIX.size + length
            if not lsn + 1 < record_lsn <= lsn_max or length < COVERED_BYTES_MIN:
                continue
            if end <= len(rest) and crc32(rest[at + PREFIX.size : end]) == stored_crc:
                return True
        return False

    def _read(self, offset: int, length: int) -> memoryview:
        """Return at least `length` bytes from `offset` on, or as many as the segment has."""
        wanted = min(max(length, READ_BYTES), self._limit - offset)
        try:
            data = os.pread(self._segment.fd, wanted, offset)
        except OSError as error:
            raise storage_error(error, path=self._path) from error
        if len(data) < wanted:
            raise WalCorruptError("A segment became shorter while it was read.", path=self._path)
        return memoryview(data)


class LogReader:
    """Iterates over the records of a log behind an LSN, across segments, and then knows its `end`.

    It stops at the first fault; `end` says which, and in which file.

    Args:
        segments: all of the log, oldest first.
        known: a place between two changes, from where reading may begin if it is not too late.
        after_lsn: of the last record that is not wanted.
        durable_lsn: damage up to this LSN is corruption, never a torn write.
        until: where the log ends, for a reader that does not hold the lock; None finds out.
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
        self._durable_lsn = durable_lsn
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
        for segment in segments:
            if segment.last_lsn is not None and segment.last_lsn <= self._after_lsn:
                continue
            reader = self._reader(segment)
            for frame in reader:
                if frame.lsn > self._after_lsn:
                    yield frame
            self._end = reader.end
            if reader.end.fault is not None:
                return
            if self._until is not None and self._until.segment_id == segment.header.segment_id:
                return
            if segment.last_lsn not in (None, reader.end.position.lsn):
                raise WalCorruptError(
                    f"A segment ends at LSN {reader.end.position.lsn}, "
                    f"not at {segment.last_lsn} as the next one says.",
                    hint=COPY_HINT,
                    path=segment.path,
                )

    def _reader(self, segment: SegmentFile) -> SegmentReader:
        header = segment.header
        start = LogPosition(header.segment_id, SEGMENT_HEADER_BYTES, header.first_lsn - 1)
        known = self._known
        if known and known.segment_id == header.segment_id and known.lsn <= self._after_lsn:
            start = known
        stop = segment.end
        if self._until is not None and self._until.segment_id == header.segment_id:
            stop = self._until.offset
        return SegmentReader(
            segment=self._open_segment(header.segment_id),
            start=start,
            stop=stop,
            durable_lsn=self._durable_lsn,
        )
