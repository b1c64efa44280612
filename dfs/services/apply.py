"""What each record of the log does to the index.

The only code that changes files, blobs and API keys in the index; uploads, tail recovery and
rebuild all come through here. Applying a record again, or an older one after a newer one, changes
nothing: each row carries the LSN that made it. What is owed to the stores is no part of the log: an
index that is rebuilt owes them every copy, and every removal.

Compaction moves what is alive to the end of the log, so that a rebuild may meet a file before its
blob, or what is left of something that is gone. A blob that files refer to and no record has put
yet stands in the index as one that is nowhere, until a record puts it or no file refers to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from dfs.core.access import ALL_SCOPES, Key
from dfs.core.clock import now_ms
from dfs.core.model import PRIMARY_NAME, Blob, BlobKind, Debt, Extent, File, Segment
from dfs.db.transaction import IndexTransaction
from dfs.wal.frame import Frame
from dfs.wal.record import (
    DeleteFile,
    DropBlob,
    DropSegment,
    Meta,
    PurgeFile,
    PutBlob,
    PutFile,
    PutKey,
    RestoreFile,
    RevokeKey,
    SealSegment,
    UpdateFile,
)

UNUSED_COUNT_MAX = 1000
"""So many rows of blobs that nobody refers to are removed at a time."""
REMOVAL_DELAY_MS = 3_600_000
"""A replica removes a dropped blob so much later. A synchronous write that found the blob there may
take almost as long to commit, and can count on it."""


def apply(frame: Frame, meta: Meta, index: IndexTransaction) -> None:
    """Do to the index what one record says.

    Args:
        frame: where the record lies in the log.
        meta: what it says.
    """
    state = index.node_state
    if state is None or frame.lsn > state.applied_lsn:
        index.add_record(frame.segment_id, frame.length)
        _APPLIERS[type(meta)](frame, meta, index)


def preload(metas: Iterable[Meta], index: IndexTransaction) -> None:
    """Fetch with few statements all rows that applying these records will look at."""
    file_ids: list[str] = []
    digests: list[bytes] = []
    for meta in metas:
        if isinstance(meta, PutFile):
            file_ids.append(meta.id)
            digests.extend(_digests(meta))
        elif isinstance(meta, PutBlob | DropBlob):
            digests.append(meta.digest)
        elif not isinstance(meta, SealSegment | DropSegment | PutKey | RevokeKey):
            file_ids.append(meta.id)
    index.preload(file_ids=file_ids, digests=digests)


def _put_blob(frame: Frame, meta: PutBlob, index: IndexTransaction) -> None:
    known = index.blob(meta.digest)
    if known is not None and known.lsn >= frame.lsn:
        return
    kind = BlobKind.INLINE if meta.inline else BlobKind.FILE
    index.put_blob(
        Blob(
            digest=meta.digest,
            size=meta.size,
            kind=kind,
            segment_id=frame.segment_id,
            offset=frame.offset,
            length=frame.length,
            block_crc32s=meta.block_crc32s,
            references=known.references if known is not None else 0,
            lsn=frame.lsn,
            first_lsn=_first_lsn(frame, meta, known),
        )
    )
    was_file = known is not None and known.kind is BlobKind.FILE
    if kind is BlobKind.FILE and not (was_file and meta.first_lsn):
        index.owe_copies(meta.digest, meta.size, now_ms())
    elif kind is BlobKind.INLINE and was_file:
        _owe_removals(meta.digest, meta.size, frame, index)


def _first_lsn(
    frame: Frame, meta: PutBlob | PutFile | PutKey, known: Blob | File | Key | None
) -> int:
    """Return the first record that put the same, as far as record and index know."""
    own = meta.first_lsn or frame.lsn
    return min(known.first_lsn, own) if known is not None and known.first_lsn else own


def _put_file(frame: Frame, meta: PutFile, index: IndexTransaction) -> None:
    known = index.file(meta.id)
    if known is not None and known.lsn >= frame.lsn:
        return
    index.put_file(
        File(
            id=meta.id,
            bucket=meta.bucket,
            key=meta.key,
            size=meta.size,
            digest=meta.digest,
            content_type=meta.content_type,
            metadata=meta.metadata,
            created_at_ms=meta.created_at_ms,
            updated_at_ms=meta.updated_at_ms or meta.created_at_ms,
            expires_at_ms=meta.expires_at_ms,
            lsn=frame.lsn,
            extents=tuple(
                Extent(extent.digest, extent.offset, extent.length) for extent in meta.extents
            ),
            deleted_at_ms=meta.deleted_at_ms,
            first_lsn=_first_lsn(frame, meta, known),
            base_lsn=frame.lsn,
            base_segment_id=frame.segment_id,
            base_length=frame.length,
            made_by=meta.by,
        )
    )
    if known is None:
        _refer(_digests(meta), 1, index)


def _update_file(frame: Frame, meta: UpdateFile, index: IndexTransaction) -> None:
    known = index.file(meta.id)
    if known is not None and known.lsn < frame.lsn:
        index.put_file(
            replace(
                known,
                key=meta.key,
                content_type=meta.content_type,
                metadata=meta.metadata,
                updated_at_ms=meta.updated_at_ms,
                expires_at_ms=meta.expires_at_ms,
                lsn=frame.lsn,
            )
        )


def _delete_file(frame: Frame, meta: DeleteFile, index: IndexTransaction) -> None:
    known = index.file(meta.id)
    if known is not None and known.lsn < frame.lsn:
        index.put_file(replace(known, deleted_at_ms=meta.deleted_at_ms, lsn=frame.lsn))


def _restore_file(frame: Frame, meta: RestoreFile, index: IndexTransaction) -> None:
    known = index.file(meta.id)
    if known is not None and known.lsn < frame.lsn:
        expires_at_ms = meta.expires_at_ms
        index.put_file(
            replace(known, deleted_at_ms=None, expires_at_ms=expires_at_ms, lsn=frame.lsn)
        )


def _purge_file(frame: Frame, meta: PurgeFile, index: IndexTransaction) -> None:
    index.add_tombstone(frame.segment_id, frame.length, meta.first_lsn)
    known = index.file(meta.id)
    if known is not None and known.lsn < frame.lsn:
        index.remove_file(meta.id)
        _refer(known.blob_digests(), -1, index)


def _drop_blob(frame: Frame, meta: DropBlob, index: IndexTransaction) -> None:
    index.add_tombstone(frame.segment_id, frame.length, meta.first_lsn)
    known = index.blob(meta.digest)
    if known is None:
        _owe_removals(meta.digest, 0, frame, index)
    elif known.kind is BlobKind.FILE and known.lsn < (meta.at_lsn or frame.lsn):
        _put_nowhere(meta.digest, known.references, index)
        _owe_removals(meta.digest, known.size, frame, index)


def _put_key(frame: Frame, meta: PutKey, index: IndexTransaction) -> None:
    known = index.keys.find(meta.id)
    if known is not None and known.lsn >= frame.lsn:
        return
    index.keys.put(
        Key(
            id=meta.id,
            name=meta.name,
            scopes=meta.scopes & ALL_SCOPES,
            prefix=meta.prefix,
            secret_hash=meta.secret_hash,
            signing_key=meta.signing_key,
            created_at_ms=meta.created_at_ms,
            expires_at_ms=meta.expires_at_ms,
            created_by=meta.by,
            last_used_at_ms=None if known is None else known.last_used_at_ms,
            lsn=frame.lsn,
            first_lsn=_first_lsn(frame, meta, known),
            segment_id=frame.segment_id,
            length=frame.length,
        )
    )


def _revoke_key(frame: Frame, meta: RevokeKey, index: IndexTransaction) -> None:
    index.add_tombstone(frame.segment_id, frame.length, meta.first_lsn)
    known = index.keys.find(meta.id)
    revoked_lsn = meta.at_lsn or frame.lsn  # one that was moved says nothing of a later key
    if known is not None and known.lsn < revoked_lsn:
        index.keys.remove(known)


def _seal_segment(frame: Frame, meta: SealSegment, index: IndexTransaction) -> None:
    index.put_segment(
        Segment(
            id=meta.segment_id,
            first_lsn=meta.first_lsn,
            last_lsn=frame.lsn,
            size_bytes=frame.offset + frame.length,
            sealed_at_ms=meta.sealed_at_ms,
        )
    )


def _drop_segment(frame: Frame, meta: DropSegment, index: IndexTransaction) -> None:
    """Nothing of a segment is needed any more: so the log says, and later the segment's stub."""
    index.put_segment(
        Segment(
            id=meta.segment_id,
            first_lsn=meta.first_lsn,
            last_lsn=meta.last_lsn,
            size_bytes=meta.end,
            sealed_at_ms=meta.sealed_at_ms,
        )
    )
    forget_records(meta.segment_id, meta.dropped_at_ms, index)
    # The record may share its commit with changes that made the last of the segment dead.
    needed_lsn = max(meta.moved_lsn, frame.lsn)
    index.owe(
        Debt.of_drop(store, meta.segment_id, meta.end, meta.dropped_at_ms, lsn=needed_lsn)
        for store in (PRIMARY_NAME, *index.replicas)
    )


