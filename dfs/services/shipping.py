"""Shipping the log to a store: whatever lies behind the position up to which the store has it.

The segments of a store are those of the node, byte for byte; the newest one is merely shorter. So
what was appended a moment ago travels just like a segment that was sealed long ago, and the store
alone is enough to rebuild the log.

Of a segment that was dropped the store gets the stub, whatever it has of the segment. Until its
copy reaches `moved_lsn` of that stub it is not enough to restore the log from.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dfs.core.durable import storage_error
from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.core.model import StoreState
from dfs.core.tracing import NO_SPANS, Spans
from dfs.services.stores import ReplicaStore
from dfs.storage.base import KeepsSegments
from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome, SegmentReader
from dfs.wal.segment import SEGMENT_HEADER_BYTES, OpenSegment
from dfs.wal.stub import STUB_BYTES_MAX, Stub, read_stub

CHUNK_BYTES = 4 << 20
"""About so much is written, synced and read back at a time."""
STUB_COST_BYTES = 1 << 20
"""A stub takes about the time of so many bytes."""
NOWHERE = LogPosition(0, 0, 0)
_CONTINUES = int(Flag.CONTINUES)


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one call of `LogShipper.ship` did.

    Attributes:
        position: up to where the store has the log now, always a place between two changes.
        bytes: of the log, written or found to be the same.
        has_excess: the store seems to hold something behind the end of the log; see `trim`.
    """

    position: LogPosition
    bytes: int
    has_excess: bool


class LogShipper:
    """Copies the log of this node to stores. Holds nothing between two calls.

    Args:
        spans: told of each call.
    """

    def __init__(self, *, log: WriteAheadLog, spans: Spans = NO_SPANS) -> None:
        self._log = log
        self._spans = spans

    def ship(self, store: ReplicaStore, position: LogPosition, *, bytes_max: int) -> Shipped:
        """Copy the next part of the log, every record checked, every copy read back.

        What the store has already, and is the same, is left as it is. For one caller at a time.

        Args:
            position: up to here the store has the log; `NOWHERE` if that is not known.
            bytes_max: stop soon after so many bytes.

        Raises:
            WalCorruptError: this node's own segment is damaged (context: `segment_id`).
            WalGapError: this node's own segment is missing.
            StorageError: the store failed; `position` still holds.

        Durability: everything up to the position reached is durable on the store.
        """
        with self._spans.span("replication.ship", store=store.name) as span:
            shipped = self._ship(store, position, bytes_max)
            span.note(bytes=shipped.bytes, lsn=shipped.position.lsn)
            return shipped

    def _ship(self, store: ReplicaStore, position: LogPosition, bytes_max: int) -> Shipped:
        end = self._log.position
        if (position.segment_id, position.offset) > (end.segment_id, end.offset):
            position = NOWHERE  # of another life of the log
        held = dict(store.list_segments())
        stops = {end.segment_id: end}
        if position.segment_id != end.segment_id:
            stops = self._find_stops(end)
            if position == NOWHERE:
                position = LogPosition(min(stops), 0, 0)
        copied_bytes = spent_bytes = 0
        while spent_bytes < bytes_max:
            stop = stops[position.segment_id]
            segment, stub = self._open(position, stop, end)
            if stub is not None:
                copy_stub(store, stub)
                position = stop
                copied_bytes += len(stub.data)
                spent_bytes += STUB_COST_BYTES
            else:
                for data, reached in _read_chunks(segment, position, stop):
                    held_bytes = held.get(position.segment_id, 0)
                    copy_chunk(store, position, data, held_bytes=held_bytes)
                    position = reached
                    copied_bytes += len(data)
                    spent_bytes += len(data)
                    if spent_bytes >= bytes_max:
                        break
                if position.offset < stop.offset or position.segment_id == end.segment_id:
                    break
                if held.get(position.segment_id, 0) > stop.offset:  # of a write that was refused
                    store.append_segment(position.segment_id, stop.offset, b"")
                store.seal_segment(position.segment_id)
            position = LogPosition(position.segment_id + 1, 0, position.lsn)
        has_excess = max(held.items(), default=(0, 0)) > (end.segment_id, end.offset)
        return Shipped(position, copied_bytes, has_excess)

    def trim(self, store: KeepsSegments, position: LogPosition) -> bool:
        """Cut off what a store holds behind the end of the log. Under the node's lock.

        It comes from a write that was refused, or from a life of the log that was lost with the
        primary: whoever rebuilds the log from this store must not find it.

        Args:
            position: up to here the store has the log.

        Returns:
            Whether there was any.

        Raises:
            StorageError.
        """
        if position != self._log.position:
            return False
        was_longer = False
        for segment_id, size in store.list_segments():
            if segment_id > position.segment_id:
                store.quarantine_segment(segment_id)
            elif segment_id == position.segment_id and size > position.offset:
                store.append_segment(segment_id, position.offset, b"")
            else:
                continue
            was_longer = True
        return was_longer

    def find_start(self, segment_id: int) -> LogPosition:
        """Return where a segment begins; `NOWHERE` if there is none of that id."""
        for segment in self._log.segments():
            if segment.header.segment_id == segment_id:
                return LogPosition(segment_id, 0, segment.header.previous_last_lsn)
        return NOWHERE

    def _find_stops(self, end: LogPosition) -> dict[int, LogPosition]:
        """Return segment id -> where it ends, for all segments up to the end of the log."""
        stops = {end.segment_id: end}
        for segment in self._log.segments():
            segment_id = segment.header.segment_id
            if segment_id < end.segment_id and segment.end is not None:
                stops[segment_id] = LogPosition(segment_id, segment.end, segment.last_lsn or 0)
        return stops

    def _open(
        self, position: LogPosition, stop: LogPosition, end: LogPosition
    ) -> tuple[OpenSegment, Stub | None]:
        """Open the segment that ends at `stop`, once: its file may be replaced at any moment.

        Returns:
            (segment, what stands for it if it was dropped and the store lacks a part of it).
        """
        segments = self._log.open_segments
        if position.segment_id == end.segment_id:
            return segments.get(position.segment_id), None
        segment = segments.open_anew(position.segment_id)
        stub = read_stub(segment) if position.offset < stop.offset else None
        return segment, stub if stub is not None and stub.end == stop else None


