"""A store in memory: the twin of the local store for tests. Nothing outlives the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dfs.core.clock import now_ms
from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.storage.base import BlobReader, StagedBlob
from dfs.storage.identity import StoreIdentity, require_free
from dfs.storage.names import (
    DAMAGED,
    PutAside,
    blob_name,
    damaged_name,
    parse_damaged,
    require_digest,
    segment_name,
)
from dfs.storage.staging import Staging


class MemoryStagedBlob(Staging):
    """Bytes gathered for a `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()

    def write(self, data: bytes | memoryview) -> None:
        """See `StagedBlob`."""
        self._require_open(sealed=False)
        self._data.extend(data)
        self._size = len(self._data)

    def seal(self, digest: bytes) -> None:
        """See `StagedBlob`."""
        self._require_open(sealed=False)
        require_digest(digest)
        self._digest = digest

    def content(self, digest: bytes, size: int) -> bytes:
        """Return the bytes, or raise ValueError unless they were sealed as these."""
        self.require_sealed(digest, size)
        return bytes(self._data)

    def open(self) -> MemoryBlobReader:
        """See `StagedBlob`."""
        self._require_open(sealed=True)
        return MemoryBlobReader(bytes(self._data))

    def discard(self) -> None:
        """See `StagedBlob`."""
        self._is_gone = True
        self._data.clear()


class MemoryBlobReader(BlobReader):
    """An open blob of a `MemoryStore`."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._size = len(data)

    @property
    def size(self) -> int:
        """See `BlobReader`."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See `BlobReader`."""
        if self._data is None:
            raise ValueError("the reader is closed")
        return self._data[offset : offset + length]

    def drop_cache(self) -> None:
        """See `BlobReader`. There is no medium below."""

    def close(self) -> None:
        """See `BlobReader`."""
        self._data = None


class MemoryStore:
    """A `BlobStore` in memory, with all further powers but one: no upload leaves anything to sweep.

    Args:
        name: how the store is called in answers and logs.
    """

    def __init__(self, *, name: str = "primary") -> None:
        self._name = name
        self._identity: StoreIdentity | None = None
        self._blobs: dict[bytes, bytes] = {}
        self._written_at_ms: dict[bytes, int] = {}
        self._segments: dict[int, bytearray] = {}
        self._damaged: dict[str, bytes] = {}

    @property
    def name(self) -> str:
        """See `BlobStore`."""
        return self._name

    @property
    def damaged(self) -> dict[str, bytes]:
        """What was put aside, by its name."""
        return dict(self._damaged)

    def prepare(self) -> None:
        """See `BlobStore`. There is nothing to create."""

    def is_mount(self) -> bool:
        """See `BlobStore`."""
        return False

    def read_identity(self) -> StoreIdentity | None:
        """See `BlobStore`."""
        return self._identity

    def adopt(self, identity: StoreIdentity) -> None:
        """See `BlobStore`."""
        require_free(self._identity, identity, path=self._name)
        self._identity = identity

    def stage(self) -> MemoryStagedBlob:
        """See `BlobStore`."""
        return MemoryStagedBlob()

    def publish(self, staged: Sequence[tuple[StagedBlob, bytes, int]]) -> list[bytes]:
        """See `BlobStore`."""
        contents = [(blob, digest, _content(blob, digest, size)) for blob, digest, size in staged]
        added: list[bytes] = []
        for blob, digest, content in contents:
            if digest not in self._blobs:
                added.append(digest)
            self._blobs[digest] = content
            self._written_at_ms[digest] = now_ms()
            blob.discard()
        return added

    def withdraw(self, digests: Sequence[bytes]) -> None:
        """See `BlobStore`."""
        for digest in digests:
            self._blobs.pop(digest, None)

    def has(self, digest: bytes, size: int) -> bool:
        """See `BlobStore`."""
        found = self._blobs.get(digest)
        return found is not None and len(found) == size

    def confirm(self, digest: bytes, size: int) -> bool:
        """See `BlobStore`."""
        return self.has(digest, size)

    def open(self, digest: bytes) -> MemoryBlobReader:
        """See `BlobStore`."""
        try:
            return MemoryBlobReader(self._blobs[digest])
        except KeyError as error:
            raise BlobMissingError(
                "The store does not hold the blob.", digest=digest.hex()
            ) from error

    def list_blobs(self) -> Iterator[tuple[bytes, int]]:
        """See `ListsBlobs`."""
        for digest, content in sorted(self._blobs.items()):
            yield digest, len(content)

    def written_at_ms(self, digest: bytes) -> int | None:
        """See `ListsBlobs`."""
        return self._written_at_ms[digest] if digest in self._blobs else None

    def remove(self, digest: bytes) -> bool:
        """See `RemovesBlobs`."""
        return self._blobs.pop(digest, None) is not None

    def quarantine_blob(self, digest: bytes) -> None:
        """See `QuarantinesBlobs`."""
        self._put_aside(blob_name(digest), self._blobs.pop(digest, None))

    def list_put_aside(self) -> Iterator[PutAside]:
        """See `QuarantinesBlobs`."""
        for name in sorted(self._damaged):
            unit = parse_damaged(name.removeprefix(f"{DAMAGED}/"))
            if unit is not None:
                yield unit

    def remove_put_aside(self, unit: PutAside) -> None:
        """See `QuarantinesBlobs`."""
        self._damaged.pop(f"{DAMAGED}/{unit.name}", None)

    def list_segments(self) -> list[tuple[int, int]]:
        """See `KeepsSegments`."""
        return sorted((segment_id, len(data)) for segment_id, data in self._segments.items())

    def append_segment(self, segment_id: int, offset: int, data: bytes | memoryview) -> None:
        """See `KeepsSegments`."""
        content = self._segments.get(segment_id, bytearray())
        if len(content) < offset:
            raise StoreUnavailableError("The store holds less of the segment than it held before.")
        content[offset:] = data
        self._segments[segment_id] = content

    def read_segment(
        self, segment_id: int, offset: int, length: int, *, from_disk: bool = False
    ) -> bytes:
        """See `KeepsSegments`."""
        self._require_segment(segment_id)
        return bytes(self._segments[segment_id][offset : offset + length])

    def seal_segment(self, segment_id: int) -> None:
        """See `KeepsSegments`."""
        self._require_segment(segment_id)

    def put_segment(self, segment_id: int, pieces: Iterable[bytes]) -> None:
        """See `KeepsSegments`."""
        self._segments[segment_id] = bytearray(b"".join(pieces))

    def quarantine_segment(self, segment_id: int) -> None:
        """See `KeepsSegments`."""
        self._put_aside(segment_name(segment_id), self._segments.pop(segment_id, None))

    def _put_aside(self, name: str, content: bytes | bytearray | None) -> None:
        """Keep what was taken from its place, if it was there."""
        if content is not None:
            self._damaged[damaged_name(name, now_ms=now_ms())] = bytes(content)

    def _require_segment(self, segment_id: int) -> None:
        """Raise BlobMissingError unless the segment is there."""
        if segment_id not in self._segments:
            raise BlobMissingError("The store does not hold the segment.", segment_id=segment_id)


def _content(blob: StagedBlob, digest: bytes, size: int) -> bytes:
    """Return the bytes of a blob this kind of store staged; raises ValueError."""
    if not isinstance(blob, MemoryStagedBlob):
        raise ValueError("the staged blob belongs to another store")
    return blob.content(digest, size)
