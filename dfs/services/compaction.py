"""Compaction: what is still needed of a segment that is mostly dead goes to the end of the log.

One segment at a time, the oldest first, in slices that never sleep. Its records are read in order;
those that are alive are appended anew by the group commit, which moves the index with them, and
then a record says that the segment may go: `moves`. Stores put a stub in its place when they come
to it: `dropping`. A process that is killed leaves a segment of which more is dead than before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from dfs.core.errors import WalCorruptError, WalGapError
from dfs.core.filelock import FileLock
from dfs.core.model import PRIMARY_NAME, Segment, SegmentUse
from dfs.db.repository import IndexRepository
from dfs.services.command import RECORD_OVERHEAD_BYTES
from dfs.services.commit import Committer
from dfs.services.damage import DamageBook
from dfs.services.moves import DropCompacted, Existing, MoveRecords
from dfs.wal.control import LogPosition
from dfs.wal.frame import Frame
from dfs.wal.layout import SegmentFile
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome, SegmentReader
from dfs.wal.record import Meta, RecordType, decode_meta
from dfs.wal.segment import SEGMENT_HEADER_BYTES
from dfs.wal.stub import STUB_BYTES_MAX

COMPACTION_LOCK_NAME = "compaction.lock"
BATCH_COUNT_MAX = 256
BATCH_BYTES_MAX = 1 << 20
"""So much is looked at under the node's lock, and appended by one commit, at most."""
SPENDING_S_MAX = 10.0
"""Time that was not used for reading, by a node that was stopped, is not made up for."""
SPENDING_S_FIRST = 2.0
AHEAD_BYTES_MAX = 2 << 20
"""Of the log, that replicas may lack while more is moved."""
PUT_OFF_S = 60.0
STUBS_WAIT_S = 30.0
"""For so long it is waited for stores to put a stub in the place of a segment, before the next one
is looked at: while any of them has the old one, tombstones of what was in it have to be moved."""
_PUTTING = (int(RecordType.PUT_FILE), int(RecordType.PUT_BLOB), int(RecordType.PUT_KEY))

logger = structlog.get_logger()