def _read_chunks(
    segment: OpenSegment, position: LogPosition, stop: LogPosition
) -> Iterator[tuple[bytes, LogPosition]]:
    """Yield (bytes, place behind them) from `position` up to `stop`, all records checked."""
    offset = max(position.offset, SEGMENT_HEADER_BYTES)
    reader = SegmentReader(
        segment=segment,
        start=LogPosition(position.segment_id, offset, position.lsn),
        stop=stop.offset,
        durable_lsn=stop.lsn,
    )
    begin = position.offset
    for frame in reader:
        behind = frame.offset + frame.length
        if behind - begin >= CHUNK_BYTES and not frame.flags & _CONTINUES:
            yield (
                _read_bytes(segment.fd, begin, behind),
                LogPosition(position.segment_id, behind, frame.lsn),
            )
            begin = behind
    if reader.end.outcome is not Outcome.CLEAN_END or reader.end.position != stop:
        error = reader.end.error()
        error.context["segment_id"] = position.segment_id
        raise error
    if begin < stop.offset:
        yield _read_bytes(segment.fd, begin, stop.offset), stop


def position_of(state: StoreState) -> LogPosition:
    """Return up to where a store has the log; `NOWHERE` if that is not known."""
    return LogPosition(state.segment_id, state.offset, state.lsn)


def advance(state: StoreState, end: LogPosition) -> StoreState:
    """Return the state of a store that has the log up to `end`."""
    return replace(state, segment_id=end.segment_id, offset=end.offset, lsn=end.lsn)


def copy_chunk(
    store: KeepsSegments, position: LogPosition, data: bytes, *, held_bytes: int
) -> None:
    """Have `data` at `position` on a store, read back from its medium.

    Args:
        held_bytes: of that segment, on the store. What is there and the same is not written.

    Raises:
        StorageError: the store failed, or gives back other bytes than it was given.
    """
    segment_id, offset = position.segment_id, position.offset
    is_held = held_bytes >= offset + len(data)
    if is_held and store.read_segment(segment_id, offset, len(data), from_disk=True) == data:
        return
    store.append_segment(segment_id, offset, data)
    if store.read_segment(segment_id, offset, len(data), from_disk=True) != data:
        raise _not_given_back(segment_id, offset)


def copy_stub(store: KeepsSegments, stub: Stub) -> None:
    """Have a stub in the place of a segment on a store, read back from its medium.

    Raises:
        StorageError: as `copy_chunk`.
    """
    segment_id = stub.end.segment_id
    if _read_start(store, segment_id) == stub.data:
        return
    store.put_segment(segment_id, [stub.data])
    if _read_start(store, segment_id) != stub.data:
        raise _not_given_back(segment_id, 0)


def _read_start(store: KeepsSegments, segment_id: int) -> bytes | None:
    """Return what a segment is on a store if it is a stub; else its beginning, or None."""
    try:
        return store.read_segment(segment_id, 0, STUB_BYTES_MAX, from_disk=True)
    except BlobMissingError:
        return None


def _not_given_back(segment_id: int, offset: int) -> StoreUnavailableError:
    return StoreUnavailableError(
        "The store does not give back what was written to it.",
        segment_id=segment_id,
        offset=offset,
    )


def _read_bytes(fd: int, begin: int, end: int) -> bytes:
    try:
        data = os.pread(fd, end - begin, begin)
        while len(data) < end - begin and (
            more := os.pread(fd, end - begin - len(data), begin + len(data))
        ):
            data += more
    except OSError as error:
        raise storage_error(error) from error
    return data
