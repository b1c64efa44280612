"""What a transaction sees, writes and undoes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from dfs.core.errors import IndexDamagedError, MetadataError
from dfs.core.model import BlobKind, NodeState, Segment
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.db.transaction import IndexTransaction
from tests.db.conftest import (
    NODE_ID,
    count_files,
    make_blob,
    make_digest,
    make_extents,
    make_file,
    put_files,
)

FAR_FUTURE_MS = 4_000_000_000_000


def test_transaction_in_empty_index_has_no_node_state(database: IndexDatabase) -> None:
    """An index that has followed no log says so."""
    with database.begin() as transaction:
        assert transaction.node_state is None


def test_commit_everything_put_is_read_back_equal(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Every field of every value survives, also those of awkward content."""
    file = make_file(
        1,
        key="ü/\U0001f600\u2028'\"\\ .txt",
        size=1 << 60,
        metadata={"ключ": "значение\n", "empty": ""},
        expires_at_ms=FAR_FUTURE_MS,
        extents=make_extents(1, 2, 1),
    )
    blob = make_blob(
        1, kind=BlobKind.FILE, size=1 << 60, offset=1 << 40, block_crc32s=bytes(range(256))
    )
    segment = Segment(id=3, first_lsn=10, last_lsn=1 << 50, size_bytes=1 << 40, sealed_at_ms=5)
    with database.begin() as transaction:
        transaction.put_file(file)
        transaction.put_blob(blob)
        transaction.put_segment(segment)
        transaction.set_node_state(NodeState(NODE_ID, b"\x00\xff" * 8, 1 << 50))
        transaction.commit()
    assert repository.find_file(file.id, 0) == file
    assert repository.find_blob(blob.digest) == blob
    assert repository.list_segments(limit=10) == [segment]
    assert repository.node_state() == NodeState(NODE_ID, b"\x00\xff" * 8, 1 << 50)
    with database.begin() as transaction:
        assert transaction.file(file.id) == file
        assert transaction.blob(blob.digest) == blob
        assert transaction.node_state == repository.node_state()


