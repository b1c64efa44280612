"""The nouns of dfs as plain values: what the layers hand to each other.

The values that a replay makes by the hundred thousand (`File`, `Blob`, `Extent`), and those of each
commit, are structures of msgspec, made several times as quickly as frozen dataclasses. They are
never part of a cycle, so the garbage collector need not look at them.

Times are integers, milliseconds since 1970-01-01T00:00:00Z. Digests are the 32 bytes of SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Self

import msgspec

DEFAULT_BUCKET = "default"
PRIMARY_NAME = "primary"
"""How the primary store is called."""
BLOCK_BYTES = 1 << 20
"""A blob file has one CRC32 for each block of this many bytes; the last block may be shorter."""
SEGMENT_UNIT_BYTES = 8
"""Bytes of the id of a segment, where it stands for the segment as the unit of a debt."""

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 61)]
"""A size, a place, an LSN or a time that is read: sums of a few of them fit everywhere."""


class BlobKind(IntEnum):
    """Where the bytes of a blob live. The numbers are stored in the index."""

    NOWHERE = 0
    """Files refer to it, but no record of the log that was replayed so far puts it."""
    INLINE = 1
    FILE = 2


class DebtKind(IntEnum):
    """What a store owes of a unit. The numbers are stored in the index."""

    BLOB = 1
    """To hold a blob file whole."""
    SEGMENT = 2
    """To hold a segment whole."""
    REMOVE_BLOB = 3
    """To have a blob file no more, unless it is put again before."""
    REMOVING_BLOB = 4
    """The same, and it has begun: whoever wants the blob there has to wait for the end of it."""
    DROP_SEGMENT = 5
    """To have a stub in the place of a segment."""


REMOVALS = (DebtKind.REMOVE_BLOB, DebtKind.REMOVING_BLOB)


class Extent(msgspec.Struct, frozen=True, gc=False):
    """A run of bytes of one blob that forms part of a file.

    Attributes:
        digest: the blob.
        offset: first byte of the run in the blob.
        length: bytes in the run.
    """

    digest: bytes
    offset: int
    length: int


class FileInfo(msgspec.Struct, frozen=True, gc=False):
    """What clients see of a file.

    Attributes:
        id: ULID, 26 characters.
        key: the name given by the client.
        size: bytes.
        digest: SHA-256 of all bytes of the file.
        metadata: the client's own names and values.
        lsn: the last record that changed the file.
        deleted_at_ms: since when it is in the trash; None for a file that is not.
    """

    id: str
    key: str
    size: Number
    digest: Digest
    content_type: str
    metadata: Mapping[str, str]
    created_at_ms: Number
    updated_at_ms: Number
    expires_at_ms: Number | None
    lsn: Number
    deleted_at_ms: Number | None

    @property
    def etag(self) -> str:
        """The entity tag without its quotes: the digest in hexadecimal."""
        return self.digest.hex()


class File(FileInfo, frozen=True, gc=False):
    """One immutable version of a named object.

    Attributes:
        extents: the runs of blobs that make up the file, in order. Empty means: the one whole blob
            whose digest is the file's, which is what every plain upload is.
        first_lsn: the first record that put the file.
        base_lsn, base_segment_id, base_length: the last record that put the file: its LSN, the
            segment it lies in, its bytes.
        made_by: id of the API key with which it was stored; empty if there was none.
    """

    bucket: str
    extents: tuple[Extent, ...] = ()
    first_lsn: int = 0
    base_lsn: int = 0
    base_segment_id: int = 0
    base_length: int = 0
    made_by: str = ""

    def blob_digests(self) -> list[bytes]:
        """Return the digest of the blob of each extent, in order, repeats included."""
        return [extent.digest for extent in self.extents] or [self.digest]


class Blob(msgspec.Struct, frozen=True, gc=False):
    """Bytes identified by their SHA-256, stored once however many files refer to them.

    Attributes:
        size: bytes of content.
        segment_id, offset, length: the whole record in the log that put the blob. An inline blob's
            bytes are the data of that record.
        block_crc32s: for a blob file, the CRC32 of each `BLOCK_BYTES` block, 4 bytes each,
            little-endian; empty for an inline blob, which the CRC32 of its record covers.
        references: extents of files that point here, those in the trash included.
        lsn: the record that put the blob.
        first_lsn: the first record that put it since it was dropped, if it ever was.
    """

    digest: bytes
    size: int
    kind: BlobKind
    segment_id: int
    offset: int
    length: int
    block_crc32s: bytes
    references: int
    lsn: int
    first_lsn: int = 0


@dataclass(frozen=True, slots=True)
class Segment:
    """One sealed file of the log, as the index knows it.

    Attributes:
        size_bytes: from the start of the file to the end of its last record.
        sealed_at_ms: 0 for one that was abandoned after a failed sync.
    """

    id: int
    first_lsn: int
    last_lsn: int
    size_bytes: int
    sealed_at_ms: int


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """What is dead of one segment of the log.

    Attributes:
        dead_bytes: of records that are not the truth any more.
        tombstone_bytes: of records that take away what older ones put.
        tombstone_lsn: the lowest LSN of a record that one of them takes away; None without any.
    """

    dead_bytes: int = 0
    tombstone_bytes: int = 0
    tombstone_lsn: int | None = None


class NodeState(msgspec.Struct, frozen=True, gc=False):
    """How far the index of one node has followed its log.

    Attributes:
        cluster_id: 16 raw bytes, as in every segment header and in `dfs.json`.
        applied_lsn: every record up to this one is in the index; 0 for none.
    """

    node_id: str
    cluster_id: bytes
    applied_lsn: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How much is used: by the files of a bucket, or by the blobs of a node. The rest is 0.

    Attributes:
        files, bytes: files that can be found, or have expired and are not in the trash yet.
        deleted_files, deleted_bytes: those in the trash.
        blob_files, blob_file_bytes: all blob files.
        unused_blob_files, unused_bytes: those of them that no file refers to.
        inline_blobs, inline_bytes: blobs in the log that files refer to.
    """

    files: int = 0
    bytes: int = 0
    deleted_files: int = 0
    deleted_bytes: int = 0
    blob_files: int = 0
    blob_file_bytes: int = 0
    unused_blob_files: int = 0
    unused_bytes: int = 0
    inline_blobs: int = 0
    inline_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """Some files of a listing, ordered by key and then id.

    Attributes:
        next: pass it as `after` to get the next page; None on the last one.
    """

    files: tuple[FileInfo, ...]
    next: str | None


