"""Bytes on their way in."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dfs.core.checksum import block_checksums
from dfs.services.upload import HASH_HELD_BYTES_MAX, HASH_PIECE_BYTES, BlobWriter
from dfs.storage.local_store import LocalStore
from dfs.storage.local_writer import CACHED_BYTES
from dfs.storage.memory_store import MemoryStore

INLINE_BYTES_MAX = 64 << 10
SIZES = sorted(
    {0, 1, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1}
    | {size + more for size in (HASH_PIECE_BYTES, HASH_HELD_BYTES_MAX) for more in (-1, 0, 1)}
)


@pytest.mark.parametrize("size", SIZES)
def test_blob_digest_is_that_of_its_bytes(size: int) -> None:
    """However a blob is hashed, by its size, the digest is its SHA-256."""
    data = random.Random(size).randbytes(size)
    with ThreadPoolExecutor(1) as hasher:
        writer = BlobWriter(
            store=MemoryStore(),
            hasher=hasher,
            inline_bytes_max=INLINE_BYTES_MAX,
            bytes_max=0,
        )
        for piece in (data[: size // 2], data[size // 2 :], b""):
            assert writer.write(piece) == len(piece)
        writer.finish()
    assert writer.digest == hashlib.sha256(data).digest()
    writer.discard()


class LateFuture(Future[Any]):
    """Does its work when somebody waits for it, and not before."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        """Do the work."""
        self._work()


class LateExecutor(Executor):
    """Stands for threads that come late to everything."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> LateFuture:
        """Put the work off."""
        return LateFuture(lambda: fn(*args, **kwargs))


@pytest.mark.parametrize("missing", [0, 1, 4095])
def test_bytes_received_into_the_memory_of_a_store_are_those_that_are_hashed(
    tmp_path: Path, missing: int
) -> None:
    """Also where the hashing is late: the memory is filled again only after it."""
    store = LocalStore(path=tmp_path)
    store.prepare()
    data = random.Random(missing).randbytes(CACHED_BYTES + (4 << 20) - missing)
    writer = BlobWriter(
        store=store, hasher=LateExecutor(), inline_bytes_max=INLINE_BYTES_MAX, bytes_max=0
    )
    source, in_place = memoryview(data), 0
    while source:
        room = writer.room()
        if room is None:
            piece = source[: 300 << 10]
        else:
            piece = room[: min(len(source), 600 << 10)]
            piece[:] = source[: len(piece)]
            in_place += len(piece)
        source = source[writer.write(piece) :]
    writer.finish()

    assert writer.digest == hashlib.sha256(data).digest()
    assert writer.block_crc32s == block_checksums([data])
    assert writer.staged is not None
    with writer.staged.open() as reader:
        assert reader.read(0, len(data) + 1) == data
    assert in_place >= (3 << 20)
    writer.discard()