def test_blob_kind_read_back_is_the_enum(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A kind comes back as `BlobKind`, not as the number that stands in the row."""
    with database.begin() as transaction:
        transaction.put_blob(make_blob(1))
        transaction.commit()
    blob = repository.find_blob(make_digest(1))
    assert blob is not None
    assert blob.kind is BlobKind.INLINE


def test_row_that_cannot_be_read_is_damage_inside_a_transaction_too(
    database: IndexDatabase,
) -> None:
    """The driver finds that out when it fetches the row, not when it runs the statement."""
    if database.is_postgres:
        return
    put_files(database, make_file(1))
    with database.begin() as transaction:
        database.write("UPDATE dfs_file SET key = CAST(x'ff' AS TEXT)")
        transaction.commit()
    with database.begin() as transaction, pytest.raises(IndexDamagedError):
        transaction.file(make_file(1).id)


def test_rollback_leaves_nothing(database: IndexDatabase) -> None:
    """Neither flushed nor pending changes of a transaction that is left survive it."""
    with database.begin() as transaction:
        transaction.put_file(make_file(1))
        transaction.flush()
        transaction.put_file(make_file(2))
    assert count_files(database) == 0


def test_error_inside_transaction_rolls_back(database: IndexDatabase) -> None:
    """An exception leaves the index as it was, and the next transaction can begin."""

    def fail() -> None:
        with database.begin() as transaction:
            transaction.put_file(make_file(1))
            transaction.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    put_files(database, make_file(2))
    assert count_files(database) == 1


def test_rollback_after_commit_does_nothing(database: IndexDatabase) -> None:
    """Ending a transaction twice is harmless, and using it afterwards is refused."""
    transaction = database.begin()
    transaction.put_file(make_file(1))
    transaction.commit()
    transaction.rollback()
    assert count_files(database) == 1
    with pytest.raises(MetadataError):
        transaction.flush()
    with pytest.raises(MetadataError):
        transaction.file("unknown")


def test_changes_before_flush_are_seen_by_own_reads(database: IndexDatabase) -> None:
    """What was put or removed is what the same transaction reads."""
    put_files(database, make_file(1), make_file(2))
    changed = make_file(1, key="other")
    with database.begin() as transaction:
        transaction.preload(file_ids=[changed.id, make_file(2).id])
        transaction.put_file(changed)
        transaction.remove_file(make_file(2).id)
        transaction.put_blob(make_blob(7))
        assert transaction.file(changed.id) == changed
        assert transaction.file(make_file(2).id) is None
        assert transaction.blob(make_digest(7)) == make_blob(7)
        transaction.preload(file_ids=[changed.id, make_file(2).id], digests=[make_digest(7)])
        assert transaction.file(changed.id) == changed
        assert transaction.file(make_file(2).id) is None
        assert transaction.blob(make_digest(7)) == make_blob(7)


def test_put_of_existing_rows_replaces_them(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Rows that exist are replaced, whether the transaction has looked at them or not."""
    put_files(database, make_file(1), make_file(2), make_file(3))
    with database.begin() as transaction:
        transaction.preload(file_ids=[make_file(1).id, make_file(4).id])
        for number in range(1, 5):
            transaction.put_file(make_file(number, key="new", lsn=99))
        transaction.commit()
    found = [repository.find_file(make_file(number).id, 0) for number in range(1, 5)]
    assert found == [make_file(number, key="new", lsn=99) for number in range(1, 5)]


def test_put_and_remove_across_flushes_keep_order(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """The last word on a file counts, however often it was flushed before."""
    file = make_file(1)
    with database.begin() as transaction:
        transaction.preload(file_ids=[file.id])
        for _ in range(2):
            transaction.put_file(file)
            transaction.flush()
            transaction.remove_file(file.id)
            transaction.flush()
        transaction.put_file(replace(file, key="last"))
        transaction.flush()
        transaction.put_file(replace(file, key="very last"))
        transaction.commit()
    assert repository.find_file(file.id, 0) == replace(file, key="very last")


@pytest.mark.parametrize("count", [1, 31, 32, 33, 128, 129, 1000])
def test_batch_of_any_size_is_stored_and_removed(database: IndexDatabase, count: int) -> None:
    """Batches are cut into statements without losing or doubling a row."""
    files = [make_file(number) for number in range(count)]
    with database.begin() as transaction:
        transaction.preload(
            file_ids=[file.id for file in files], digests=[file.digest for file in files]
        )
        for number, file in enumerate(files):
            transaction.put_file(file)
            transaction.put_blob(make_blob(number))
        transaction.commit()
    assert count_files(database) == count
    with database.begin() as transaction:
        transaction.preload(
            file_ids=[file.id for file in files], digests=[file.digest for file in files]
        )
        assert all(transaction.file(file.id) == file for file in files)
        assert all(transaction.blob(file.digest) is not None for file in files)
        for file in files[1:]:
            transaction.remove_file(file.id)
        transaction.commit()
    assert count_files(database) == 1


def test_key_exists_counts_pending_changes(database: IndexDatabase) -> None:
    """A name is taken by what was put, and free of what was removed, renamed or expired."""
    put_files(
        database,
        make_file(1, "removed"),
        make_file(2, "renamed"),
        make_file(3, "stays"),
        make_file(4, "expired", expires_at_ms=1000),
        make_file(5, "mended", expires_at_ms=1000),
    )
    with database.begin() as transaction:
        transaction.remove_file(make_file(1).id)
        transaction.put_file(make_file(2, "new name"))
        transaction.put_file(make_file(5, "mended"))
        transaction.put_file(make_file(6, "put"))
        transaction.put_file(make_file(7, "put expired", expires_at_ms=1000))
        expected = {"new name": True, "stays": True, "put": True, "mended": True}
        for key in ("removed", "renamed", "expired", "put expired", "never"):
            expected[key] = False
        found = {key: transaction.key_exists("default", key, 1000) for key in expected}
        assert found == expected
        assert not transaction.key_exists("other bucket", "stays", 1000)
        transaction.flush()
        assert {key: transaction.key_exists("default", key, 1000) for key in expected} == expected


def test_segments_of_another_node_are_not_listed(
    database: IndexDatabase, repository: IndexRepository, index_url: str
) -> None:
    """Nodes that share an index have their own segments and state."""
    other = IndexDatabase(url=index_url, node_id="node-2")
    other.open()
    with other.begin() as transaction:
        transaction.put_segment(Segment(1, 1, 9, 900, 5))
        transaction.set_node_state(NodeState("node-2", b"c" * 16, 9))
        transaction.commit()
    other.close()
    assert repository.list_segments(limit=10) == []
    assert repository.node_state() is None


def _drive(
    transaction: IndexTransaction, model: dict[int, str], step: tuple[int, str, int]
) -> None:
    """Take one step on both sides, then compare what they know of its file."""
    number, action, version = step
    file_id = make_file(number).id
    if action == "put":
        transaction.put_file(make_file(number, f"v{version}"))
        model[number] = f"v{version}"
    elif action == "remove":
        transaction.remove_file(file_id)
        model.pop(number, None)
    elif action == "preload":
        transaction.preload(file_ids=[file_id])
    elif action == "flush":
        transaction.flush()
    known = transaction.file(file_id) if action != "flush" else None
    assert action == "flush" or (known.key if known else None) == model.get(number)


STEPS = st.tuples(
    st.integers(0, 3), st.sampled_from(["put", "remove", "preload", "flush"]), st.integers(0, 9)
)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rounds=st.lists(st.tuples(st.lists(STEPS, max_size=8), st.booleans()), max_size=4))
def test_transactions_of_any_steps_match_a_dictionary(
    database: IndexDatabase,
    repository: IndexRepository,
    rounds: list[tuple[list[tuple[int, str, int]], bool]],
) -> None:
    """Any sequence of changes, committed or not, leaves what a dictionary would hold."""
    with database.begin() as transaction:
        for number in range(4):
            transaction.remove_file(make_file(number).id)
        transaction.commit()
    stored: dict[int, str] = {}
    for steps, is_committed in rounds:
        model = dict(stored)
        with database.begin() as transaction:
            for step in steps:
                _drive(transaction, model, step)
            if is_committed:
                transaction.commit()
                stored = model
    found = repository.list_files(bucket="default", after=None, limit=10, now_ms=0)
    assert {int(file.id[3:]): file.key for file in found} == stored
