"""Reading a file: every byte checked, and from a replica where the primary does not have it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dfs.core.errors import (
    BlobCorruptError,
    BlobMissingError,
    StorageError,
    WalCorruptError,
    WalDroppedError,
    WalGapError,
)
from dfs.core.model import Blob, BlobKind, Extent, File
from dfs.services.damage import DamageBook
from dfs.services.stores import Stores
from dfs.services.verified_files import VerifiedFiles
from dfs.storage.base import BlobReader, BlobStore, KeepsSegments
from dfs.storage.names import blob_name
from dfs.storage.verified import read_verified
from dfs.wal.frame import Frame, decode_frame
from dfs.wal.log import WriteAheadLog


class Download:
    """A file being read. Every byte is checked before it is handed out.

    A block that the primary does not have whole comes from a replica, in the middle of the file.
    Bytes that have been moved in the log since the index was asked are looked up again. Close it
    when done; it holds open files.

    Args:
        blobs: of each extent of the file.
        find_blob: asks the index for a blob anew.
        verified: is told of blob files that were read whole; None if nobody asks.
    """

    def __init__(
        self,
        *,
        file: File,
        blobs: Sequence[Blob],
        find_blob: Callable[[bytes], Blob | None],
        log: WriteAheadLog,
        stores: Stores,
        damage: DamageBook,
        verified: VerifiedFiles | None = None,
    ) -> None:
        self.file = file
        self._blobs = blobs
        self._find_blob = find_blob
        self._log = log
        self._stores = stores
        self._damage = damage
        self._verified = verified
        self._readers: dict[tuple[str, bytes], BlobReader] = {}

    def read_all(self) -> bytes | None:
        """Return the whole file if it is one inline blob, which is the quick way; else None.

        Raises:
            BlobCorruptError, BlobMissingError, StorageError.
        """
        if self.file.extents or self._blobs[0].kind is not BlobKind.INLINE:
            return None
        return self._read_inline(self._blobs[0])

    def find_sound_file(self) -> str | None:
        """Return where another program may read the whole file, which then is not checked.

        It is one blob file of the primary, and was found sound a short while ago.

        Returns:
            Its name below `blobs/` of that store; None if only `read` will do.
        """
        blob = self._blobs[0]
        if self._verified is None or self.file.extents or blob.kind is not BlobKind.FILE:
            return None
        if not self._verified.has(blob.digest):
            return None
        return blob_name(blob.digest).removeprefix("blobs/")

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of the file in pieces of at most 1 MiB.

        Raises:
            BlobCorruptError, BlobMissingError: no store has the block concerned; raised before its
                first byte.
            StorageError: the disk failed.
        """
        extents = self.file.extents or (Extent(self.file.digest, 0, self.file.size),)
        extent_start = 0
        for extent, blob in zip(extents, self._blobs, strict=True):
            first = max(start, extent_start) - extent_start
            last = min(stop, extent_start + extent.length) - extent_start
            if first < last:
                yield from self._read_blob(blob, extent.offset + first, extent.offset + last)
            extent_start += extent.length

    def close(self) -> None:
        """Close what was opened. Safe to call twice."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _read_blob(self, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        if blob.kind is BlobKind.INLINE:
            yield self._read_inline(blob)[start:stop]
            return
        failure: StorageError | None = None
        for store in self._stores.all():
            try:
                for piece in self._read_copy(store, blob, start, stop):
                    yield piece
                    start += len(piece)
            except StorageError as error:
                failure = failure or error
                self._note_failure(store, blob, error)
            else:
                if failure is not None:
                    self._damage.note_rescue(store.name)
                return
        if failure is not None:
            self._damage.note_rescue(None)
            raise failure

    def _read_copy(self, store: BlobStore, blob: Blob, start: int, stop: int) -> Iterator[bytes]:
        """Yield a run of a blob file as one store has it, checked."""
        reader = self._readers.get((store.name, blob.digest))
        if reader is None:
            reader = self._readers[store.name, blob.digest] = store.open(blob.digest)
        yield from read_verified(
            reader,
            size=blob.size,
            block_crc32s=blob.block_crc32s,
            start=start,
            stop=stop,
            digest=blob.digest,
        )
        if self._verified and store is self._stores.primary and stop - start == blob.size:
            self._verified.note(blob.digest, reader)

    def _note_failure(self, store: BlobStore, blob: Blob, error: StorageError) -> None:
        """Have a copy mended. A replica that does not answer is not thereby damaged."""
        is_damage = isinstance(error, BlobCorruptError | BlobMissingError)
        if is_damage or store is self._stores.primary:
            self._damage.note_blob(store.name, blob, error)

    def _read_inline(self, blob: Blob) -> bytes:
        """Return the bytes of an inline blob, from the log of this node or a copy of it."""
        failure: StorageError
        try:
            return read_inline(self._log, blob)
        except WalDroppedError:
            moved = self._find_blob(blob.digest)
            if moved is not None and moved.lsn > blob.lsn:
                return b"".join(self._read_blob(moved, 0, moved.size))
            failure = _missing_record(blob)  # the file was removed for good since it was opened
        except StorageError as error:
            failure = error
            self._damage.note_segment(self._stores.primary.name, blob.segment_id, failure)
        for store in self._stores.replicas.values():
            try:
                data = read_inline_copy(store, blob)
            except StorageError:
                continue  # a copy that is short of it is behind, or found by the scrub
            self._damage.note_rescue(store.name)
            return data
        self._damage.note_rescue(None)
        raise failure


def read_inline(log: WriteAheadLog, blob: Blob) -> bytes:
    """Return the bytes of an inline blob, checked.

    Raises:
        BlobMissingError: its segment is not there.
        BlobCorruptError: its record is damaged, or is another one.
        WalDroppedError: it has been moved since its place was looked up.
        StorageError: the disk failed.
    """
    try:
        frame = log.read_record(segment_id=blob.segment_id, offset=blob.offset, length=blob.length)
    except WalGapError as error:
        raise _missing_record(blob) from error
    except WalCorruptError as error:
        raise _damaged_record(blob) from error
    return _inline_bytes(frame, blob)


def read_inline_copy(store: KeepsSegments, blob: Blob) -> bytes:
    """Return the bytes of an inline blob from a copy of the log. Raises as `read_inline`."""
    data = store.read_segment(blob.segment_id, blob.offset, blob.length)
    try:
        frame = decode_frame(memoryview(data), segment_id=blob.segment_id, offset=blob.offset)
    except WalCorruptError as error:
        raise _damaged_record(blob) from error
    return _inline_bytes(frame, blob)


def _inline_bytes(frame: Frame, blob: Blob) -> bytes:
    if frame.lsn != blob.lsn or len(frame.data) != blob.size:
        raise BlobCorruptError(
            "Another record lies where the bytes of this file should be.",
            segment_id=blob.segment_id,
            offset=blob.offset,
            lsn=frame.lsn,
        )
    return bytes(frame.data)


def _missing_record(blob: Blob) -> BlobMissingError:
    return BlobMissingError(
        "The segment that holds the bytes of this file is missing.", segment_id=blob.segment_id
    )


def _damaged_record(blob: Blob) -> BlobCorruptError:
    return BlobCorruptError(
        "The record that holds the bytes of this file is damaged.",
        segment_id=blob.segment_id,
        offset=blob.offset,
        lsn=blob.lsn,
    )
