"""What each record of the log does to the index.

The only code that changes files and blobs in the index; uploads, tail recovery and rebuild all come
through here. Applying a record again, or an older one after a newer one, changes nothing: each row
carries the LSN that made it. What is owed to the replicas is no part of the log: an index that is
rebuilt owes them every copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dfs.core.clock import now_ms
from dfs.core.errors import WalCorruptError
from dfs.core.model import Blob, BlobKind, Extent, File, Segment
from dfs.db.transaction import IndexTransaction
from dfs.wal.frame import Frame
from dfs.wal.record import (
    DeleteFile,
    Meta,
    PutBlob,
    PutFile,
    SealSegment,
    UpdateFile,
)


def apply(frame: Frame, meta: Meta, index: IndexTransaction) -> None:
    """Do to the index what one record says.

    Args:
        frame: where the record lies in the log.
        meta: what it says.

    Raises:
        WalCorruptError: it refers to a blob that no record before it has put.
    """
    _APPLIERS[type(meta)](frame, meta, index)


def preload(metas: Iterable[Meta], index: IndexTransaction) -> None:
    """Fetch with few statements all rows that applying these records will look at."""
    file_ids: list[str] = []
    digests: list[bytes] = []
    for meta in metas:
        if isinstance(meta, PutBlob):
            digests.append(meta.digest)
        elif isinstance(meta, PutFile):
            file_ids.append(meta.id)
            digests.extend(_digests(meta))
        elif isinstance(meta, DeleteFile | UpdateFile):
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
        )
    )
    if kind is BlobKind.FILE:
        index.owe_copies(meta.digest, meta.size, now_ms())


def _put_file(frame: Frame, meta: PutFile, index: IndexTransaction) -> None:
    known = index.file(meta.id)
    if known is not None:
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
            updated_at_ms=meta.created_at_ms,
            expires_at_ms=meta.expires_at_ms,
            lsn=frame.lsn,
            extents=tuple(
                Extent(extent.digest, extent.offset, extent.length) for extent in meta.extents
            ),
        )
    )
    _refer(_digests(meta), 1, frame, index)


def _update_file(frame: Frame, meta: UpdateFile, index: IndexTransaction) -> None:
    known = index.file(meta.id)
    if known is None or known.lsn >= frame.lsn:
        return
    index.put_file(
        File(
            id=known.id,
            bucket=known.bucket,
            key=meta.key,
            size=known.size,
            digest=known.digest,
            content_type=meta.content_type,
            metadata=meta.metadata,
            created_at_ms=known.created_at_ms,
            updated_at_ms=meta.updated_at_ms,
            expires_at_ms=meta.expires_at_ms,
            lsn=frame.lsn,
            extents=known.extents,
        )
    )


def _delete_file(frame: Frame, meta: DeleteFile, index: IndexTransaction) -> None:
    known = index.file(meta.id)
    if known is None or known.lsn >= frame.lsn:
        return
    index.remove_file(meta.id)
    _refer(known.blob_digests(), -1, frame, index)


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


def _refer(digests: Sequence[bytes], change: int, frame: Frame, index: IndexTransaction) -> None:
    for digest in digests:
        blob = index.blob(digest)
        if blob is None:
            raise WalCorruptError(
                "A record of the log refers to a blob that was never put.",
                digest=digest.hex(),
                segment_id=frame.segment_id,
                offset=frame.offset,
                lsn=frame.lsn,
            )
        if blob.references == 0 and change > 0 and blob.kind is BlobKind.FILE:
            # A replica that was replaced while nobody needed the blob does not have it.
            index.owe_copies(digest, blob.size, now_ms())
        index.put_blob(
            Blob(
                digest=digest,
                size=blob.size,
                kind=blob.kind,
                segment_id=blob.segment_id,
                offset=blob.offset,
                length=blob.length,
                block_crc32s=blob.block_crc32s,
                references=blob.references + change,
                lsn=blob.lsn,
            )
        )


def _digests(meta: PutFile) -> list[bytes]:
    return [extent.digest for extent in meta.extents] or [meta.digest]


_APPLIERS: dict[type, Callable[..., None]] = {
    PutBlob: _put_blob,
    PutFile: _put_file,
    UpdateFile: _update_file,
    DeleteFile: _delete_file,
    SealSegment: _seal_segment,
}