def forget_records(segment_id: int, dropped_at_ms: int, index: IndexTransaction) -> None:
    """Let the index know no record any more of a segment that was dropped."""
    while unused := index.unused_inline_blobs(segment_id, UNUSED_COUNT_MAX):
        index.preload(digests=unused)
        for digest in unused:
            index.remove_blob(digest)
    index.drop_segment(segment_id, dropped_at_ms)


def _refer(digests: Sequence[bytes], change: int, index: IndexTransaction) -> None:
    for digest in digests:
        blob = index.blob(digest)
        if blob is None or blob.kind is BlobKind.NOWHERE:
            _put_nowhere(digest, change + (blob.references if blob is not None else 0), index)
            continue
        if blob.references == 0 and change > 0 and blob.kind is BlobKind.FILE:
            # A replica that was replaced while nobody needed the blob does not have it.
            index.owe_copies(digest, blob.size, now_ms())
        index.put_blob(replace(blob, references=blob.references + change))


def _put_nowhere(digest: bytes, references: int, index: IndexTransaction) -> None:
    """Note that no record puts a blob any more, or yet; without references it is forgotten."""
    if references:
        index.put_blob(Blob(digest, 0, BlobKind.NOWHERE, 0, 0, 0, b"", references, 0))
    else:
        index.remove_blob(digest)


def _owe_removals(digest: bytes, size: int, frame: Frame, index: IndexTransaction) -> None:
    """Note that no store may keep a blob file. If it is put again, they are void."""
    moment = now_ms()
    index.owe([Debt.of_removal(PRIMARY_NAME, digest, size, moment, lsn=frame.lsn)])
    index.owe(
        Debt.of_removal(store, digest, size, moment + REMOVAL_DELAY_MS, lsn=frame.lsn)
        for store in index.replicas
    )


def _digests(meta: PutFile) -> list[bytes]:
    return [extent.digest for extent in meta.extents] or [meta.digest]


_APPLIERS: dict[type, Callable[..., None]] = {
    PutBlob: _put_blob,
    PutFile: _put_file,
    UpdateFile: _update_file,
    DeleteFile: _delete_file,
    RestoreFile: _restore_file,
    PurgeFile: _purge_file,
    DropBlob: _drop_blob,
    SealSegment: _seal_segment,
    DropSegment: _drop_segment,
    PutKey: _put_key,
    RevokeKey: _revoke_key,
}
