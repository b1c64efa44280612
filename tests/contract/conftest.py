"""The stores that the suite runs over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.storage.base import BlobStore
from dfs.storage.local_store import LocalStore
from dfs.storage.memory_store import MemoryStore
from dfs.storage.object_store import ObjectStore
from tests.s3 import S3Server


def open_local(request: pytest.FixtureRequest) -> LocalStore:
    path: Path = request.getfixturevalue("tmp_path")
    return LocalStore(path=path / "store", name="contract")


def open_memory(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(name="contract")


def open_s3(request: pytest.FixtureRequest) -> ObjectStore:
    server: S3Server = request.getfixturevalue("s3_server")
    bucket: str = request.getfixturevalue("s3_bucket")
    return ObjectStore(
        url=f"s3://{bucket}/some/prefix",
        name="contract",
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        spool_path=request.getfixturevalue("tmp_path") / "spool",
    )


@pytest.fixture(params=[open_local, open_memory, open_s3], ids=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest) -> BlobStore:
    """A store that is prepared, empty, and nobody's."""
    opener: Callable[[pytest.FixtureRequest], BlobStore] = request.param
    store = opener(request)
    store.prepare()
    return store
