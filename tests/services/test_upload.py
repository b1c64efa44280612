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
from dfs.core.errors import TooLargeError
from dfs.services import upload
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


class LateTask(Future[Any]):
    """Is done when somebody waits for it, and not before."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self._work = work

    def result(self, timeout: float | None = None) -> Any:
        """Do it."""
        self._work()


def start_late(_: Executor, work: Callable[..., None], *arguments: object) -> LateTask:
    """Start a task that is done as late as can be."""
    return LateTask(lambda: work(*arguments))


@pytest.mark.parametrize("missing", [0, 1, 4095])
def test_bytes_received_into_the_memory_of_a_store_are_those_that_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int
) -> None:
    """Also where the hashing is late: the memory is filled again only after it."""
    store = LocalStore(path=tmp_path)
    store.prepare()
    data = random.Random(missing).randbytes(CACHED_BYTES + (4 << 20) - missing)
    monkeypatch.setattr(upload, "start_task", start_late)
    writer = BlobWriter(
        store=store,
        hasher=ThreadPoolExecutor(),
        inline_bytes_max=INLINE_BYTES_MAX,
        bytes_max=0,
    )
    source, in_place = memoryview(data), 0
    while source:
        room = writer.room()
        if room is None:
            source = source[writer.write(source[: 300 << 10]) :]
            continue
        piece = source[: min(len(room), 600 << 10)]
        room[: len(piece)] = piece
        in_place += len(piece)
        source = source[writer.fill(len(piece)) :]
    assert writer.fill(0) == 0
    writer.finish()

    assert writer.digest == hashlib.sha256(data).digest()
    assert writer.block_crc32s == block_checksums([data])
    assert writer.staged is not None
    with writer.staged.open() as reader:
        assert reader.read(0, len(data) + 1) == data
    assert in_place >= (3 << 20)
    writer.discard()


def test_room_counts_against_the_size_that_a_file_may_have(tmp_path: Path) -> None:
    """It is no way around the limit."""
    store = LocalStore(path=tmp_path)
    store.prepare()
    with ThreadPoolExecutor(1) as hasher:
        writer = BlobWriter(
            store=store, hasher=hasher, inline_bytes_max=0, bytes_max=CACHED_BYTES + 10
        )
        writer.write(bytes(CACHED_BYTES))
        assert writer.room() is not None
        with pytest.raises(TooLargeError):
            writer.fill(11)
        writer.discard()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_blob_that_could_not_be_hashed_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, no descriptor and no memory that others need."""
    store = LocalStore(path=tmp_path)
    store.prepare()

    def fail(*_: object) -> None:
        raise MemoryError

    with ThreadPoolExecutor(1) as hasher:
        writer = BlobWriter(store=store, hasher=hasher, inline_bytes_max=0, bytes_max=0)
        monkeypatch.setattr(writer, "_hash", fail)
        writer.write(bytes(CACHED_BYTES))
        with pytest.raises(MemoryError):
            writer.finish()
        writer.discard()

    assert list((tmp_path / "tmp").iterdir()) == []
