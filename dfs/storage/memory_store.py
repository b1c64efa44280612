"""A store in memory: the twin of the local store for tests. Nothing outlives the process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from dfs.core.errors import BlobMissingError
from dfs.storage.base import StagedBlob, require_digest


class MemoryStagedBlob:
    """Bytes gathered for a `MemoryStore`."""

    def __init__(self) -> None:
        self._data: bytearray | None = bytearray()
        self._digest: bytes | None = None

    def write(self, data: bytes | memoryview) -> None:
        """See `StagedBlob`."""
        self._open_data(sealed=False).extend(data)

    def seal(self, digest: bytes) -> None:
        """See `StagedBlob`."""
        self._open_data(sealed=False)
        require_digest(digest)
        self._digest = digest

    def content(self, digest: bytes, size: int) -> bytes:
        """Return the bytes, or raise ValueError unless they were sealed as these."""
        data = self._open_data(sealed=True)
        if (self._digest, len(data)) != (digest, size):
            raise ValueError("the staged blob was sealed with another digest or size")
        return bytes(data)

    def discard(self) -> None:
        """See `StagedBlob`."""
        self._data = None

    def _open_data(self, *, sealed: bool) -> bytearray:
        if self._data is None:
            raise ValueError("the staged blob was published or discarded")
        if sealed is not (self._digest is not None):
            raise ValueError(f"the staged blob is {'not yet' if sealed else 'already'} sealed")
        return self._data


class MemoryBlobReader:
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

    def close(self) -> None:
        """See `BlobReader`."""
        self._data = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class MemoryStore:
    """A `BlobStore` in memory; it also lists and removes. A dead upload leaves nothing to sweep.

    Args:
        name: how the store is called in answers and logs.
    """

    def __init__(self, *, name: str = "primary") -> None:
        self._name = name
        self._blobs: dict[bytes, bytes] = {}

    @property
    def name(self) -> str:
        """See `BlobStore`."""
        return self._name

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

    def remove(self, digest: bytes) -> bool:
        """See `RemovesBlobs`."""
        return self._blobs.pop(digest, None) is not None


def _content(blob: StagedBlob, digest: bytes, size: int) -> bytes:
    """Return the bytes of a blob this kind of store staged; raises ValueError."""
    if not isinstance(blob, MemoryStagedBlob):
        raise ValueError("the staged blob belongs to another store")
    return blob.content(digest, size)
