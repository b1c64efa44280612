"""Whether a local store is there, and whether what it holds stays."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.core.errors import StoreUnavailableError
from dfs.storage.identity import new_identity
from dfs.storage.local_staging import LocalStagedBlob
from dfs.storage.local_store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(path=tmp_path / "store")
    store.prepare()
    return store


def stage_sealed(store: LocalStore, content: bytes) -> tuple[LocalStagedBlob, bytes, int]:
    staged = store.stage()
    staged.write(content)
    digest = hashlib.sha256(content).digest()
    staged.seal(digest)
    return staged, digest, len(content)


def put(store: LocalStore, content: bytes) -> bytes:
    entry = stage_sealed(store, content)
    store.publish([entry])
    return entry[1]


def fail_with_io_error(*arguments: object) -> None:
    raise OSError(errno.EIO, "Input/output error")


def test_store_that_is_gone_is_unavailable_and_not_created_again(store: LocalStore) -> None:
    """A store whose disk vanished does not look like an empty one, whatever it is asked."""
    store.adopt(new_identity())
    digest = put(store, b"there")
    sealed, _, size = stage_sealed(store, b"sealed")
    away = store.path.rename(store.path.with_name("away"))
    calls: list[Callable[[], object]] = [
        store.read_identity,
        lambda: store.adopt(new_identity()),
        store.stage,
        lambda: store.publish([(sealed, hashlib.sha256(b"sealed").digest(), size)]),
        lambda: store.has(digest, 5),
        lambda: store.confirm(digest, 5),
        lambda: store.open(digest),
        lambda: list(store.list_blobs()),
        lambda: store.remove(digest),
        lambda: store.quarantine_blob(digest),
    ]

    for call in calls:
        with pytest.raises(StoreUnavailableError):
            call()

    assert not store.path.exists()
    away.rename(store.path)
    assert store.confirm(digest, 5)
    sealed.discard()


def test_is_mount_of_a_mount_point_is_true(store: LocalStore) -> None:
    """The root of a file system is told from a directory in one."""
    assert LocalStore(path=Path("/proc")).is_mount()
    assert not store.is_mount()
    assert not LocalStore(path=store.path / "missing").is_mount()


def test_confirm_syncs_the_blob_and_every_directory_above(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that somebody else put there is counted only when it survives a power cut."""
    digest = put(store, b"found")
    synced: list[Path] = []

    def sync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "fsync", sync)

    assert LocalStore(path=store.path).confirm(digest, 5)

    path = store.blob_path(digest)
    assert synced[0] == path
    assert set(synced) == {path, *list(path.parents)[:3]}


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_confirm_with_failing_sync_is_unavailable(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A copy of which nobody knows whether it is on the disk is not counted."""
    digest = put(store, b"found")
    monkeypatch.setattr(os, call, fail_with_io_error)

    with pytest.raises(StoreUnavailableError):
        store.confirm(digest, 5)


def test_quarantine_blob_keeps_the_bytes_under_damaged(store: LocalStore) -> None:
    """A damaged blob can still be looked at."""
    digest = put(store, b"damaged")

    store.quarantine_blob(digest)

    [kept] = (store.path / "damaged").iterdir()
    assert kept.name.startswith(f"{digest.hex()}-")
    assert kept.read_bytes() == b"damaged"


def test_reader_drop_cache_asks_the_disk(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading back what was written does not read the memory that it came from."""
    digest = put(store, b"cached")
    advice: list[tuple[object, ...]] = []
    with store.open(digest) as reader:
        monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: advice.append(rest))
        reader.drop_cache()
        assert reader.read(0, 6) == b"cached"

    assert advice == [(0, 0, os.POSIX_FADV_DONTNEED)]
