"""What is owed to stores: written, replaced, postponed, paid, and found again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfs.core.model import BlobKind, Debt, DebtKind, DebtSummary, NodeState
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.db.tables import BLOBS, DEBTS, FILES, NODE_STATES, USAGES
from dfs.db.transaction import IndexTransaction
from tests.db.conftest import NODE_ID, REPLICAS, make_blob, make_digest, make_file

BIG_MS = 1 << 62


def make_debt(number: int, **changes: object) -> Debt:
    """Return the debt of the blob of that number, owed by `replica1` since that moment."""
    debt = Debt.of_blob("replica1", make_digest(number), number, number)
    return replace(debt, **changes)  # type: ignore[arg-type]


def commit(database: IndexDatabase, change: Callable[[IndexTransaction], None]) -> None:
    """Do a change in a transaction of its own."""
    with database.begin() as transaction:
        change(transaction)
        transaction.commit()


def owe(database: IndexDatabase, *debts: Debt) -> None:
    """Have these debts owed."""
    commit(database, lambda transaction: transaction.owe(debts))


def all_due(repository: IndexRepository, store: str = "replica1") -> list[Debt]:
    """Return every debt of a store."""
    return repository.due_debts(store, now_ms=BIG_MS, limit=10_000)


def test_owe_every_field_is_read_back_equal(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A debt survives whole, of either kind."""
    blob = make_debt(1, size=1 << 60, attempts=3, next_try_at_ms=1 << 50, error="ключ 'x'\n")
    segment = Debt.of_segment("primary", 1 << 40, 64 << 20, 1 << 45)
    owe(database, blob, segment)
    assert repository.find_debt("replica1", DebtKind.BLOB, blob.unit) == blob
    found = repository.find_debt("primary", DebtKind.SEGMENT, segment.unit)
    assert found == segment
    assert found.kind is DebtKind.SEGMENT
    assert repository.find_debt("primary", DebtKind.BLOB, segment.unit) is None
    assert repository.find_debt("replica2", DebtKind.BLOB, blob.unit) is None


