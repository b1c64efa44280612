"""Blob files that were found sound: known for a while, and only as long as they are the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.services import verified_files
from dfs.services.verified_files import VerifiedFiles
from dfs.storage.local_store import LocalStore
from dfs.storage.memory_store import MemoryStore

BODY = bytes(100_000)
DIGEST = hashlib.sha256(BODY).digest()


class Clock:
    """A clock that stands until it is put forward."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def put(store: LocalStore | MemoryStore, body: bytes = BODY) -> bytes:
    """Store a blob; return its digest."""
    digest = hashlib.sha256(body).digest()
    staged = store.stage()
    staged.write(body)
    staged.seal(digest)
    store.publish([(staged, digest, len(body))])
    return digest


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A store with one blob."""
    store = LocalStore(path=tmp_path)
    store.prepare()
    put(store)
    return store


@pytest.fixture
def clock() -> Clock:
    """The time of `verified`."""
    return Clock()


@pytest.fixture
def hits() -> list[str]:
    """What was counted."""
    return []


@pytest.fixture
def verified(store: LocalStore, clock: Clock, hits: list[str]) -> VerifiedFiles:
    """A memory of ten seconds, with the blob in it."""
    verified = VerifiedFiles(
        store=store, good_for_s=10, on_hit=lambda: hits.append("hit"), clock=clock
    )
    with store.open(DIGEST) as reader:
        verified.note(DIGEST, reader)
    return verified


def test_file_is_known_until_its_time_is_over(
    verified: VerifiedFiles, clock: Clock, hits: list[str]
) -> None:
    """Each time it is asked for is counted; asking does not make the time longer."""
    clock.now_s += 9.9
    assert verified.has(DIGEST)
    assert hits == ["hit"]
    clock.now_s += 0.1
    assert not verified.has(DIGEST)
    assert hits == ["hit"]


def rewrite(path: Path) -> None:
    """Change a byte, and hide it."""
    found = path.stat()
    with path.open("r+b") as file:
        file.write(b"x")
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def replace(path: Path) -> None:
    """Put a copy in the place of the file, that seems as old."""
    found = path.stat()
    path.rename(path.with_name("old"))
    path.write_bytes(BODY)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def link(path: Path) -> None:
    """Have the name lead to the very same file."""
    path.symlink_to(path.rename(path.with_name("old")))


CHANGES = [Path.unlink, rewrite, replace, link, lambda path: path.chmod(0o640)]


@pytest.mark.parametrize("change", CHANGES, ids=["unlink", "rewrite", "replace", "link", "chmod"])
def test_changed_file_is_not_known(
    verified: VerifiedFiles, store: LocalStore, change: Callable[[Path], None]
) -> None:
    """Whatever befell it, it has to be read again."""
    change(store.blob_path(DIGEST))
    assert not verified.has(DIGEST)


def test_file_that_changes_while_it_is_read_is_not_noted(store: LocalStore, clock: Clock) -> None:
    """Some blocks may have been read before, others after."""
    verified = VerifiedFiles(store=store, good_for_s=10, on_hit=lambda: None, clock=clock)
    with store.open(DIGEST) as reader:
        rewrite(store.blob_path(DIGEST))
        verified.note(DIGEST, reader)
    assert not verified.has(DIGEST)


def test_blob_that_is_no_file_is_not_noted(verified: VerifiedFiles, store: LocalStore) -> None:
    """Nobody else could read it."""
    memory = MemoryStore()
    digest = put(memory, b"elsewhere")
    put(store, b"elsewhere")
    with memory.open(digest) as reader:
        verified.note(digest, reader)
    assert not verified.has(digest)


def test_memory_is_bounded(
    verified: VerifiedFiles, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that was not asked for for longest is forgotten."""
    monkeypatch.setattr(verified_files, "FILES_MAX", 2)
    digests = [DIGEST, put(store, b"1"), put(store, b"2")]
    for digest in digests[1:]:
        assert verified.has(DIGEST)
        with store.open(digest) as reader:
            verified.note(digest, reader)
    assert [verified.has(digest) for digest in digests] == [True, False, True]
