"""Looking into the log of a running node, without disturbing it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgspec

from dfs.core.errors import NoSuchSegmentError
from dfs.db.repository import IndexRepository
from dfs.wal.control import LogPosition
from dfs.wal.frame import Frame
from dfs.wal.layout import SegmentFile
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import SegmentReader
from dfs.wal.record import STRUCTURES, RecordType, decode_meta
from dfs.wal.segment import SEGMENT_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A segment as its header and the index describe it.

    Attributes:
        last_lsn: of its last record; `first_lsn - 1` if it has none yet.
        size_bytes: to the end of its last record; of one that was dropped, those of its stub.
        state: "active", "sealed", "abandoned" after a failed sync, or "dropped".
    """

    id: int
    first_lsn: int
    last_lsn: int
    size_bytes: int
    state: str
    sealed_at_ms: int | None
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class EntryInfo:
    """A record, checked as it was read.

    Attributes:
        meta: its fields; bytes in hexadecimal. What belongs to the secret of a key is left out.
    """

    lsn: int
    type: str
    segment_id: int
    offset: int
    length: int
    meta: dict[str, Any]
    data_length: int


@dataclass(frozen=True, slots=True)
class SegmentReport:
    """What reading every record of a segment has shown.

    Attributes:
        records: how many of each type.
        outcome: "clean", "torn" or "corrupt".
        fault: what is wrong, and at which offset; None if nothing is.
    """

    segment: SegmentInfo
    records: dict[str, int]
    outcome: str
    fault: str | None
    fault_offset: int | None


class WalInspection:
    """Reads the log up to where it was durable when the question came."""

    def __init__(self, *, log: WriteAheadLog, index: IndexRepository) -> None:
        self._log = log
        self._index = index

    def segments(self) -> list[SegmentInfo]:
        """Return all segments, oldest first. Reads headers only."""
        end, segments = self._survey()
        sealed = {
            row.id: row.sealed_at_ms or None
            for row in self._index.list_segments(limit=len(segments))
        }
        return [
            self._describe(segment, end, sealed.get(segment.header.segment_id))
            for segment in segments
        ]

    def entries(self, *, after: int, limit: int, file_id: str | None = None) -> list[EntryInfo]:
        """Return records behind an LSN, oldest first.

        Args:
            file_id: only records that name this file.

        Raises:
            WalCorruptError, WalGapError: the log is damaged before `limit` records were found.
        """
        end, _ = self._survey()
        entries: list[EntryInfo] = []
        if after >= end.lsn:
            return entries
        reader = self._log.read(after_lsn=after, until=end)
        for frame in reader:
            entry = _describe_entry(frame)
            if file_id is None or entry.meta.get("id") == file_id:
                entries.append(entry)
                if len(entries) == limit:
                    return entries
        if reader.end.fault is not None:
            raise reader.end.error()
        return entries

    def inspect(self, segment_id: int) -> SegmentReport:
        """Read and check all records of a segment.

        Raises:
            NoSuchSegmentError: the log has no segment of that id.
        """
        end, segments = self._survey()
        for segment in segments:
            if segment.header.segment_id == segment_id:
                break
        else:
            raise NoSuchSegmentError(f"The log has no segment {segment_id}.")
        header = segment.header
        info = self._describe(segment, end, self._sealed_at(segment_id))
        reader = SegmentReader(
            segment=self._log.open_segments.get(segment_id),
            start=LogPosition(segment_id, SEGMENT_HEADER_BYTES, header.first_lsn - 1),
            stop=end.offset if segment.end is None or _is_last(segment, end) else segment.end,
            durable_lsn=end.lsn,
        )
        records = Counter(_type_name(frame.type) for frame in reader)
        return SegmentReport(
            segment=info,
            records=dict(records),
            outcome=reader.end.outcome.value,
            fault=reader.end.fault,
            fault_offset=reader.end.fault_offset,
        )

    def _survey(self) -> tuple[LogPosition, list[SegmentFile]]:
        """Return the durable end of the log, and the segments up to there."""
        end = self._log.position
        segments = [
            segment
            for segment in self._log.segments()
            if segment.header.segment_id <= end.segment_id
        ]
        return end, segments

    def _sealed_at(self, segment_id: int) -> int | None:
        rows = self._index.list_segments(after=segment_id - 1, limit=1)
        return (rows[0].sealed_at_ms or None) if rows and rows[0].id == segment_id else None

    def _describe(
        self, segment: SegmentFile, end: LogPosition, sealed_at_ms: int | None
    ) -> SegmentInfo:
        header, stub = segment.header, segment.stub
        last_lsn, size_bytes = segment.last_lsn, segment.end
        state = "sealed" if sealed_at_ms is not None else "abandoned"
        if last_lsn is None or size_bytes is None or _is_last(segment, end):
            last_lsn, size_bytes, state = end.lsn, end.offset, "active"
        elif stub is not None:
            size_bytes, state = len(stub.data), "dropped"
        return SegmentInfo(
            id=header.segment_id,
            first_lsn=header.first_lsn,
            last_lsn=last_lsn,
            size_bytes=size_bytes,
            state=state,
            sealed_at_ms=sealed_at_ms,
            created_at_ms=header.created_at_ms,
        )


def _is_last(segment: SegmentFile, end: LogPosition) -> bool:
    return segment.header.segment_id == end.segment_id


def _type_name(record_type: int) -> str:
    """Return "PutBlob" for type 1, and so on."""
    return STRUCTURES[RecordType(record_type)].__name__


def _describe_entry(frame: Frame) -> EntryInfo:
    meta = decode_meta(frame)
    fields = msgspec.to_builtins(meta, builtin_types=(bytes,))
    return EntryInfo(
        lsn=frame.lsn,
        type=_type_name(frame.type),
        segment_id=frame.segment_id,
        offset=frame.offset,
        length=frame.length,
        meta={
            name: _readable(value) for name, value in fields.items() if name not in _SECRET_FIELDS
        },
        data_length=len(frame.data),
    )


_SECRET_FIELDS = frozenset(("secret_hash", "signing_key"))


def _readable(value: Any) -> Any:
    """Return a value as JSON can say it: bytes, however deep, in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _readable(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_readable(inner) for inner in value]
    return value
