"""Bytes on their way in."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.services.upload import HASH_HELD_BYTES_MAX, HASH_PIECE_BYTES, BlobWriter
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
