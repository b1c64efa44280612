"""How far the copy of the log on a store is behind the log."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import structs

from dfs.core.errors import DfsError
from dfs.core.model import StoreState
from dfs.db.repository import IndexRepository
from dfs.services.shipping import position_of
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome, SegmentReader
from dfs.wal.record import decode_meta, moment_of
from dfs.wal.segment import FIRST_LSN, FIRST_SEGMENT_ID, SEGMENT_HEADER_BYTES

PAGE_SEGMENTS = 1000
BEGINNING = LogPosition(FIRST_SEGMENT_ID, 0, FIRST_LSN - 1)


@dataclass(frozen=True, slots=True)
class Lag:
    """What a store does not have of the log.

    Attributes:
        records, bytes: up to the durable end of the log.
        oldest_at_ms: when the oldest of these records was written; None if there is none, or if it
            cannot be read.
    """

    records: int = 0
    bytes: int = 0
    oldest_at_ms: int | None = None


def measure_lag(
    state: StoreState | None, *, log: WriteAheadLog, index: IndexRepository, end: LogPosition
) -> Lag:
    """Return what a replica lacks of the log. Reads about 1 MiB of the log if it lacks anything.

    Args:
        state: of the store; None if nothing is known of it.
        end: where the log ends.

    Raises:
        MetadataError: the index does not answer.
    """
    begin = find_begin(state, end)
    if begin == end:
        return Lag()
    sizes = _sizes(index, begin, end)
    size = sum(sizes.values()) - begin.offset
    return Lag(
        records=end.lsn - begin.lsn,
        bytes=max(0, size),
        oldest_at_ms=_find_oldest(log, begin, end, sizes) if end.lsn > begin.lsn else None,
    )


def find_begin(state: StoreState | None, end: LogPosition) -> LogPosition:
    """Return up to where the store has the log: the beginning if that is not known."""
    if state is None or not state.segment_id:
        return BEGINNING
    if (state.segment_id, state.offset) > (end.segment_id, end.offset):
        return BEGINNING  # of another life of the log
    return position_of(state)


def _sizes(index: IndexRepository, begin: LogPosition, end: LogPosition) -> dict[int, int]:
    """Return id -> bytes of the segments from `begin` to `end`, ascending.

    A segment that was abandoned after a failed sync is not in the index, and left out.
    """
    sizes: dict[int, int] = {}
    after = begin.segment_id - 1
    while after < end.segment_id - 1:
        page = index.list_segments(after=after, limit=PAGE_SEGMENTS)
        sizes.update((row.id, row.size_bytes) for row in page if row.id < end.segment_id)
        after = page[-1].id if len(page) == PAGE_SEGMENTS else end.segment_id
    sizes[end.segment_id] = end.offset
    return sizes


def _find_oldest(
    log: WriteAheadLog, begin: LogPosition, end: LogPosition, sizes: dict[int, int]
) -> int | None:
    """Return the time of the first record behind `begin` that tells one."""
    position = begin
    try:
        while position.segment_id <= end.segment_id:
            reader = SegmentReader(
                segment=log.open_segments.get(position.segment_id),
                start=structs.replace(position, offset=max(position.offset, SEGMENT_HEADER_BYTES)),
                stop=sizes.get(position.segment_id),
                durable_lsn=end.lsn,
            )
            for frame in reader:
                at_ms = moment_of(decode_meta(frame))
                if at_ms is not None:
                    return at_ms
            if reader.end.outcome is not Outcome.CLEAN_END:
                return None
            position = LogPosition(position.segment_id + 1, 0, reader.end.position.lsn)
    except DfsError:
        return None  # whoever ships this part of the log meets the damage, and has it mended
    return None
