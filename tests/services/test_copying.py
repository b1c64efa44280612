"""Copying blob files: written, named and read back one by one, beside each other."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.core.checksum import block_checksums
from dfs.core.errors import BlobCorruptError, StoreUnavailableError
from dfs.core.model import Blob, BlobKind
from dfs.services.copying import BlobCopier
from dfs.storage.base import BlobReader, StagedBlob
from dfs.storage.memory_store import MemoryBlobReader, MemoryStore

DEADLINE_S = 10.0
CONTENTS = (b"first", b"second", b"third")


class NotedReader(MemoryBlobReader):
    """A reader that notes where its bytes come from."""

    def __init__(self, data: bytes, noted: list[str]) -> None:
        super().__init__(data)
        self._noted = noted

    def read(self, offset: int, length: int) -> bytes:
        """Read, through the cache."""
        self._noted.append("read")
        return super().read(offset, length)

    def drop_cache(self) -> None:
        """Empty the cache."""
        self._noted.append("drop")


class Target(MemoryStore):
    """A store that notes what is done to it, and may lose the bytes of one blob."""

    def __init__(self) -> None:
        super().__init__(name="target")
        self.calls: list[tuple[str, bytes]] = []
        self.spoilt = b""
        self.refused = b""

    def publish(self, staged: Sequence[tuple[StagedBlob, bytes, int]]) -> list[bytes]:
        """Name blobs, but not the refused one."""
        for _, digest, _ in staged:
            self.calls.append(("publish", digest))
            if digest == self.refused:
                raise StoreUnavailableError("The disk is gone.")
        return super().publish(staged)

    def open(self, digest: bytes) -> BlobReader:
        """Open a blob; the spoilt one has other bytes."""
        self.calls.append(("open", digest))
        with super().open(digest) as reader:
            data = reader.read(0, reader.size)
        return MemoryBlobReader(data[::-1] if digest == self.spoilt else data)


@pytest.fixture
def source() -> MemoryStore:
    """A store that has all contents."""
    store = MemoryStore(name="source")
    store.prepare()
    for data in CONTENTS:
        staged = store.stage()
        staged.write(data)
        staged.seal(describe(data).digest)
        store.publish([(staged, describe(data).digest, len(data))])
    return store


@pytest.fixture
def target() -> Target:
    """An empty store."""
    store = Target()
    store.prepare()
    return store


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """One thread: what happens has an order."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def describe(data: bytes) -> Blob:
    """Return what the index would know of a blob."""
    digest = hashlib.sha256(data).digest()
    return Blob(digest, len(data), BlobKind.FILE, 0, 0, 0, block_checksums([data]), 0, 0)


def make_copier(target: Target, source: MemoryStore, threads: ThreadPoolExecutor) -> BlobCopier:
    """Return a copier from one store to the other."""
    return BlobCopier(target=target, sources=[source], threads=threads, on_progress=lambda: None)


def test_copies_that_no_thread_could_be_had_for_are_made_before_the_call_returns(
    target: Target, source: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not later, when the store is under the lock of somebody else."""

    def refuse_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    blobs = [describe(data) for data in CONTENTS]
    with ThreadPoolExecutor() as threads:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse_thread)
            copied = make_copier(target, source, threads).copy(blobs)
        calls = list(target.calls)
        threads.submit(bool).result(10)
    assert copied.whole == {blob.digest for blob in blobs}
    assert target.calls == calls


def test_copy_reads_each_blob_back_before_the_last_is_written(
    target: Target, source: MemoryStore, threads: ThreadPoolExecutor
) -> None:
    """A blob is read back as soon as it has its name, so that reading and writing overlap."""
    blobs = [describe(data) for data in CONTENTS]
    copied = make_copier(target, source, threads).copy(blobs)
    assert copied.whole == {blob.digest for blob in blobs}
    assert target.calls == [(call, blob.digest) for blob in blobs for call in ("publish", "open")]


def test_copy_is_read_back_from_the_disk_and_left_in_no_cache(
    target: Target,
    source: MemoryStore,
    threads: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was just written may be in the cache alone; and nobody reads it again."""
    noted: list[str] = []
    monkeypatch.setattr(target, "open", lambda digest: NotedReader(CONTENTS[0], noted))
    make_copier(target, source, threads).copy([describe(CONTENTS[0])])
    assert noted == ["drop", "read", "drop"]


def test_copy_that_comes_back_wrong_is_not_whole(
    target: Target, source: MemoryStore, threads: ThreadPoolExecutor
) -> None:
    """What the target does not give back is failed; the other blobs are whole."""
    blobs = [describe(data) for data in CONTENTS]
    target.spoilt = blobs[1].digest
    copied = make_copier(target, source, threads).copy(blobs)
    assert copied.whole == {blobs[0].digest, blobs[2].digest}
    assert isinstance(copied.failed.pop(blobs[1].digest), BlobCorruptError)
    assert copied.failed == {}


def test_copy_to_a_failing_target_ends_only_when_nothing_runs_any_more(
    target: Target, source: MemoryStore, threads: ThreadPoolExecutor
) -> None:
    """The fault of one blob is told after the others are done: nobody writes behind its back."""
    blobs = [describe(data) for data in CONTENTS]
    target.refused = blobs[0].digest
    with pytest.raises(StoreUnavailableError, match="gone"):
        make_copier(target, source, threads).copy(blobs)
    assert target.calls[-1] == ("open", blobs[-1].digest)


def test_copies_are_made_beside_each_other(target: Target, source: MemoryStore) -> None:
    """While one blob is being read back another is written."""
    both = threading.Barrier(2, timeout=DEADLINE_S)
    blobs = [describe(data) for data in CONTENTS[:2]]
    meetings: list[int] = []
    with ThreadPoolExecutor(2) as threads:
        copier = BlobCopier(
            target=target,
            sources=[source],
            threads=threads,
            on_progress=lambda: meetings.append(both.wait()),
        )
        copied = copier.copy(blobs)
    assert len(copied.whole) == 2
    assert len(meetings) == 4