Records = list[tuple[Frame, Meta]]


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What one slice did.

    Attributes:
        more: another slice has something to do.
        read_bytes: of a segment that is mostly dead.
        moved_records: appended anew.
        dropped: segments of which nothing is needed any more.
    """

    more: bool
    read_bytes: int = 0
    moved_records: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _Pass:
    """The way through one segment, between two slices.

    Attributes:
        position: behind the last record that was looked at.
        moved_records: appended anew.
    """

    segment: Segment
    existing: Existing
    position: LogPosition
    moved_records: int = 0

    @property
    def is_done(self) -> bool:
        """Whether all records have been looked at."""
        return self.position.offset >= self.segment.size_bytes


class Compaction:
    """Compacts the log of a node.

    Args:
        committer: makes the changes.
        damage: told of a segment that cannot be read.
        lock: held during a slice: one process of the node compacts at a time.
        dead_ratio_min: share of a segment that must be dead for it to be worth the work.
        bytes_per_s: rate at which segments are read; 0: none ever is.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexRepository,
        committer: Committer,
        damage: DamageBook,
        lock: FileLock,
        dead_ratio_min: float,
        bytes_per_s: int,
    ) -> None:
        self._log = log
        self._index = index
        self._committer = committer
        self._damage = damage
        self._lock = lock
        self._dead_ratio_min = dead_ratio_min
        self._bytes_per_s = bytes_per_s
        self._pass: _Pass | None = None
        self._paid_until_s = time.monotonic() - SPENDING_S_FIRST
        self._dropped_at_s = 0.0
        self._put_off_until_s: dict[int, float] = {}

    def close(self) -> None:
        """Close the file of the lock."""
        self._lock.close()

    def work(self, *, budget_s: float) -> CompactionReport:
        """Go on for about so long, or as far as the rate allows.

        Raises:
            NoSpaceError, WalReadOnlyError, MetadataError: as `Committer.submit`; the next slice
                goes on.

        Durability: what was moved is synced at its new place before anything is dropped.
        """
        if not self._bytes_per_s:
            return CompactionReport(more=False)
        with self._lock.hold(timeout_s=0) as held:
            return self._work(budget_s) if held else CompactionReport(more=False)

    def _work(self, budget_s: float) -> CompactionReport:
        deadline_s = time.monotonic() + budget_s
        self._paid_until_s = max(self._paid_until_s, time.monotonic() - SPENDING_S_MAX)
        read_bytes = moved = dropped = 0
        while time.monotonic() < deadline_s:
            current = self._pass or self._choose()
            if current is None or self._paid_until_s > time.monotonic() or self._is_ahead():
                break
            self._pass = current
            before = current.position.offset
            try:
                moved += self._go_on(current)
            except (WalCorruptError, WalGapError) as error:
                self._put_off(current)
                self._damage.note_segment(PRIMARY_NAME, current.segment.id, error)
                break
            if current.position.offset == before:  # another process has dropped it meanwhile
                self._pass = None
                break
            read_bytes += current.position.offset - before
            self._paid_until_s += (current.position.offset - before) / self._bytes_per_s
            if current.is_done:
                self._pass = None
                dropped += self._drop(current)
                break
        return CompactionReport(self._pass is not None, read_bytes, moved, dropped)

    def _choose(self) -> _Pass | None:
        """Return a pass through the oldest segment that is worth it, if there is any."""
        is_recent = time.monotonic() < self._dropped_at_s + STUBS_WAIT_S
        if is_recent and self._index.undropped_segment_ids():
            return None
        candidates = self._index.compactable_segments(
            dead_permille_min=int(1000 * self._dead_ratio_min)
        )
        for segment, use in candidates:
            if segment.size_bytes <= STUB_BYTES_MAX:
                continue  # its stub would take as much
            if time.monotonic() < self._put_off_until_s.get(segment.id, 0.0):
                continue
            existing = self._find_existing(segment.id)
            if self._is_worth_it(segment, use, existing):
                start = LogPosition(segment.id, SEGMENT_HEADER_BYTES, segment.first_lsn - 1)
                return _Pass(segment, existing, start)
        return None

    def _put_off(self, current: _Pass) -> None:
        """Let others come first for a while: this segment must be mended, or is not dead yet."""
        self._pass = None
        self._put_off_until_s[current.segment.id] = time.monotonic() + PUT_OFF_S

    def _is_ahead(self) -> bool:
        """Tell whether a replica that works has yet to get what was moved.

        A synchronous write needs replicas that are not far behind.
        """
        end = self._log.position
        return any(
            state.segment_id != end.segment_id or end.offset - state.offset > AHEAD_BYTES_MAX
            for name, state in self._index.store_states().items()
            if name != PRIMARY_NAME and not state.failures
        )

    def _is_worth_it(self, segment: Segment, use: SegmentUse, existing: Existing) -> bool:
        """Tell whether enough is dead, tombstones too if nothing older is left that needs them."""
        dead_bytes = use.dead_bytes
        if use.tombstone_lsn is not None and not existing.may_hold(
            use.tombstone_lsn, segment.first_lsn
        ):
            dead_bytes += use.tombstone_bytes
        return dead_bytes > self._dead_ratio_min * segment.size_bytes

    def _find_existing(self, segment_id: int) -> Existing:
        """Return the other segments that hold records, on the node or on any other store."""
        undropped = self._index.undropped_segment_ids()
        spans: list[tuple[int, int]] = []
        ids: set[int] = set()
        for file in self._log.segments():
            own_id = file.header.segment_id
            if own_id == segment_id or (file.stub is not None and own_id not in undropped):
                continue
            ids.add(own_id)
            if file.end is not None and file.end > STUB_BYTES_MAX:
                spans.append((file.header.first_lsn, file.last_lsn or 0))
            elif file.end is not None:  # it stays, and so would the tombstones of all that time
                spans += self._find_puts(file)
            # The active one is behind all tombstones that matter.
        return Existing(spans, frozenset(ids), frozenset(self._index.units_to_remove()))

    def _find_puts(self, file: SegmentFile) -> list[tuple[int, int]]:
        """Return the spans of a small segment that put files or blobs; all of it, if damaged."""
        first_lsn, last_lsn = file.header.first_lsn, file.last_lsn or 0
        start = LogPosition(file.header.segment_id, SEGMENT_HEADER_BYTES, first_lsn - 1)
        try:
            reader = self._reader(start, file.end or 0, last_lsn)
            spans = [(frame.lsn, frame.lsn) for frame in reader if frame.type in _PUTTING]
            is_whole = reader.end.outcome is Outcome.CLEAN_END
        except (WalCorruptError, WalGapError):
            is_whole = False
        return spans if is_whole else [(first_lsn, last_lsn)]

    def _go_on(self, current: _Pass) -> int:
        """Look at the next records of a segment. Returns how many were moved.

        Raises:
            WalCorruptError, WalGapError: they cannot be read, until the segment is mended.
        """
        records, position = self._read_batch(current)
        command = MoveRecords(records, current.existing)
        self._committer.submit(command)
        if command.seen_count < len(records):  # the rest comes next
            frame, _ = records[command.seen_count - 1]
            position = LogPosition(position.segment_id, frame.offset + frame.length, frame.lsn)
        current.position = position
        current.moved_records += command.moved_count
        return command.moved_count

    def _read_batch(self, current: _Pass) -> tuple[Records, LogPosition]:
        """Return the next records of a segment, and the place behind them."""
        segment = current.segment
        reader = self._reader(current.position, segment.size_bytes, segment.last_lsn)
        # A fraction of a segment, so that none is sealed early for what a batch might take.
        bytes_max = min(BATCH_BYTES_MAX, segment.size_bytes // 8)
        count_max = min(BATCH_COUNT_MAX, bytes_max // RECORD_OVERHEAD_BYTES)
        records: Records = []
        size, position = 0, current.position
        for frame in reader:
            records.append((frame, decode_meta(frame)))
            size += frame.length
            position = LogPosition(segment.id, frame.offset + frame.length, frame.lsn)
            if len(records) >= count_max or size >= bytes_max:
                return records, position
        if reader.end.outcome is not Outcome.CLEAN_END:
            raise reader.end.error()
        return records, position

    def _reader(self, start: LogPosition, end: int, last_lsn: int) -> SegmentReader:
        return SegmentReader(
            segment=self._log.open_segments.get(start.segment_id),
            start=start,
            stop=end,
            durable_lsn=last_lsn,
        )

    def _drop(self, current: _Pass) -> int:
        """Say that a segment may go. Returns how many: 0 if something in it is alive again."""
        command = DropCompacted(current.segment)
        self._committer.submit(command)
        if not command.is_dropped:
            self._put_off(current)
            logger.warning("segment_not_dropped", segment_id=current.segment.id)
            return 0
        self._dropped_at_s = time.monotonic()
        logger.info(
            "segment_compacted",
            segment_id=current.segment.id,
            size_bytes=current.segment.size_bytes,
            moved_records=current.moved_records,
        )
        return 1
