"""A sweep that looks at a temporary file in the moment in which its writer is done with it."""

from __future__ import annotations

import fcntl
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.storage.local_staging import LocalStagedBlob
from dfs.storage.local_store import LocalStore

CONTENT = b"acknowledged"
DIGEST = hashlib.sha256(CONTENT).digest()


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(path=tmp_path / "store")
    store.prepare()
    return store


def publish(store: LocalStore, staged: LocalStagedBlob) -> None:
    """Write the content and give it its name."""
    staged.write(CONTENT)
    staged.seal(DIGEST)
    store.publish([(staged, DIGEST, len(CONTENT))])


def happen_inside_sweep(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None]) -> None:
    """Have something happen once, after a sweep has opened a file and before it locks it."""
    flock = fcntl.flock
    waiting = [happen]

    def happen_then_lock(fd: int, operation: int) -> None:
        if operation & fcntl.LOCK_NB and waiting:
            waiting.pop()()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", happen_then_lock)


def test_sweep_meeting_a_file_that_becomes_a_blob_goes_on(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was renamed meanwhile is a blob, not a leftover; the sweep goes on to the next file."""
    staged = store.stage()
    leftover = store.path / "tmp" / "z-leftover"
    leftover.touch()
    happen_inside_sweep(monkeypatch, lambda: publish(store, staged))

    assert store.sweep(older_than_s=None) == 1
    assert not leftover.exists()
    assert list(store.list_blobs()) == [(DIGEST, len(CONTENT))]


def test_sweep_meeting_a_file_created_anew_leaves_the_new_one(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock of a file that lost its name says nothing about the one that has the name now."""
    monkeypatch.setattr(secrets, "token_hex", lambda _: "same")
    first = store.stage()
    second: list[LocalStagedBlob] = []

    def create_anew() -> None:
        first.discard()
        second.append(store.stage())

    happen_inside_sweep(monkeypatch, create_anew)

    assert store.sweep(older_than_s=None) == 0
    publish(store, second[0])
    assert list(store.list_blobs()) == [(DIGEST, len(CONTENT))]
