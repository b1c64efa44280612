"""What a store of blobs must do, and what any store can share.

`BlobStore` is the core that every store has. A further power is an interface of its own, which the
caller asks for with `isinstance`: `SweepsTemporaries`, `ListsBlobs`, `RemovesBlobs`.

A blob goes through three steps, so that the slow ones are outside the commit lock:

    staged = store.stage()          one upload, one thread
    staged.write(data)              as the bytes arrive
    staged.seal(digest)             the bytes are durable; nobody can see them
    store.publish([(staged, digest, size)])      inside the commit: durable under its name
    staged.discard()                always, at the end; after publish it does nothing
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from dfs.core.checksum import CRC32_BYTES, crc32
from dfs.core.errors import BlobCorruptError
from dfs.core.model import BLOCK_BYTES

DIGEST_BYTES = 32


class StagedBlob(Protocol):
    """Bytes on their way into a store. Written once, by one thread, front to back."""

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

        Raises:
            NoSpaceError: the disk or the quota is full.
            StoreUnavailableError: any other fault of the store.
            ValueError: the blob was sealed or discarded before.
        """

    def seal(self, digest: bytes) -> None:
        """Take the blob as complete.

        Args:
            digest: SHA-256 of all bytes written. It is believed, not checked.

        Raises:
            NoSpaceError, StoreUnavailableError: nothing is known about the bytes; discard them.
            ValueError: the blob was sealed or discarded before, or `digest` is no SHA-256.

        Durability: on return the bytes are durable, and so is the directory they will be named
            in. Nothing is visible yet.
        """

    def discard(self) -> None:
        """Drop the bytes. Never raises; may be repeated; does nothing after publish."""


