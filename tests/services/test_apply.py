"""What records do to the index, and what they have the stores owe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dfs.core.model import Blob, Debt, DebtKind, File, NodeState
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.services import apply as applying
from dfs.wal.frame import Frame
from dfs.wal.record import (
    DeleteFile,
    DropBlob,
    FileExtent,
    Meta,
    PurgeFile,
    PutBlob,
    PutFile,
    RestoreFile,
)

NOW_MS = 1_700_000_000_000
DIGEST = bytes(range(32))


@pytest.fixture
def index(index_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexDatabase]:
    """An empty index of a node with two replicas, at one fixed moment."""
    monkeypatch.setattr(applying, "now_ms", lambda: NOW_MS)
    index = IndexDatabase(url=index_url, node_id="node-1", replicas=("replica1", "replica2"))
    index.open()
    index.migrate()
    yield index
    index.close()


def apply_blob(index: IndexDatabase, *, lsn: int, inline: bool) -> None:
    """Apply the record that puts the blob, in a transaction of its own."""
    frame = Frame(1, 4096 * lsn, 100, lsn, 1, 0, b"", memoryview(b""))
    with index.begin() as transaction:
        applying.apply(frame, PutBlob(DIGEST, 77, inline), transaction)
        transaction.commit()


def owed(index: IndexDatabase) -> list[Debt]:
    """Return all debts of the replicas."""
    repository = IndexRepository(index)
    return [
        debt
        for store in ("replica1", "replica2")
        for debt in repository.due_debts(store, now_ms=NOW_MS, limit=10)
    ]


def test_apply_blob_file_owes_a_copy_to_each_replica(index: IndexDatabase) -> None:
    """What lies beside the log has to be copied by itself, to every replica."""
    apply_blob(index, lsn=1, inline=False)
    expected = [Debt.of_blob(store, DIGEST, 77, NOW_MS) for store in ("replica1", "replica2")]
    assert owed(index) == expected


def test_apply_inline_blob_owes_nothing(index: IndexDatabase) -> None:
    """What lies in the log is copied with it."""
    apply_blob(index, lsn=1, inline=True)
    assert owed(index) == []


def test_apply_blob_file_again_owes_nothing_new(
    index: IndexDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that the index has followed already does not bring back what was paid."""
    apply_blob(index, lsn=1, inline=False)
    with index.begin() as transaction:
        transaction.pay(owed(index))
        transaction.commit()
    apply_blob(index, lsn=1, inline=False)
    assert owed(index) == []
    monkeypatch.setattr(applying, "now_ms", lambda: NOW_MS - 1)
    apply_blob(index, lsn=2, inline=False)
    assert [debt.owed_at_ms for debt in owed(index)] == [NOW_MS - 1] * 2


def put_file(*, extents: int = 0, **fields: object) -> PutFile:
    """Return the record of a file whose bytes are the blob, so many times."""
    runs = [FileExtent(DIGEST, 0, 7)] * extents
    values = {"id": "f", "bucket": "b", "key": "k", "size": 77, "digest": DIGEST, **fields}
    return PutFile(content_type="t", created_at_ms=5, extents=runs, **values)  # type: ignore[arg-type]


def apply_all(index: IndexDatabase, *metas: Meta, first_lsn: int = 1) -> None:
    """Apply records of 100 bytes, one behind the other, in a transaction of their own."""
    with index.begin() as transaction:
        for lsn, meta in enumerate(metas, first_lsn):
            frame = Frame(1, 100 * lsn, 100, lsn, 1, 0, b"", memoryview(b""))
            applying.apply(frame, meta, transaction)
        transaction.commit()


def find_file(index: IndexDatabase) -> File | None:
    """Return the file as it stands in the index, be it in the trash."""
    with index.begin() as transaction:
        return transaction.file("f")


def find_blob(index: IndexDatabase) -> Blob | None:
    """Return the blob as it stands in the index."""
    return IndexRepository(index).find_blob(DIGEST)


PUT_BLOB = PutBlob(DIGEST, 77, inline=False)