class Durability(msgspec.Struct, frozen=True, gc=False):
    """What an acknowledgement guarantees.

    Attributes:
        lsn: the last record of the change.
        stores: names of the stores on whose disks record and bytes are, the primary first.
    """

    lsn: int
    stores: tuple[str, ...] = ("primary",)


@dataclass(frozen=True, slots=True)
class Debt:
    """Something that a store has to do with one unit: to hold it whole, or to remove it.

    What a replica owes besides removals is a copy; what the primary owes is a mend.

    Attributes:
        store: name of the store that owes it.
        unit: digest of the blob, or id of the segment as 8 bytes, big-endian.
        size: bytes to be written or removed; 0 when that is not known.
        owed_at_ms: since when; a removal that has to wait, from when on.
        attempts: how many have failed since it was owed.
        next_try_at_ms: not to be tried before; 0 for at once.
        error: why the last attempt failed.
        lsn: a replica must have the log up to this record before; 0 for no matter what it has.
    """

    store: str
    kind: DebtKind
    unit: bytes
    size: int
    owed_at_ms: int
    attempts: int = 0
    next_try_at_ms: int = 0
    error: str | None = None
    lsn: int = 0

    @classmethod
    def of_blob(cls, store: str, digest: bytes, size: int, now_ms: int) -> Self:
        """Return the debt of a blob file, owed from `now_ms` on."""
        return cls(store, DebtKind.BLOB, digest, size, now_ms)

    @classmethod
    def of_segment(cls, store: str, segment_id: int, size: int, now_ms: int) -> Self:
        """Return the debt of a sealed segment, owed from `now_ms` on."""
        unit = segment_id.to_bytes(SEGMENT_UNIT_BYTES, "big")
        return cls(store, DebtKind.SEGMENT, unit, size, now_ms)

    @classmethod
    def of_removal(cls, store: str, digest: bytes, size: int, due_ms: int, *, lsn: int) -> Self:
        """Return the debt to remove a blob file, owed from `due_ms` on.

        Args:
            lsn: the record that dropped the blob. A store whose log still has files that refer to
                it is enough to restore them, and so must not remove it.
        """
        return cls(
            store, DebtKind.REMOVE_BLOB, digest, size, due_ms, next_try_at_ms=due_ms, lsn=lsn
        )

    @classmethod
    def of_drop(cls, store: str, segment_id: int, size: int, at_ms: int, *, lsn: int) -> Self:
        """Return the debt to put a stub in the place of a segment, dropped at `at_ms`.

        Args:
            lsn: all that was needed of the segment stands again up to this record.
        """
        unit = segment_id.to_bytes(SEGMENT_UNIT_BYTES, "big")
        return cls(store, DebtKind.DROP_SEGMENT, unit, size, at_ms, lsn=lsn)

    @property
    def segment_id(self) -> int:
        """Id of the segment, in a debt of kind SEGMENT or DROP_SEGMENT."""
        return int.from_bytes(self.unit, "big")


@dataclass(frozen=True, slots=True)
class DebtSummary:
    """All that one store owes of one kind.

    Attributes:
        count: units owed.
        bytes: their sizes, as far as they are known.
        oldest_at_ms, newest_at_ms: since when the oldest and the newest is owed; of removals that
            have to wait, from when on.
        failing: how many of them have been tried in vain.
        last_error: why one of those failed: the one that is to be tried again last.
    """

    store: str
    kind: DebtKind
    count: int
    bytes: int
    oldest_at_ms: int
    newest_at_ms: int
    failing: int
    last_error: str | None


@dataclass(frozen=True, slots=True)
class ScrubState:
    """How far the scrub of a store has come, and what the last one found.

    Attributes:
        position: where to go on, in the words of whoever scrubs; empty when none is running.
        started_at_ms, bytes_read, bytes_total, damaged: of the one that is running.
        finished_at_ms, last_damaged, last_bytes: of the last one that was finished.
    """

    position: str = ""
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    bytes_read: int = 0
    bytes_total: int = 0
    damaged: int = 0
    last_damaged: int = 0
    last_bytes: int = 0


@dataclass(frozen=True, slots=True)
class StoreState:
    """What the node knows of one of its stores: the primary or a replica.

    Attributes:
        store_id: identity last seen there; another one means that its disk was replaced.
        segment_id, offset, lsn: up to here the log is durable and verified on the replica. Three
            zeros: nothing is known to be there; always so for the primary.
        was_mounted: its path was a mount point when it was last adopted.
        failures: attempts to use it that have failed since one succeeded.
        retry_at_ms: it is not to be used before.
        error, error_at_ms: the last failure, if it has not been used successfully since.
    """

    name: str
    store_id: bytes
    segment_id: int = 0
    offset: int = 0
    lsn: int = 0
    was_mounted: bool = False
    failures: int = 0
    retry_at_ms: int = 0
    error: str | None = None
    error_at_ms: int | None = None
    scrub: ScrubState = field(default_factory=ScrubState)