def test_owe_again_replaces_the_older_debt(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A unit is owed once, since the last time, and its failures are forgotten."""
    owe(database, make_debt(1, attempts=9, next_try_at_ms=99, error="no space"))
    owe(database, make_debt(1, owed_at_ms=50), make_debt(1, owed_at_ms=60))
    assert all_due(repository) == [make_debt(1, owed_at_ms=60)]


def test_owe_rolled_back_leaves_no_debt(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A debt is part of the change that caused it."""
    with database.begin() as transaction:
        transaction.owe([make_debt(1)])
        transaction.flush()
        transaction.owe([make_debt(2)])
    assert all_due(repository) == []


def test_pay_removes_the_debt_but_not_a_newer_one(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """What was owed again while it was paid is still owed."""
    owe(database, *(make_debt(number) for number in range(4)))
    read = all_due(repository)
    owe(database, make_debt(2, owed_at_ms=100))
    commit(database, lambda transaction: transaction.pay(read))
    assert all_due(repository) == [make_debt(2, owed_at_ms=100)]


def test_pay_counts_store_and_kind(database: IndexDatabase, repository: IndexRepository) -> None:
    """Paying one store's copy leaves that of another, and a segment is no blob."""
    elsewhere = make_debt(1, store="replica2")
    other_kind = make_debt(1, kind=DebtKind.SEGMENT)
    owe(database, make_debt(1), elsewhere, other_kind)
    commit(database, lambda transaction: transaction.pay([make_debt(1)]))
    assert all_due(repository) == [other_kind]
    assert all_due(repository, "replica2") == [elsewhere]


def test_pay_sees_what_the_same_transaction_owes(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A copy made before the commit is not owed after it, whatever was owed before."""
    owe(database, make_debt(1, owed_at_ms=0))
    with database.begin() as transaction:
        transaction.owe([make_debt(1), make_debt(2), make_debt(3)])
        transaction.pay([make_debt(1), make_debt(2, owed_at_ms=1)])
        assert transaction.owed() == [make_debt(2), make_debt(3)]
        transaction.pay([make_debt(3)])
        transaction.commit()
    assert all_due(repository) == [make_debt(2)]


def test_owe_after_pay_in_one_transaction_is_owed(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """The last word counts, also when it names the same moment."""
    owe(database, make_debt(1))
    with database.begin() as transaction:
        transaction.pay([make_debt(1)])
        transaction.postpone([make_debt(1, attempts=1, next_try_at_ms=9)])
        transaction.owe([make_debt(1)])
        assert transaction.owed() == [make_debt(1)]
        transaction.commit()
    assert all_due(repository) == [make_debt(1)]


def test_postpone_notes_the_failure_but_not_on_a_newer_debt(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """A failed attempt is written down where it belongs, and makes no debt of a paid one."""
    owe(database, make_debt(1), make_debt(2, owed_at_ms=50))
    failed = [
        make_debt(number, attempts=1, next_try_at_ms=70 + number, error=f"error {number}")
        for number in (1, 2, 3)
    ]
    commit(database, lambda transaction: transaction.postpone(failed))
    assert all_due(repository) == [failed[0], make_debt(2, owed_at_ms=50)]


def test_postpone_without_error_clears_it(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """All of several rows may lack an error, and one that had one loses it."""
    owe(database, make_debt(1, error="x"), make_debt(2, error="x"))
    later = [make_debt(number, next_try_at_ms=5) for number in (1, 2)]
    commit(database, lambda transaction: transaction.postpone(later))
    assert all_due(repository) == later


@pytest.mark.parametrize("error", ["bad name \udcff", "nul \0", "x" * 5000])
def test_error_of_any_content_is_stored(
    database: IndexDatabase, repository: IndexRepository, error: str
) -> None:
    """What a message contains cannot keep a failure from being written down."""
    owe(database, make_debt(1))
    commit(database, lambda transaction: transaction.postpone([make_debt(1, error=error)]))
    found = repository.find_debt("replica1", DebtKind.BLOB, make_debt(1).unit)
    assert found is not None
    assert found.error is not None
    assert found.error[:4] == error[:4]
    assert len(found.error) <= 1000


@pytest.mark.parametrize("count", [1, 31, 33, 129, 300])
def test_batch_of_any_size_is_owed_postponed_and_paid(
    database: IndexDatabase, repository: IndexRepository, count: int
) -> None:
    """Batches are cut into statements without losing or mixing up a row."""
    debts = [make_debt(number) for number in range(count)]
    failed = [replace(debt, attempts=1, error=str(debt.size)) for debt in debts]
    owe(database, *debts, make_debt(count))
    commit(database, lambda transaction: transaction.postpone(failed))
    assert all_due(repository) == [*failed, make_debt(count)]
    commit(database, lambda transaction: transaction.pay(failed))
    assert all_due(repository) == [make_debt(count)]


def test_owe_copies_owes_one_to_each_replica(
    database: IndexDatabase, repository: IndexRepository, index_url: str
) -> None:
    """Every replica of the node must get the blob; a node without replicas owes nothing."""
    commit(database, lambda transaction: transaction.owe_copies(make_digest(1), 77, 5))
    for store in REPLICAS:
        assert all_due(repository, store) == [Debt.of_blob(store, make_digest(1), 77, 5)]
    alone = IndexDatabase(url=index_url, node_id=NODE_ID)
    alone.open()
    commit(alone, lambda transaction: transaction.owe_copies(make_digest(2), 77, 5))
    alone.close()
    assert [row.count for row in repository.summarize_debts()] == [1, 1]


def test_owe_all_blobs_owes_the_files_that_are_referred_to(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """An empty replica owes every blob file, also of this transaction, and nothing else."""
    owe(database, make_debt(1, attempts=4, next_try_at_ms=1000, error="full"))
    with database.begin() as transaction:
        for number in (1, 2, 3):
            transaction.put_blob(make_blob(number, kind=BlobKind.FILE))
        transaction.put_blob(make_blob(4, kind=BlobKind.FILE, references=0))
        transaction.put_blob(make_blob(5))
        transaction.flush()
        transaction.put_blob(make_blob(6, kind=BlobKind.FILE))
        transaction.owe_all_blobs("replica1", 500)
        transaction.pay([make_debt(3, owed_at_ms=500)])
        transaction.commit()
    found = sorted(all_due(repository), key=lambda debt: debt.size)
    assert found == [make_debt(number, owed_at_ms=500) for number in (1, 2, 6)]
    assert all_due(repository, "replica2") == []


def test_due_debts_come_oldest_first_and_not_before_their_time(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Untried debts and those whose time has come are one list by age, of so many at most."""
    owe(
        database,
        make_debt(5),
        make_debt(3),
        make_debt(1, next_try_at_ms=100),
        make_debt(4, next_try_at_ms=101),
        make_debt(2, next_try_at_ms=90, attempts=1),
        make_debt(6, store="replica2"),
    )

    def due(now_ms: int, limit: int = 10) -> list[int]:
        return [d.size for d in repository.due_debts("replica1", now_ms=now_ms, limit=limit)]

    assert due(89) == [3, 5]
    assert due(90) == [2, 3, 5]
    assert due(101) == [1, 2, 3, 4, 5]
    assert due(101, limit=1) == [2]
    assert due(89, limit=1) == [3]


def test_has_debt_tells_which_of_very_many_units_are_owed(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Only units of that store and kind are told, however many are asked for."""
    owed = [make_debt(number) for number in range(0, 400, 2)]
    owe(database, *owed, make_debt(1, store="replica2"), make_debt(3, kind=DebtKind.SEGMENT))
    units = [make_digest(number) for number in range(400)]
    found = repository.has_debt("replica1", DebtKind.BLOB, units)
    assert found == {debt.unit for debt in owed}
    assert repository.has_debt("replica1", DebtKind.BLOB, []) == set()


def test_summarize_debts_groups_by_store_and_kind(
    database: IndexDatabase, repository: IndexRepository
) -> None:
    """Each group has its count, bytes, age and failures; a store that owes nothing is absent."""
    assert repository.summarize_debts() == []
    owe(
        database,
        make_debt(7, size=1 << 60),
        make_debt(5, size=10, attempts=2, next_try_at_ms=50, error="older"),
        make_debt(6, size=20, attempts=1, next_try_at_ms=60, error="newer"),
        Debt.of_segment("replica1", 9, 0, 3),
        make_debt(8, store="primary", size=1),
    )
    assert repository.summarize_debts() == [
        DebtSummary("primary", DebtKind.BLOB, 1, 1, 8, 8, 0, None),
        DebtSummary("replica1", DebtKind.BLOB, 3, (1 << 60) + 30, 5, 7, 2, "newer"),
        DebtSummary("replica1", DebtKind.SEGMENT, 1, 0, 3, 3, 0, None),
    ]


def test_debts_of_another_node_are_not_seen(
    database: IndexDatabase, repository: IndexRepository, index_url: str
) -> None:
    """Nodes that share an index have debts of their own, under the same names of stores."""
    other = IndexDatabase(url=index_url, node_id="node-2")
    other.open()
    owe(other, make_debt(1), make_debt(2))
    owe(database, make_debt(2, owed_at_ms=9))
    commit(database, lambda transaction: transaction.pay([make_debt(1)]))
    assert all_due(repository) == [make_debt(2, owed_at_ms=9)]
    assert all_due(IndexRepository(other)) == [make_debt(1), make_debt(2)]
    assert repository.has_debt("replica1", DebtKind.BLOB, [make_digest(1)]) == set()
    assert [row.count for row in repository.summarize_debts()] == [1]
    other.close()


def plan(database: IndexDatabase, sql: str) -> str:
    """Return how SQLite would run a statement."""
    return str(database.read_all(f"EXPLAIN QUERY PLAN {sql}", [1] * sql.count("?")))


def test_debts_on_sqlite_are_found_by_their_indexes(sqlite_url: str) -> None:
    """With a million debts no statement of every day reads them all."""
    database = IndexDatabase(url=sqlite_url, node_id=NODE_ID)
    database.open()
    database.migrate()
    statements = database.statements
    by_key = "SEARCH dfs_debt USING PRIMARY KEY (node_id=? AND store=? AND kind=? AND unit=?)"
    for count in (1, 7, 128):
        for sql in (statements.pay(count), statements.postpone(count), statements.owed_in(count)):
            assert by_key in plan(database, sql)
            assert "SCAN dfs_debt" not in plan(database, sql)
    due = plan(database, statements.due_debts)
    assert "dfs_debt_due (node_id=? AND store=? AND next_try_at=?)" in due
    assert "dfs_debt_due (node_id=? AND store=? AND next_try_at>? AND next_try_at<?)" in due
    assert "INDEX dfs_debt_due" in plan(database, statements.last_error)
    assert "TEMP B-TREE" not in plan(database, statements.last_error)
    assert "INDEX dfs_blob_file" in plan(database, statements.blob_files)
    assert "COVERING INDEX dfs_blob_file" in plan(database, statements.blob_file_totals)
    database.close()


def run_recorded(
    database: IndexDatabase,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[IndexTransaction], None],
) -> list[str]:
    """Return the statements of a transaction between its begin and its end."""
    statements: list[str] = []

    def recorded(run: Callable[..., object]) -> Callable[..., object]:
        def record(sql: str, *arguments: object) -> object:
            statements.append(sql)
            return run(sql, *arguments)

        return record

    with monkeypatch.context() as patched:
        for name in ("write", "ask"):
            patched.setattr(database, name, recorded(getattr(database, name)))
        commit(database, change)
    return statements


def test_commit_that_owes_nothing_runs_no_further_statement(
    database: IndexDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that live in the log cost no debts: their rows, how much they use, how far it is."""

    def change(transaction: IndexTransaction) -> None:
        transaction.preload(file_ids=[make_file(1).id], digests=[make_digest(1)])
        transaction.put_file(make_file(1))
        transaction.add_record(1, make_blob(1).length)
        transaction.put_blob(make_blob(1))
        transaction.set_node_state(NodeState(NODE_ID, b"c" * 16, 2))

    texts = database.statements
    assert run_recorded(database, monkeypatch, change) == [
        texts.select_in(FILES, 1),
        texts.select_in(BLOBS, 1),
        texts.insert(FILES, 1),
        texts.insert(BLOBS, 1),
        texts.upsert(NODE_STATES, 1),
        texts.add(USAGES, 2),
        "COMMIT",
    ]


def test_commit_that_owes_copies_runs_few_further_statements(
    database: IndexDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of blob files costs as few more as its rows take, of all replicas together."""

    def change(transaction: IndexTransaction) -> None:
        for number in range(10):
            transaction.owe_copies(make_digest(number), 77, 5)

    expected = [*(database.statements.upsert(DEBTS, rows) for rows in (16, 4)), "COMMIT"]
    assert run_recorded(database, monkeypatch, change) == expected


MOMENTS = st.integers(0, 3)
STEPS = st.tuples(
    st.sampled_from(["owe", "pay", "postpone", "flush", "owe all"]), st.integers(0, 2), MOMENTS
)


def _drive(
    transaction: IndexTransaction, model: dict[int, Debt], step: tuple[str, int, int]
) -> None:
    """Take one step on both sides."""
    action, number, moment = step
    debt = make_debt(number, owed_at_ms=moment)
    is_same = number in model and model[number].owed_at_ms == moment
    if action == "owe":
        transaction.owe([debt])
        model[number] = debt
    elif action == "pay":
        transaction.pay([debt])
        if is_same:
            del model[number]
    elif action == "postpone":
        failed = replace(debt, attempts=1, next_try_at_ms=7, error="x")
        transaction.postpone([failed])
        if is_same:
            model[number] = failed
    elif action == "owe all":
        transaction.owe_all_blobs("replica1", moment)
        model.update({each: make_debt(each, owed_at_ms=moment) for each in range(2)})
    else:
        transaction.flush()


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rounds=st.lists(st.tuples(st.lists(STEPS, max_size=8), st.booleans()), max_size=3))
def test_debts_after_any_steps_match_a_dictionary(
    database: IndexDatabase,
    repository: IndexRepository,
    rounds: list[tuple[list[tuple[str, int, int]], bool]],
) -> None:
    """Any sequence of owing, postponing and paying leaves what a dictionary would hold."""
    with database.begin() as transaction:
        transaction.forget_store("replica1")
        for number in range(2):
            transaction.put_blob(make_blob(number, kind=BlobKind.FILE))
        transaction.commit()
    stored: dict[int, Debt] = {}
    for steps, is_committed in rounds:
        model = dict(stored)
        with database.begin() as transaction:
            for step in steps:
                _drive(transaction, model, step)
            if is_committed:
                transaction.commit()
                stored = model
    found = {debt.unit: debt for debt in all_due(repository)}
    assert found == {debt.unit: debt for debt in stored.values()}
