"""The nouns of dfs as plain values: what the layers hand to each other.

The values that a replay makes by the hundred thousand (`File`, `Blob`, `Extent`) are structures of
msgspec, made several times as quickly as frozen dataclasses. They are never part of a cycle, so the
garbage collector need not look at them.

Times are integers, milliseconds since 1970-01-01T00:00:00Z. Digests are the 32 bytes of SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

DEFAULT_BUCKET = "default"
BLOCK_BYTES = 1 << 20
"""A blob file has one CRC32 for each block of this many bytes; the last block may be shorter."""


class BlobKind(IntEnum):
    """Where the bytes of a blob live. The numbers are stored in the index."""

    INLINE = 1
    FILE = 2


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


class File(msgspec.Struct, frozen=True, gc=False):
    """One immutable version of a named object.

    Attributes:
        id: ULID, 26 characters.
        key: the name given by the client.
        size: bytes.
        digest: SHA-256 of all bytes of the file.
        metadata: the client's own names and values.
        extents: the runs of blobs that make up the file, in order. Empty means: the one whole blob
            whose digest is the file's, which is what every plain upload is.
        lsn: the last record that changed the file.
    """

    id: str
    bucket: str
    key: str
    size: int
    digest: bytes
    content_type: str
    metadata: Mapping[str, str]
    created_at_ms: int
    updated_at_ms: int
    expires_at_ms: int | None
    lsn: int
    extents: tuple[Extent, ...] = ()

    @property
    def etag(self) -> str:
        """The entity tag without its quotes: the digest in hexadecimal."""
        return self.digest.hex()

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
        references: extents of files that point here.
        lsn: the record that put the blob.
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


@dataclass(frozen=True, slots=True)
class Segment:
    """One sealed file of the log, as the index knows it.

    Attributes:
        size_bytes: from the start of the file to the end of its last record.
    """

    id: int
    first_lsn: int
    last_lsn: int
    size_bytes: int
    sealed_at_ms: int


@dataclass(frozen=True, slots=True)
class NodeState:
    """How far the index of one node has followed its log.

    Attributes:
        cluster_id: 16 raw bytes, as in every segment header and in `dfs.json`.
        applied_lsn: every record up to this one is in the index; 0 for none.
    """

    node_id: str
    cluster_id: bytes
    applied_lsn: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some files of a listing, ordered by key and then id.

    Attributes:
        next: pass it as `after` to get the next page; None on the last one.
    """

    files: tuple[File, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Durability:
    """What an acknowledgement guarantees.

    Attributes:
        lsn: the last record of the change.
        stores: names of the stores on whose disks record and bytes are, the primary first.
    """

    lsn: int
    stores: tuple[str, ...] = field(default=("primary",))
