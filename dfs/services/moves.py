"""The commands of compaction: to append anew what a segment still says, and to drop the segment.

What is alive in a segment, which is to say still the truth:

    PutBlob                 the row of the blob has this record as its place, and if the bytes are
                            in it, a file refers to them
    PutFile                 it is the last record that put the file
    UpdateFile, DeleteFile, it stands behind the last record that put the file: no later change
    RestoreFile             says all that it said
    PutKey                  it is the last record that put the API key
    PurgeFile, DropBlob,    another segment may still hold what it took away; or some store still
    RevokeKey               has the blob, which an index that is rebuilt must know
    DropSegment             some store still has that segment

A file is moved as one snapshot, `PutFile` with all that is known of it, whichever of its records is
alive: a change that stood behind the file's record could not be applied in front of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from dfs.core.clock import now_ms
from dfs.core.model import BlobKind, File, Segment
from dfs.db.transaction import IndexTransaction
from dfs.services.command import RECORD_OVERHEAD_BYTES, Bytesless, Draft
from dfs.wal.frame import FRAME_HEADER_BYTES, Frame
from dfs.wal.record import (
    DeleteFile,
    DropBlob,
    DropSegment,
    FileExtent,
    Meta,
    PurgeFile,
    PutBlob,
    PutFile,
    PutKey,
    RestoreFile,
    RevokeKey,
    UpdateFile,
    encode_meta,
)
from dfs.wal.segment import SEGMENT_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class Existing:
    """The segments that hold records on some store, apart from the one that is compacted.

    Attributes:
        spans: (first LSN, last LSN) of each.
        ids: theirs.
        removals: digests of dropped blobs that some store has yet to remove.
    """

    spans: Sequence[tuple[int, int]]
    ids: frozenset[int]
    removals: frozenset[bytes]

    def may_hold(self, first_lsn: int, before_lsn: int) -> bool:
        """Tell whether any holds records from `first_lsn` on and before another one."""
        return any(first < before_lsn and last >= first_lsn for first, last in self.spans)


class MoveRecords(Bytesless):
    """Append anew what is alive of some records, as far as there is room for it.

    A file's snapshot may be many times as large as the record for which it is moved. What would
    make the commit larger than was announced is left to the next command.

    Args:
        records: of one segment, with their data.
        existing: what decides about tombstones.

    Attributes:
        moved_count: records appended; known when the command has been planned.
        seen_count: of the records given, those that are done with, likewise. One at least.
    """

    def __init__(self, records: Sequence[tuple[Frame, Meta]], existing: Existing) -> None:
        self.moved_count = self.seen_count = 0
        self.log_bytes_max = sum(frame.length + RECORD_OVERHEAD_BYTES for frame, _ in records)
        self.file_ids = [meta.id for _, meta in records if isinstance(meta, _OF_FILE)]
        self.digests = [meta.digest for _, meta in records if isinstance(meta, PutBlob)]
        self._records = records
        self._existing = existing

    def plan(self, index: IndexTransaction) -> list[Draft]:
        drafts: list[Draft] = []
        moved: set[str] = set()
        bytes_left = self.log_bytes_max
        self.seen_count = 0
        for frame, meta in self._records:
            found = self._move(frame, meta, index, moved)
            bytes_left -= sum(map(_measure, found))
            if found and drafts and bytes_left < 0:
                break
            drafts += found
            self.seen_count += 1
        self.moved_count = len(drafts)
        return drafts

    def _move(
        self, frame: Frame, meta: Meta, index: IndexTransaction, moved: set[str]
    ) -> list[Draft]:
        """Return what to append for one record; nothing, if it is dead.

        Args:
            moved: ids of the files of which there is a snapshot already.
        """
        if isinstance(meta, PutBlob):
            return _move_blob(frame, meta, index)
        if isinstance(meta, PutKey):
            return _move_key(frame, meta, index)
        if not isinstance(meta, _OF_FILE):
            return _move_tombstone(frame, meta, self._existing)
        file = index.file(meta.id)
        if file is None or file.id in moved or not _is_truth(frame, meta, file):
            return []
        moved.add(file.id)
        return [Draft(take_snapshot(file))]


class DropCompacted(Bytesless):
    """Drop a segment in which nothing is alive any more.

    Attributes:
        is_dropped: known when the command has been planned. If not, something in it is alive.
    """

    log_bytes_max = RECORD_OVERHEAD_BYTES

    def __init__(self, segment: Segment) -> None:
        self.is_dropped = False
        self._segment = segment

    def plan(self, index: IndexTransaction) -> list[Draft]:
        segment, use = self._segment, index.segment_use(self._segment.id)
        records_bytes = segment.size_bytes - SEGMENT_HEADER_BYTES
        if index.node_state is None or use.dead_bytes + use.tombstone_bytes != records_bytes:
            return []
        self.is_dropped = True
        drop = DropSegment(
            segment_id=segment.id,
            first_lsn=segment.first_lsn,
            last_lsn=segment.last_lsn,
            end=segment.size_bytes,
            sealed_at_ms=segment.sealed_at_ms,
            moved_lsn=index.node_state.applied_lsn,
            dropped_at_ms=now_ms(),
        )
        return [Draft(drop)]


_OF_FILE = PutFile | UpdateFile | DeleteFile | RestoreFile


def _measure(draft: Draft) -> int:
    """Return how many bytes of the log a record takes."""
    return FRAME_HEADER_BYTES + len(encode_meta(draft.meta)[1]) + len(draft.data)


def _is_truth(frame: Frame, meta: Meta, file: File) -> bool:
    if isinstance(meta, PutFile):
        return frame.lsn == file.base_lsn
    return frame.lsn > file.base_lsn


def _move_blob(frame: Frame, meta: PutBlob, index: IndexTransaction) -> list[Draft]:
    blob = index.blob(meta.digest)
    if blob is None or blob.lsn != frame.lsn:
        return []
    if blob.kind is BlobKind.INLINE and not blob.references:
        index.remove_blob(blob.digest)  # its bytes go with the segment
        return []
    moved = PutBlob(
        digest=blob.digest,
        size=blob.size,
        inline=blob.kind is BlobKind.INLINE,
        block_crc32s=blob.block_crc32s,
        first_lsn=blob.first_lsn,
    )
    return [Draft(moved, bytes(frame.data))]


def _move_key(frame: Frame, meta: PutKey, index: IndexTransaction) -> list[Draft]:
    key = index.keys.find(meta.id)
    if key is None or key.lsn != frame.lsn:
        return []
    return [Draft(replace(meta, first_lsn=key.first_lsn))]


def _move_tombstone(frame: Frame, meta: Meta, existing: Existing) -> list[Draft]:
    match meta:
        case PurgeFile(id=file_id, purged_at_ms=at_ms, first_lsn=first_lsn, at_lsn=at_lsn):
            own_lsn = at_lsn or frame.lsn
            kept: Meta = PurgeFile(file_id, at_ms, first_lsn, own_lsn)
        case RevokeKey(first_lsn=first_lsn, at_lsn=at_lsn):
            own_lsn = at_lsn or frame.lsn
            kept = replace(meta, at_lsn=own_lsn)
        case DropBlob(digest=digest, first_lsn=first_lsn, at_lsn=at_lsn):
            own_lsn = at_lsn or frame.lsn
            kept = DropBlob(digest, first_lsn, own_lsn)
            if digest in existing.removals:
                return [Draft(kept)]
        case DropSegment(segment_id=segment_id):
            return [Draft(meta)] if segment_id in existing.ids else []
        case _:
            return []
    return [Draft(kept)] if existing.may_hold(first_lsn, own_lsn) else []


def take_snapshot(file: File) -> PutFile:
    """Return the record that says all that is known of a file."""
    return PutFile(
        id=file.id,
        bucket=file.bucket,
        key=file.key,
        size=file.size,
        digest=file.digest,
        content_type=file.content_type,
        created_at_ms=file.created_at_ms,
        metadata=dict(file.metadata),
        expires_at_ms=file.expires_at_ms,
        extents=[FileExtent(run.digest, run.offset, run.length) for run in file.extents],
        updated_at_ms=file.updated_at_ms,
        deleted_at_ms=file.deleted_at_ms,
        first_lsn=file.first_lsn,
        by=file.made_by,
    )
