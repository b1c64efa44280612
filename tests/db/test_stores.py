"""What the index knows of the stores, and of the blob files they hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfs.core.model import BlobKind, Debt, ScrubState, StoreState
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from tests.db.conftest import make_blob, make_digest

SCRUB = ScrubState(
    position="blobs/ab\u2028",
    started_at_ms=1 << 41,
    finished_at_ms=1 << 42,
    bytes_read=1 << 43,
    bytes_total=1 << 44,
    damaged=5,
    last_damaged=6,
    last_bytes=1 << 45,
)
STATE = StoreState(
    name="replica1",
    store_id=bytes(range(16)),
    segment_id=1 << 33,
    offset=1 << 34,
    lsn=1 << 35,
    was_mounted=True,
    failures=7,
    retry_at_ms=1 << 36,
    error="нет места",
    error_at_ms=1 << 37,
    scrub=SCRUB,
)
FRESH = StoreState(name="primary", store_id=b"p" * 16)


def put_states(database: IndexDatabase, *states: StoreState) -> None:
    """Store states in a transaction of their own."""
    with database.begin() as transaction:
        for state in states:
            transaction.put_store_state(state)
        transaction.commit()


def test_store_state_put_is_read_back_equal(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Every field of every store survives, the truth values as such."""
    assert repository.store_states() == {}
    put_states(database, STATE, FRESH)
    assert repository.store_states() == {"primary": FRESH, "replica1": STATE}
    assert repository.store_states()["replica1"].was_mounted is True
    with database.begin() as transaction:
        assert transaction.store_states() == repository.store_states()


def test_store_state_put_again_replaces_every_field(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A store that was replaced by an empty one has nothing of the old one."""
    put_states(database, STATE, FRESH)
    empty = StoreState(name="replica1", store_id=b"n" * 16)
    put_states(database, empty)
    assert repository.store_states() == {"primary": FRESH, "replica1": empty}


def test_store_state_put_is_seen_by_its_own_transaction_only(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Before the commit the new state is the transaction's own, and a rollback forgets it."""
    put_states(database, FRESH)
    behind = replace(FRESH, lsn=9)
    with database.begin() as transaction:
        transaction.put_store_state(behind)
        assert transaction.store_states() == {"primary": behind}
        transaction.flush()
        assert transaction.store_states() == {"primary": behind}
        assert repository.store_states() == {"primary": FRESH}
    assert repository.store_states() == {"primary": FRESH}


@pytest.mark.parametrize("error", ["bad name \udcff", "nul \0"])
def test_store_error_of_any_content_is_stored(
    database: IndexDatabase, repository: IndexRepository, error: str
) -> None:
    """What a message contains cannot keep the state of a store from being written down."""
    put_states(database, replace(FRESH, error=error))
    found = repository.store_states()["primary"].error
    assert found is not None
    assert found[:3] == error[:3]


def test_forget_store_removes_its_state_and_debts(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Nothing of the store is left, whether flushed or not; the others keep theirs."""
    put_states(database, STATE, FRESH)
    debts = [Debt.of_blob(store, make_digest(1), 1, 1) for store in ("replica1", "replica2")]
    with database.begin() as transaction:
        transaction.owe(debts)
        transaction.put_store_state(replace(STATE, lsn=1))
        transaction.forget_store("replica1")
        assert transaction.store_states() == {"primary": FRESH}
        transaction.commit()
    assert repository.store_states() == {"primary": FRESH}
    assert repository.due_debts("replica1", now_ms=9, limit=9) == []
    assert repository.due_debts("replica2", now_ms=9, limit=9) == [debts[1]]


def test_stores_of_another_node_are_not_seen(
    database: IndexDatabase, repository: IndexRepository, index_url: str
) -> None:
    """Nodes that share an index may call their stores alike."""
    other = IndexDatabase(url=index_url, node_id="node-2")
    other.open()
    put_states(other, STATE)
    put_states(database, replace(STATE, lsn=1))
    with database.begin() as transaction:
        transaction.forget_store("replica1")
        transaction.commit()
    assert repository.store_states() == {}
    assert IndexRepository(other).store_states() == {"replica1": STATE}
    other.close()


def test_list_blobs_gives_each_blob_file_once_by_digest(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Pages of any size follow each other without gap or repeat; inline blobs are left out."""
    assert repository.list_blobs(limit=5) == []
    files = [make_blob(number, kind=BlobKind.FILE, references=number % 2) for number in range(20)]
    with database.begin() as transaction:
        for blob in files:
            transaction.put_blob(blob)
        for number in range(20, 40):
            transaction.put_blob(make_blob(number))
        transaction.commit()
    expected = sorted(files, key=lambda blob: blob.digest)
    for limit in (1, 7, 20, 100):
        found = []
        after = b""
        while page := repository.list_blobs(after=after, limit=limit):
            assert len(page) <= limit
            found += page
            after = page[-1].digest
        assert found == expected


def test_blob_file_totals_count_no_inline_blob(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Number and bytes are those of the files beside the log."""
    assert repository.blob_file_totals() == (0, 0)
    with database.begin() as transaction:
        transaction.put_blob(make_blob(1, kind=BlobKind.FILE, size=1 << 61))
        transaction.put_blob(make_blob(2, kind=BlobKind.FILE, size=5))
        transaction.put_blob(make_blob(3, size=7))
        transaction.commit()
    assert repository.blob_file_totals() == (2, (1 << 61) + 5)