def test_apply_snapshot_replaces_the_file_and_leaves_its_references(index: IndexDatabase) -> None:
    """What compaction says of a file holds whatever was said before, and counts no bytes twice."""
    apply_all(index, PUT_BLOB, put_file(extents=2), DeleteFile("f", 7))
    snapshot = put_file(extents=2, key="new", updated_at_ms=6, deleted_at_ms=7, first_lsn=2)
    apply_all(index, snapshot, first_lsn=9)
    file, blob = find_file(index), find_blob(index)
    assert file is not None
    assert blob is not None
    assert (file.key, file.updated_at_ms, file.deleted_at_ms) == ("new", 6, 7)
    assert (file.first_lsn, file.base_lsn, file.lsn, file.base_length) == (2, 9, 9, 100)
    assert blob.references == 2
    apply_all(index, PurgeFile("f", 8, first_lsn=2), first_lsn=10)
    assert find_file(index) is None
    emptied = find_blob(index)
    assert emptied is not None
    assert emptied.references == 0


def test_apply_file_before_its_blob_waits_for_the_blob(index: IndexDatabase) -> None:
    """Compaction moves a blob behind its file: the references are right when it comes."""
    apply_all(index, put_file(extents=2))
    assert index.nowhere_blob() == DIGEST
    apply_all(index, PutBlob(DIGEST, 77, inline=False, first_lsn=1), first_lsn=5)
    blob = find_blob(index)
    assert index.nowhere_blob() is None
    assert blob is not None
    assert (blob.references, blob.first_lsn, blob.lsn) == (2, 1, 5)
    assert len(owed(index)) == 2


def test_apply_purge_of_a_file_whose_blob_is_gone_leaves_nothing(index: IndexDatabase) -> None:
    """A dead file whose blob was compacted away comes and goes without a trace."""
    apply_all(index, put_file(extents=2))
    apply_all(index, PurgeFile("f", 8, first_lsn=1), first_lsn=5)
    assert find_file(index) is None
    assert find_blob(index) is None
    assert index.nowhere_blob() is None


def removals(index: IndexDatabase, now_ms: int) -> list[tuple[str, int, int]]:
    """Return (store, size, LSN) of each removal that is due."""
    repository = IndexRepository(index)
    return [
        (debt.store, debt.size, debt.lsn)
        for store in ("primary", "replica1", "replica2")
        for debt in repository.due_debts(store, now_ms=now_ms, limit=10)
        if debt.kind is DebtKind.REMOVE_BLOB
    ]


def test_apply_drop_has_all_stores_remove_the_blob_in_their_time(index: IndexDatabase) -> None:
    """The primary removes it at once, a replica when no synchronous write counts on it any more."""
    apply_all(index, PUT_BLOB, DropBlob(DIGEST, first_lsn=1))
    assert find_blob(index) is None
    assert removals(index, NOW_MS) == [("primary", 77, 2)]
    due_ms = NOW_MS + applying.REMOVAL_DELAY_MS
    assert removals(index, due_ms - 1) == [("primary", 77, 2)]
    assert removals(index, due_ms) == [
        (name, 77, 2) for name in ("primary", "replica1", "replica2")
    ]


def test_apply_drop_that_was_moved_spares_what_was_put_since(index: IndexDatabase) -> None:
    """A tombstone tells how the log was when it was first written, wherever it stands now."""
    apply_all(index, PUT_BLOB, DropBlob(DIGEST, first_lsn=1), PUT_BLOB)
    apply_all(index, DropBlob(DIGEST, first_lsn=1, at_lsn=2), first_lsn=9)
    blob = find_blob(index)
    assert blob is not None
    assert (blob.lsn, blob.first_lsn) == (3, 3)


def test_apply_drop_before_the_purge_keeps_count_of_the_references(index: IndexDatabase) -> None:
    """Compaction moves a purge behind the drop that followed it; in the end all is gone."""
    apply_all(index, PUT_BLOB, put_file(), DropBlob(DIGEST, first_lsn=1))
    assert index.nowhere_blob() == DIGEST
    apply_all(index, PurgeFile("f", 8, first_lsn=2), first_lsn=9)
    assert find_blob(index) is None


def test_apply_below_what_the_index_has_followed_changes_nothing(index: IndexDatabase) -> None:
    """A record is counted and applied once, however often it is replayed."""
    apply_all(index, PUT_BLOB, put_file(), DeleteFile("f", 7), RestoreFile("f", 8))
    with index.begin() as transaction:
        transaction.set_node_state(NodeState("node-1", b"c" * 16, 4))
        transaction.commit()
    repository = IndexRepository(index)
    before = (find_file(index), find_blob(index), repository.usage(), repository.dead_bytes())
    assert repository.dead_bytes() == 200
    apply_all(index, PUT_BLOB, put_file(), DeleteFile("f", 7), RestoreFile("f", 8))
    after = (find_file(index), find_blob(index), repository.usage(), repository.dead_bytes())
    assert after == before
