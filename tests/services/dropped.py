"""Segments that are dropped, for tests: what compaction does, in the simplest way."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dfs.core.clock import now_ms
from dfs.core.model import DebtKind
from dfs.db.repository import IndexRepository
from dfs.db.transaction import IndexTransaction
from dfs.services.command import RECORD_OVERHEAD_BYTES, Draft
from dfs.services.dropping import drop_segment
from dfs.services.moves import take_snapshot
from dfs.storage.base import StagedBlob
from dfs.wal.control import LogPosition
from dfs.wal.frame import Frame
from dfs.wal.layout import SegmentFile
from dfs.wal.reader import SegmentReader
from dfs.wal.record import (
    DropBlob,
    DropSegment,
    Meta,
    PurgeFile,
    PutBlob,
    SealSegment,
    decode_meta,
)
from dfs.wal.segment import SEGMENT_HEADER_BYTES
from dfs.wiring import Services


class Append:
    """A command that appends records as they are given."""

    file_ids: Sequence[str] = ()
    new_file_ids: Sequence[str] = ()
    digests: Sequence[bytes] = ()

    def __init__(self, *records: Draft | Meta) -> None:
        drafts = [draft if isinstance(draft, Draft) else Draft(draft) for draft in records]
        self._drafts = drafts
        self.log_bytes_max = sum(RECORD_OVERHEAD_BYTES + len(draft.data) for draft in drafts)

    def plan(self, index: IndexTransaction) -> Sequence[Draft]:
        return self._drafts

    def staged(self) -> Sequence[tuple[StagedBlob, bytes, int]]:
        return ()

    def read_back(self, index: IndexTransaction) -> None:
        """Nothing is wanted."""


def find_segment(node: Services, segment_id: int) -> SegmentFile:
    """Return a sealed segment of a node."""
    return next(s for s in node.log.segments() if s.header.segment_id == segment_id)


def read_segment(node: Services, segment: SegmentFile) -> list[Frame]:
    """Return the records of a sealed segment."""
    header = segment.header
    start = LogPosition(header.segment_id, SEGMENT_HEADER_BYTES, header.first_lsn - 1)
    return list(
        SegmentReader(
            segment=node.log.open_segments.open_anew(header.segment_id),
            start=start,
            stop=segment.end,
            durable_lsn=node.log.position.lsn,
        )
    )


def move_alive(node: Services, segment_id: int, *, tombstones: bool) -> None:
    """Append anew what is still needed of a segment."""
    drafts = [
        draft
        for frame in read_segment(node, find_segment(node, segment_id))
        if (draft := _move(node, frame)) is not None
        and (tombstones or not isinstance(draft.meta, PurgeFile | DropBlob))
    ]
    for draft in drafts:
        node.committer.submit(Append(draft))


def _move(node: Services, frame: Frame) -> Draft | None:
    meta = decode_meta(frame)
    if isinstance(meta, PurgeFile | DropBlob):
        return Draft(meta)
    with node.index.begin() as index:
        if isinstance(meta, PutBlob):
            blob = index.blob(meta.digest)
            is_alive = blob is not None and blob.lsn == frame.lsn and blob.references > 0
            moved = msgspec.structs.replace(meta, first_lsn=blob.first_lsn) if is_alive else None
            return Draft(moved, bytes(frame.data)) if moved else None
        file = None if isinstance(meta, SealSegment | DropSegment) else index.file(meta.id)
        is_alive = file is not None and frame.lsn >= file.base_lsn
        return Draft(take_snapshot(file)) if is_alive else None


def decide(node: Services, segment_id: int, *, tombstones: bool = True) -> DropSegment:
    """Move what is alive, and commit that the segment may go; return that record.

    Args:
        tombstones: of the segment are needed.
    """
    move_alive(node, segment_id, tombstones=tombstones)
    segment = find_segment(node, segment_id)
    assert segment.end is not None
    assert segment.last_lsn is not None
    drop = DropSegment(
        segment_id=segment_id,
        first_lsn=segment.header.first_lsn,
        last_lsn=segment.last_lsn,
        end=segment.end,
        sealed_at_ms=now_ms(),
        moved_lsn=node.log.position.lsn,
        dropped_at_ms=now_ms(),
    )
    node.committer.submit(Append(drop))
    _forgive(node)
    return drop


def _forgive(node: Services) -> None:
    """Let no store owe a stub, so that each one gets it when a test says so."""
    repository = IndexRepository(node.index)
    owed = [
        debt
        for name in ("primary", *node.stores.replicas)
        for debt in repository.due_debts(name, now_ms=now_ms(), limit=1000)
    ]
    with node.ledger.begin() as index:
        index.pay(debt for debt in owed if debt.kind is DebtKind.DROP_SEGMENT)


def find_drop(node: Services, segment_id: int) -> DropSegment | None:
    """Return the record of the log that says of a segment that it may go, if there is one."""
    metas = map(decode_meta, node.log.read(after_lsn=0, until=node.log.position))
    drops = [meta for meta in metas if isinstance(meta, DropSegment)]
    return next((drop for drop in drops if drop.segment_id == segment_id), None)


def compact(node: Services, *segment_ids: int, tombstones: bool = True) -> list[DropSegment]:
    """Have segments of a node replaced by their stubs."""
    drops = [decide(node, segment_id, tombstones=tombstones) for segment_id in segment_ids]
    for drop in drops:
        assert drop_segment(node.log, drop)
    return drops
