"""What the records of blobs have the replicas owe."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dfs.core.model import Debt
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.services import apply as applying
from dfs.wal.frame import Frame
from dfs.wal.record import PutBlob

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
