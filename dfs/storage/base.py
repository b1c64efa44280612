"""What a store of blobs must do.

`BlobStore` is the core that every store has. A further power is an interface of its own, which the
caller asks for with `isinstance`: `SweepsTemporaries`, `ListsBlobs`, `RemovesBlobs`,
`QuarantinesBlobs`, `StampsBlobs`, `KeepsSegments`.

A store is at a root: a directory, or a prefix in a bucket. Only `prepare` creates it. A root that
has vanished (a disk that is not mounted) is a fault of the store, never an empty store.

A blob goes through three steps, so that the slow ones are outside the commit lock:

    staged = store.stage()          one upload, one thread
    staged.write(data)              as the bytes arrive
    staged.seal(digest)             the bytes are durable; nobody can see them
    store.publish([(staged, digest, size)])      durable under its name
    staged.discard()                always, at the end; after publish it does nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, Self, runtime_checkable

from dfs.storage.identity import StoreIdentity
from dfs.storage.names import PutAside
from dfs.storage.stamp import FileStamp


class StagedBlob(Protocol):
    """Bytes on their way into a store. Written once, by one thread, front to back."""

    def room(self) -> memoryview | None:
        """Return memory in which the next bytes may be put, for `fill`; None if there is none.

        Raises:
            ValueError: the blob was sealed or discarded before.
        """

    def fill(self, count: int) -> None:
        """Append the first `count` bytes of `room`, without a copy.

        They stay there until `write` or `fill` is called again.

        Raises:
            NoSpaceError, StoreUnavailableError: as `write`.
            ValueError: the room is smaller, or was asked for before something else was written.
        """

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

        Durability: on a disk the bytes are durable, and so is the directory they will be named
            in. An object store sends them only when they are published. Nothing is visible yet.
        """

    def open(self) -> BlobReader:
        """Read back what was sealed. Close it before `publish`.

        Raises:
            StoreUnavailableError: the store could not tell.
            ValueError: the blob is not sealed, or was published or discarded.
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
            BlobMissingError: the blob was removed, and this store keeps nothing for its readers.
            StoreUnavailableError: the store could not read.
            ValueError: the reader is closed.
        """

    def drop_cache(self) -> None:
        """Let the next reads come from the medium below a cache: advice, never raises."""

    def close(self) -> None:
        """Give back what the reader holds. May be repeated."""

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the reader."""
        self.close()


class BlobStore(Protocol):
    """A place that holds blobs by their digest. Shared by all threads of a process."""

    @property
    def name(self) -> str:
        """How the store is called in answers and logs: "primary", "replica1"."""

    def prepare(self) -> None:
        """Create the root and what must be in it before anything can be written.

        Raises:
            NoSpaceError, StoreUnavailableError: the store cannot be used.

        Durability: on return what was created is durable.
        """

    def is_mount(self) -> bool:
        """Return whether the root is the mount point of a file system."""

    def read_identity(self) -> StoreIdentity | None:
        """Return whose the store is; None if nobody has adopted it.

        Raises:
            StoreIdentityError: its `dfs.json` is malformed, or of a newer format.
            StoreUnavailableError: the root is not there, or the store could not tell.
        """

    def adopt(self, identity: StoreIdentity) -> None:
        """Mark the store as one's own. Writing the same identity again is no error.

        Raises:
            StoreIdentityError: it has another identity already.
            NoSpaceError, StoreUnavailableError: it was not adopted; the root may not be there.

        Durability: on return the identity is durable.
        """

    def stage(self) -> StagedBlob:
        """Begin an upload.

        Raises:
            NoSpaceError, StoreUnavailableError: nothing was begun.
        """

    def publish(self, staged: Sequence[tuple[StagedBlob, bytes, int]]) -> list[bytes]:
        """Give sealed blobs their names: all, or on an error none.

        A blob that the store has already is replaced: the staged bytes have just been hashed,
        those in the store may have been damaged since.

        Several processes may publish the same blob at once: each finds it whole. A store that they
        share keeps, after an error, what was already in place: another may count on it.

        Args:
            staged: (blob of this store, digest it was sealed with, bytes written to it).

        Returns:
            The digests that the store did not have under any size, in order: those `withdraw` may
            take back.

        Raises:
            NoSpaceError, StoreUnavailableError: none of them may be counted on.
            ValueError: a blob is not sealed, or not with that digest and size.

        Durability: on return every blob named is durable, those that were there before included.
        """

    def withdraw(self, digests: Sequence[bytes]) -> None:
        """Undo `publish` for a commit that failed. Best effort: a missing blob is no error.

        Only where nobody else can have found the blob meanwhile: on a store that one process at a
        time writes to, under the commit lock.

        Args:
            digests: what `publish` returned, before anybody was told of it.
        """

    def has(self, digest: bytes, size: int) -> bool:
        """Return whether a blob of that digest and size is there. Its bytes are not read.

        Raises:
            StoreUnavailableError: the store could not tell.
        """

    def confirm(self, digest: bytes, size: int) -> bool:
        """Return whether it is there, as `has`, and see to it that it stays.

        Whoever put it there may have died before it was durable. Its bytes are not read.

        Raises:
            StoreUnavailableError: the store could not tell, or not make it durable.

        Durability: on return a blob that was found is durable.
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

    def written_at_ms(self, digest: bytes) -> int | None:
        """Return when a blob was written, by the clock of the store; None if it is not there.

        Raises:
            StoreUnavailableError: the store could not tell.
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


@runtime_checkable
class QuarantinesBlobs(Protocol):
    """A store that can put a damaged blob aside, and clear away what was put aside."""

    def quarantine_blob(self, digest: bytes) -> None:
        """Move a blob to `damaged/<its name>-<time in ms>`, if it is there.

        Raises:
            NoSpaceError, StoreUnavailableError: it may still be in its place.

        Durability: on return it stays away after a power cut.
        """

    def list_put_aside(self) -> Iterator[PutAside]:
        """Yield what is in `damaged`, blobs and segments.

        Raises:
            StoreUnavailableError: the listing broke off.
        """

    def remove_put_aside(self, unit: PutAside) -> None:
        """Remove what was put aside, for good. May be missing.

        Raises:
            StoreUnavailableError: it may still be there.
        """


@runtime_checkable
class StampsBlobs(Protocol):
    """A store whose blobs are files of this machine; its readers are `StampedReader`s."""

    def find_stamp(self, digest: bytes) -> FileStamp | None:
        """Return what tells the file of a blob, as it is now, from what it was or will be.

        None if there is none, or nothing can be told of it.
        """


@runtime_checkable
class StampedReader(Protocol):
    """A `BlobReader` of an open file."""

    @property
    def stamp(self) -> FileStamp | None:
        """The stamp of the file when it was opened.

        A file that has it still is one of which every byte is as it was read.
        """


@runtime_checkable
class KeepsSegments(Protocol):
    """A store that holds copies of the segments of the log, sealed ones and the growing one.

    One caller at a time changes the segments of a store, whatever its process. Anybody may read.
    """

    def list_segments(self) -> list[tuple[int, int]]:
        """Return (segment id, bytes held) of each segment, ascending.

        Raises:
            StoreUnavailableError: the store could not tell.
        """

    def append_segment(self, segment_id: int, offset: int, data: bytes | memoryview) -> None:
        """Let a segment hold exactly [0, offset + len(data)), whatever lay behind `offset`.

        Raises:
            NoSpaceError, StoreUnavailableError: what lies before `offset` is as it was; what lies
                behind it is unknown. Also if the segment holds fewer than `offset` bytes now.

        Durability: on return the bytes are durable.
        """

    def read_segment(
        self, segment_id: int, offset: int, length: int, *, from_disk: bool = False
    ) -> bytes:
        """Return `length` bytes from `offset`; fewer only where the segment ends.

        Args:
            from_disk: as `BlobReader.drop_cache`.

        Raises:
            BlobMissingError: there is no such segment.
            StoreUnavailableError: the store could not read.
        """

    def seal_segment(self, segment_id: int) -> None:
        """Take a segment as complete: it will not grow any more. May be repeated.

        Raises:
            BlobMissingError: there is no such segment.
            NoSpaceError, StoreUnavailableError: the segment is as it was; call again.
        """

    def put_segment(self, segment_id: int, pieces: Iterable[bytes]) -> None:
        """Write a whole segment; what the store has of it is replaced at once, by all or nothing.

        Raises:
            NoSpaceError, StoreUnavailableError: the segment is as it was, or replaced.

        Durability: on return the bytes are durable.
        """

    def quarantine_segment(self, segment_id: int) -> None:
        """Move a segment to `damaged/<its name>-<time in ms>`, where it is kept. May be missing.

        Raises:
            NoSpaceError, StoreUnavailableError: it may still be in its place.

        Durability: on return it stays away after a power cut.
        """
