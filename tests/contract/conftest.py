"""The stores that the suite runs over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.storage.base import BlobStore
from dfs.storage.local_store import LocalStore
from dfs.storage.memory_store import MemoryStore


def open_local(path: Path) -> LocalStore:
    return LocalStore(path=path / "store", name="contract")


def open_memory(path: Path) -> MemoryStore:
    return MemoryStore(name="contract")


@pytest.fixture(params=[open_local, open_memory], ids=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    """A store that is prepared, empty, and nobody's."""
    opener: Callable[[Path], BlobStore] = request.param
    store = opener(tmp_path)
    store.prepare()
    return store
