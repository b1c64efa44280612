"""Taking in the bytes of one file: hash them, and put them where they belong.

Up to the inline limit they stay in memory and go into the log; past it they go to a temporary file
of the store, some of them from memory of the store that they were received into. The bytes of
large files are hashed in a second thread while the first receives and writes the next ones.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import Executor, Future

from dfs.core.checksum import CRC32_BYTES, BlockChecksummer
from dfs.core.errors import TooLargeError
from dfs.core.model import BLOCK_BYTES
from dfs.core.tasks import start_task
from dfs.storage.base import BlobStore, StagedBlob
from dfs.wal.frame import RECORD_BYTES_MAX

HASH_APART_BYTES_MIN = 4 * BLOCK_BYTES
"""From this many bytes on, handing pieces to another thread costs less than it gains."""

HASH_HELD_BYTES_MAX = 8 << 10
HASH_PIECE_BYTES = 2047
"""hashlib lets other threads take the interpreter from 2,048 bytes on. For up to so many bytes in
all, getting it back takes several times as long as the hashing."""

BLOB_BYTES_MAX = (RECORD_BYTES_MAX - (1 << 20)) // CRC32_BYTES * BLOCK_BYTES
"""About 3.7 TiB: the checksums of a blob file stand in one record of the log."""


class BlobWriter:
    """The bytes of one file on their way in. For one thread.

    Args:
        store: where the bytes go that are too many for the log.
        hasher: runs the hashing of large files.
        inline_bytes_max: how many bytes may live in the log.
        bytes_max: how many bytes a file may have; 0 for as many as the log can describe.
    """

    def __init__(
        self, *, store: BlobStore, hasher: Executor, inline_bytes_max: int, bytes_max: int
    ) -> None:
        self.size = 0
        self.digest = b""
        self.staged: StagedBlob | None = None
        self._store = store
        self._hasher = hasher
        self._inline_bytes_max = inline_bytes_max
        self._bytes_max = min(bytes_max or BLOB_BYTES_MAX, BLOB_BYTES_MAX)
        self._buffer = bytearray()
        self._room: memoryview | None = None
        self._sha256 = hashlib.sha256()
        self._checksummer = BlockChecksummer()
        self._hashing: Future[None] | None = None

    @property
    def data(self) -> bytes | None:
        """The bytes of a blob that is small enough for the log; None of a larger one."""
        return bytes(self._buffer) if self.staged is None else None

    @property
    def block_crc32s(self) -> bytes:
        """The checksums of a blob file, as in `model.Blob`; empty for an inline blob."""
        return self._checksummer.digest() if self.staged is not None else b""

    def room(self) -> memoryview | None:
        """Return memory for the next bytes, for `fill`; None: `write` them from your own."""
        self._room = None if self.staged is None else self.staged.room()
        return self._room

    def fill(self, count: int) -> int:
        """Take the first bytes of `room`. Returns and raises as `write`."""
        if not count:
            return 0
        if self.staged is None or self._room is None:
            raise ValueError("there is no room")
        self._count(count)
        data, self._room = self._room[:count], None
        self._begin_hash(data)
        self.staged.fill(count)
        return count

    def write(self, data: bytes | memoryview) -> int:
        """Take the next bytes. The caller does not change them afterwards.

        Returns:
            How many: all of them. Zero if there were none, which changes nothing.

        Raises:
            TooLargeError: they are more than a file may have.
            NoSpaceError, StoreUnavailableError: the store cannot take them.
        """
        if not data:
            return 0
        self._count(len(data))
        if self.staged is None:
            if self.size <= self._inline_bytes_max:
                self._buffer += data
                return len(data)
            self.staged = self._store.stage()
            if self._buffer:
                self._take(bytes(self._buffer))
                self._buffer.clear()
        self._take(data)
        return len(data)

    def finish(self) -> None:
        """Take the bytes as complete: afterwards `digest` is known.

        Durability: on return the bytes of a large blob are synced in a temporary file.

        Raises:
            NoSpaceError, StoreUnavailableError.
        """
        if self.staged is None:
            self.digest = _hash_small(self._buffer)
            return
        self._join()
        self.digest = self._sha256.digest()
        self.staged.seal(self.digest)

    def discard(self) -> None:
        """Leave nothing behind of bytes that no file has got. May be repeated."""
        self._room = None
        if self.staged is not None:
            if self._hashing is not None:
                self._hashing.exception()
            self.staged.discard()

    def _count(self, more: int) -> None:
        self.size += more
        if self.size > self._bytes_max:
            raise TooLargeError(f"A file may have at most {self._bytes_max} bytes.")

    def _take(self, data: bytes | memoryview) -> None:
        if self.staged is None:
            raise RuntimeError("there is no temporary file")
        self._begin_hash(data)
        self.staged.write(data)

    def _begin_hash(self, data: bytes | memoryview) -> None:
        """Hash the next bytes: when this is called again, those before are hashed."""
        self._join()
        if self.size < HASH_APART_BYTES_MIN:
            self._hash(data)
        else:
            self._hashing = start_task(self._hasher, self._hash, data)

    def _hash(self, data: bytes | memoryview) -> None:
        self._sha256.update(data)
        self._checksummer.update(data)

    def _join(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None


def _hash_small(data: bytearray) -> bytes:
    """Return the SHA-256 of a blob that is in memory."""
    if len(data) > HASH_HELD_BYTES_MAX:
        return hashlib.sha256(data).digest()
    sha256 = hashlib.sha256()
    for start in range(0, len(data), HASH_PIECE_BYTES):
        sha256.update(data[start : start + HASH_PIECE_BYTES])
    return sha256.digest()
