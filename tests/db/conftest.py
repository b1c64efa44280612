"""An open, empty index on each database, and values to put into it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dfs.core.model import DEFAULT_BUCKET, Blob, BlobKind, Extent, File, FileInfo
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase

NODE_ID = "node-1"
REPLICAS = ("replica1", "replica2")


def make_file(number: int, key: str | None = None, **changes: object) -> File:
    """Return a file whose id, key and digest follow from its number."""
    values: dict[str, object] = {
        "id": f"01K{number:023d}",
        "bucket": DEFAULT_BUCKET,
        "key": f"dir/{number:06d}.txt" if key is None else key,
        "size": number,
        "digest": make_digest(number),
        "content_type": "text/plain",
        "metadata": {},
        "created_at_ms": 1_700_000_000_000 + number,
        "updated_at_ms": 1_700_000_000_000 + number,
        "expires_at_ms": None,
        "lsn": 2 * number + 2,
        "deleted_at_ms": None,
    }
    return File(**{**values, **changes})  # type: ignore[arg-type]


def info_of(file: FileInfo) -> FileInfo:
    """Return what a list shows of a file, or of what it shows already."""
    return FileInfo(*(getattr(file, name) for name in FileInfo.__struct_fields__))


def make_blob(number: int, **changes: object) -> Blob:
    """Return the blob that holds all of the file of that number."""
    values: dict[str, object] = {
        "digest": make_digest(number),
        "size": number,
        "kind": BlobKind.INLINE,
        "segment_id": 1,
        "offset": 4096 + 100 * number,
        "length": 100,
        "block_crc32s": b"",
        "references": 1,
        "lsn": 2 * number + 1,
    }
    return Blob(**{**values, **changes})  # type: ignore[arg-type]


def make_digest(number: int) -> bytes:
    """Return 32 bytes that hold every byte value sooner or later."""
    return bytes((number * 31 + place) % 256 for place in range(28)) + number.to_bytes(4, "big")


def make_extents(*numbers: int) -> tuple[Extent, ...]:
    """Return one run of bytes of each of these blobs."""
    return tuple(Extent(make_digest(number), 10, 1 << 40) for number in numbers)


def put_files(database: IndexDatabase, *files: File) -> None:
    """Store files in a transaction of their own."""
    with database.begin() as transaction:
        for file in files:
            transaction.put_file(file)
        transaction.commit()


def count_files(database: IndexDatabase) -> int:
    """Return how many files the index holds, expired ones included."""
    return int(database.read_one("SELECT COUNT(*) FROM dfs_file")[0])


@pytest.fixture
def database(index_url: str) -> Iterator[IndexDatabase]:
    """The index, open and migrated."""
    database = IndexDatabase(url=index_url, node_id=NODE_ID, replicas=REPLICAS)
    database.open()
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def repository(database: IndexDatabase) -> IndexRepository:
    """What reads the open index."""
    return IndexRepository(database)