class BlobReader(Protocol):
    """An open blob. Any number of threads may read at once; close it when none does any more."""

    @property
    def size(self) -> int:
        """Bytes of the blob as the store holds it, when it was opened."""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; fewer only where the blob ends.

        Raises:
            StoreUnavailableError: the store could not read.
            ValueError: the reader is closed.
        """

    def close(self) -> None:
        """Give back what the reader holds. May be repeated."""

    def __enter__(self) -> Self:
        """Return the reader itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the reader."""


class BlobStore(Protocol):
    """A place that holds blobs by their digest. Shared by all threads of a process."""

    @property
    def name(self) -> str:
        """How the store is called in answers and logs: "primary", "replica1"."""

    def stage(self) -> StagedBlob:
        """Begin an upload.

        Raises:
            NoSpaceError, StoreUnavailableError: nothing was begun.
        """

    def publish(self, staged: Sequence[tuple[StagedBlob, bytes, int]]) -> list[bytes]:
        """Give sealed blobs their names: all, or on an error none.

        A blob that the store has already is replaced: the staged bytes have just been hashed,
        those in the store may have been damaged since.

        Args:
            staged: (blob of this store, digest it was sealed with, bytes written to it).

        Returns:
            The digests that the store did not have under any size, in order: those `withdraw` may
            take back.

        Raises:
            NoSpaceError, StoreUnavailableError: as if nothing had been published.
            ValueError: a blob is not sealed, or not with that digest and size.

        Durability: on return every blob named is durable, those that were there before included.
        """

    def withdraw(self, digests: Sequence[bytes]) -> None:
        """Undo `publish` for a commit that failed. Best effort: a missing blob is no error.

        Args:
            digests: what `publish` returned, before anybody was told of it.
        """

    def has(self, digest: bytes, size: int) -> bool:
        """Return whether a blob of that digest and size is there. Its bytes are not read.

        Raises:
            StoreUnavailableError: the store could not tell.
        """

    def open(self, digest: bytes) -> BlobReader:
        """Open a blob for reading.

        Raises:
            BlobMissingError: the store does not hold it.
            StoreUnavailableError: the store could not tell.
        """


@runtime_checkable
class SweepsTemporaries(Protocol):
    """A store in which an upload that was cut off leaves something behind."""

    def sweep(self, *, older_than_s: float | None) -> int:
        """Remove what dead uploads left; what a live process still writes stays.

        Args:
            older_than_s: only what was not written to for that long; None for all of it.

        Returns:
            How many were removed.

        Raises:
            StoreUnavailableError: the leftovers could not be listed or removed.
        """


@runtime_checkable
class ListsBlobs(Protocol):
    """A store that can say what it holds."""

    def list_blobs(self) -> Iterator[tuple[bytes, int]]:
        """Yield (digest, size) of each blob, in the order of the digests.

        Blobs published or removed meanwhile may be in it or not.

        Raises:
            StoreUnavailableError: the listing broke off.
        """


@runtime_checkable
class RemovesBlobs(Protocol):
    """A store that can forget a blob."""

    def remove(self, digest: bytes) -> bool:
        """Remove a blob that nobody refers to.

        Returns:
            Whether it was there.

        Raises:
            StoreUnavailableError: it may still be there.

        Durability: on return the blob stays away after a power cut.
        """


def blob_name(digest: bytes) -> str:
    """Return the name of a blob relative to its store: `blobs/ab/cd/<sha256 in hexadecimal>`.

    Raises:
        ValueError: `digest` is not 32 bytes.
    """
    require_digest(digest)
    name = digest.hex()
    return f"blobs/{name[:2]}/{name[2:4]}/{name}"


def require_digest(digest: bytes) -> None:
    """Raise ValueError if `digest` does not have the length of a SHA-256."""
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")


def read_verified(
    reader: BlobReader,
    *,
    size: int,
    block_crc32s: bytes,
    start: int,
    stop: int,
    digest: bytes | None = None,
) -> Iterator[bytes]:
    """Read a run of bytes of a blob, each block of it checked before a byte of it is passed on.

    Args:
        reader: the blob; stays open.
        size: bytes the blob must have.
        block_crc32s: as in `model.Blob`.
        start, stop: the run is [start, stop), with 0 <= start <= stop <= size.
        digest: only for the text of an error.

    Returns:
        The run in pieces of at most `BLOCK_BYTES`, in order, none empty. Blocks are read one by
        one as the pieces are asked for.

    Raises:
        BlobCorruptError: at once if blob or checksums do not have their sizes; while reading, at
            the first block that is short or does not have its checksum (context: `block`).
        StoreUnavailableError: while reading.
        ValueError: the run is not inside the blob.
    """
    if not 0 <= start <= stop <= size:
        raise ValueError(f"[{start}, {stop}) is not inside {size} bytes")
    named = {"digest": digest.hex()} if digest is not None else {}
    if reader.size != size:
        raise BlobCorruptError(
            "The blob does not have its size.", size=reader.size, size_expected=size, **named
        )
    if len(block_crc32s) != -(-size // BLOCK_BYTES) * CRC32_BYTES:
        raise BlobCorruptError(
            "The blob does not have one checksum a block.",
            size=size,
            checksum_bytes=len(block_crc32s),
            **named,
        )
    return _verified_pieces(reader, block_crc32s, start, stop, named)


def _verified_pieces(
    reader: BlobReader, block_crc32s: bytes, start: int, stop: int, named: dict[str, str]
) -> Iterator[bytes]:
    """Yield the run that `read_verified` has found to be sound in its sizes."""
    position = start
    while position < stop:
        block = position // BLOCK_BYTES
        block_start = block * BLOCK_BYTES
        length = min(BLOCK_BYTES, reader.size - block_start)
        data = reader.read(block_start, length)
        checksum = block_crc32s[block * CRC32_BYTES : (block + 1) * CRC32_BYTES]
        if len(data) != length or crc32(data) != int.from_bytes(checksum, "little"):
            raise BlobCorruptError(
                "A block of the blob does not have its checksum.",
                block=block,
                offset=block_start,
                read_bytes=len(data),
                **named,
            )
        # Slicing a whole `bytes` object returns the object itself: no copy on the common way.
        yield data[position - block_start : stop - block_start]
        position = block_start + length
