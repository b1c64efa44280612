"""An object store on a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.storage.object_store import ObjectStore
from tests.s3 import S3Server

ObjectStoreOpener = Callable[..., ObjectStore]


@pytest.fixture
def open_object_store(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> ObjectStoreOpener:
    """Return a function that opens a store in the test's bucket; its arguments may be replaced."""

    def open_it(**changes: object) -> ObjectStore:
        arguments: dict[str, object] = {
            "url": f"s3://{s3_bucket}/prefix",
            "name": "replica1",
            "endpoint": s3_server.endpoint,
            "access_key_id": s3_server.access_key_id,
            "secret_access_key": s3_server.secret_access_key,
            "spool_path": tmp_path / "spool",
        }
        return ObjectStore(**arguments | changes)  # type: ignore[arg-type]

    return open_it


@pytest.fixture
def object_store(open_object_store: ObjectStoreOpener) -> ObjectStore:
    """A prepared, empty store."""
    store = open_object_store()
    store.prepare()
    return store
