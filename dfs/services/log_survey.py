"""Looking at the copies of the log: which part of it each store must hold, and whether it does."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

from dfs.core.errors import (
    BlobMissingError,
    StorageError,
    StoreUnavailableError,
    WalCorruptError,
    WalError,
    WalGapError,
)
from dfs.core.model import DebtKind
from dfs.db.repository import IndexRepository
from dfs.services.shipping import NOWHERE, position_of
from dfs.services.stores import ReplicaStore, Stores
from dfs.services.verification import (
    Fault,
    Finding,
    Place,
    SegmentSpan,
    StoredSegment,
    drain,
    read_segment,
)
from dfs.storage.base import BlobStore
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog
from dfs.wal.segment import (
    SEGMENT_HEADER_BYTES,
    OpenSegments,
    SegmentBytes,
    SegmentHeader,
    decode_header,
)
from dfs.wal.stub import STUB_BYTES_MAX, read_stub


class LogSurvey:
    """Looks at the log and its copies; changes nothing.

    A segment that was dropped is whole where its stub is, and whole as it was where that is still
    owed.
    """

    def __init__(
        self, *, log: WriteAheadLog, index: IndexRepository, stores: Stores, cluster_id: bytes
    ) -> None:
        self._log = log
        self._index = index
        self._stores = stores
        self._cluster_id = cluster_id

    def find_end(self, store: BlobStore) -> LogPosition:
        """Return up to where a store must hold the log; what is behind is still owed to it."""
        end = self._log.position
        if store is self._stores.primary:
            return end
        state = self._index.store_states().get(store.name)
        if state is None or (state.segment_id, state.offset) > (end.segment_id, end.offset):
            return NOWHERE
        return position_of(state)

    def find_span(self, store: BlobStore, segment_id: int) -> SegmentSpan | None:
        """Return which part of a segment a store must hold; None if none of it.

        The index knows where a sealed segment begins and ends. For the active one, and one that
        was abandoned after a failed sync, the headers say it, those of any store.

        Raises:
            WalError, StorageError: no store has the header that says it.
        """
        end = self.find_end(store)
        if segment_id > end.segment_id:
            return None
        rows = {row.id: row for row in self._index.list_segments(after=segment_id - 2, limit=2)}
        row, before = rows.get(segment_id), rows.get(segment_id - 1)
        if row is not None:
            first_lsn = row.first_lsn
        elif before is not None:
            first_lsn = before.last_lsn + 1
        else:
            first_lsn = self._find_header(segment_id).first_lsn
        if segment_id == end.segment_id:
            stop, last_lsn = end.offset, end.lsn
        elif row is not None:
            stop, last_lsn = row.size_bytes, row.last_lsn
        else:
            following = self._find_header(segment_id + 1)
            stop, last_lsn = following.previous_end, following.previous_last_lsn
        if stop < SEGMENT_HEADER_BYTES:
            return None
        return SegmentSpan(segment_id, first_lsn, stop, last_lsn)

    def read(
        self, store: BlobStore, span: SegmentSpan, start: Place | None = None
    ) -> Generator[Place, None, Finding | None]:
        """Read what a store holds of a segment: every record, compared with the primary's.

        Args, Yields: as `verification.read_segment`.

        Raises:
            StoreUnavailableError.
        """
        try:
            segment = self._open(store, span)
        except WalCorruptError as error:
            return _finding(store, span, Fault.DAMAGED, error.message)
        finding = self._find_wrong_size(store, span, segment)
        if finding is not None or segment is None or self._is_stub(store, span, segment):
            return finding
        fault = yield from read_segment(segment, span, cluster_id=self._cluster_id, start=start)
        if fault is not None:
            detail, (offset, lsn) = fault
            return replace(
                _finding(store, span, Fault.DAMAGED, detail),
                offset=offset,
                lsn=lsn,
            )
        is_other = isinstance(segment, StoredSegment) and segment.is_other
        if is_other and drain(self.read(self._stores.primary, span)) is None:
            detail = "its records are not those of the primary"
            return _finding(store, span, Fault.DAMAGED, detail)
        return None

    def look(self, store: BlobStore, span: SegmentSpan) -> Finding | None:
        """Look whether a segment is there and long enough. Raises as `read`."""
        try:
            return self._find_wrong_size(store, span, self._open(store, span))
        except WalCorruptError as error:
            return _finding(store, span, Fault.DAMAGED, error.message)

    def is_dropped(self, store: BlobStore, span: SegmentSpan) -> bool:
        """Tell whether a stub stands for a segment. A store that does not answer has none."""
        try:
            segment = self._open(store, span)
            return segment is not None and self._is_stub(store, span, segment)
        except (WalCorruptError, StoreUnavailableError):
            return False

    def look_again(self, store: BlobStore, found: Finding) -> bool:
        """Tell whether what was found is still so. Reads on from there to the first fault.

        Raises:
            StoreUnavailableError.
        """
        try:
            span = self.find_span(store, found.segment_id)
        except WalError:
            return True
        if span is None or found.fault is Fault.UNREADABLE:
            return span is not None
        if found.offset is None:
            return drain(self.read(store, span)) is not None
        if found.offset >= span.end:
            return False
        return drain(self.read(store, span, (found.offset, found.lsn))) is not None

    def _is_stub(self, store: BlobStore, span: SegmentSpan, segment: SegmentBytes) -> bool:
        """Tell whether a stub stands rightly for a segment of a store.

        The store's log must have what was moved; or the node has the same stub, so that the store
        is being caught up.
        """
        stub = read_stub(segment)
        if stub is None:
            return False
        end = LogPosition(span.segment_id, span.end, span.last_lsn)
        if stub.is_enough(end, log_lsn=self.find_end(store).lsn):
            return True
        own = self._open_own(span.segment_id) if store is not self._stores.primary else None
        return own is not None and own.read(0, STUB_BYTES_MAX) == stub.data

    def _find_wrong_size(
        self, store: BlobStore, span: SegmentSpan, segment: SegmentBytes | None
    ) -> Finding | None:
        if segment is None:
            return _finding(store, span, Fault.MISSING, "there is no such segment")
        size = segment.size()
        if size >= span.end or self._is_stub(store, span, segment):
            return None
        return _finding(store, span, Fault.WRONG_SIZE, f"{size} bytes instead of {span.end}")

    def _open(self, store: BlobStore, span: SegmentSpan) -> SegmentBytes | None:
        """Return a segment of a store; None if it is missing. Raises WalCorruptError.

        A file that was opened before may be another one than that which has the name now.
        """
        replica = self._stores.replicas.get(store.name)
        try:
            if replica is None:
                segment = OpenSegments(self._log.path).get(span.segment_id)
                segment.drop_cache()
                return segment
            size = span.end
            if not replica.read_segment(span.segment_id, span.end - 1, 1):
                size = dict(replica.list_segments()).get(span.segment_id, 0)
        except (WalGapError, BlobMissingError):
            return None
        return StoredSegment(
            store=replica,
            name=replica.name,
            segment_id=span.segment_id,
            size_bytes=size,
            twin=self._open_twin(span.segment_id),
        )

    def _open_twin(self, segment_id: int) -> SegmentBytes | None:
        """Return the node's own segment; None if there is nothing to compare with."""
        own = self._open_own(segment_id)
        return own if own is not None and read_stub(own) is None else None

    def _open_own(self, segment_id: int) -> SegmentBytes | None:
        try:
            return OpenSegments(self._log.path).get(segment_id)
        except (WalError, StorageError):
            return None

    def _find_header(self, segment_id: int) -> SegmentHeader:
        """Return the header of a segment from the first store that has it."""
        try:
            segment = OpenSegments(self._log.path).get(segment_id)
            return decode_header(segment.read(0, SEGMENT_HEADER_BYTES), path=segment.path)
        except (WalError, StorageError):
            for store in self._stores.replicas.values():
                header = self._read_header(store, segment_id)
                if header is not None:
                    return header
            raise

    def _read_header(self, store: ReplicaStore, segment_id: int) -> SegmentHeader | None:
        try:
            data = store.read_segment(segment_id, 0, SEGMENT_HEADER_BYTES)
            header = decode_header(data, path=self._log.path)
        except (WalError, StorageError):
            return None
        is_ours = (header.cluster_id, header.segment_id) == (self._cluster_id, segment_id)
        return header if is_ours else None


def _finding(store: BlobStore, span: SegmentSpan, fault: Fault, detail: str) -> Finding:
    return Finding(store.name, DebtKind.SEGMENT, span.unit, fault, span.end, detail)
