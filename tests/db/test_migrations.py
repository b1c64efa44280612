"""How a database gets to the newest schema, and which ones are refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import peewee
import pytest
from playhouse.migrations import Runner

import dfs.db.migrations
from dfs.core.errors import MetadataError
from dfs.core.model import Debt, DebtKind
from dfs.db.connections import Connections
from dfs.db.migrations import find_applied, list_migrations
from dfs.db.models import MIGRATION_TABLE, MODELS, TABLES
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from tests.db.conftest import NODE_ID, make_file, put_files


def test_migrate_twice_changes_nothing(database: IndexDatabase) -> None:
    """Migrating is safe to repeat, and keeps what is stored."""
    put_files(database, make_file(1))
    database.migrate()
    with database.begin() as transaction:
        assert transaction.file(make_file(1).id) == make_file(1)


OLD_ROWS = {
    "dfs_file": ("f", "b", "k", 1, b"d", "t", "{}", None, 1, 1, None, 1),
    "dfs_blob": (b"d", 1, 2, 1, 80, 30, b"", 1, 1),
    "dfs_segment": (NODE_ID, 1, 1, 9, 100, 5),
    "dfs_node_state": (NODE_ID, b"c" * 16, 9),
    "dfs_debt": (NODE_ID, "replica1", 1, b"d", 1, 5, 0, 0, None),
}


def test_migrate_schema_of_an_older_program_has_the_log_read_again(
    index_url: str, tmp_path: Path
) -> None:
    """An index of an older schema keeps what is owed, and is as one that has followed no log."""
    for older in Path(dfs.db.migrations.__file__).parent.glob("000[12]_*.py"):
        shutil.copy(older, tmp_path)
    path = Path(index_url.removeprefix("sqlite:///"))
    if path != Path(index_url):
        path.parent.mkdir()
    connections = Connections(url=index_url)
    connected = connections.writing_database()
    Runner(connected, directory=str(tmp_path), table_name=MIGRATION_TABLE).up()
    for table, row in OLD_ROWS.items():
        marks = ", ".join([connected.param] * len(row))
        connected.execute_sql(f"INSERT INTO {table} VALUES ({marks})", row)
    connections.close()
    database = IndexDatabase(url=index_url, node_id=NODE_ID)
    database.open()
    database.migrate()
    repository = IndexRepository(database)
    assert repository.node_state() is None
    for table in ("dfs_file", "dfs_blob", "dfs_segment"):
        assert database.read_one(f"SELECT COUNT(*) FROM {table}")[0] == 0
    owed = Debt("replica1", DebtKind.BLOB, b"d", 1, 5)
    assert repository.due_debts("replica1", now_ms=9, limit=9) == [owed]
    database.close()


def test_migrate_says_before_what_it_is_about_to_change(index_url: str) -> None:
    """And whether there was anything; what is raised keeps an old one as it is."""
    assert find_applied(index_url) == []
    database = IndexDatabase(url=index_url, node_id=NODE_ID)
    database.open()
    told: list[tuple[Sequence[str], bool]] = []
    database.migrate(before=lambda names, is_new: told.append((names, is_new)))
    assert told == [(list_migrations(), True)]
    assert find_applied(index_url) == list_migrations()
    newest = list_migrations()[-1]
    with database.begin():
        database.write(f"DELETE FROM {MIGRATION_TABLE} WHERE name = '{newest}'")
        database.write("COMMIT")

    def refuse(names: Sequence[str], is_new: bool) -> None:
        raise MetadataError(f"{', '.join(names)}, {is_new}")

    with pytest.raises(MetadataError, match=f"^{newest}, False"):
        database.migrate(before=refuse)
    database.close()
    assert find_applied(index_url) == list_migrations()[:-1]


def test_migrate_newer_schema_is_refused(index_url: str, database: IndexDatabase) -> None:
    """A database that a newer program has changed is not touched, and the error says what to do."""
    with database.begin():
        database.write(
            f"INSERT INTO {MIGRATION_TABLE} (name, applied) "
            "VALUES ('9999_from_the_future', '2030-01-01')"
        )
        database.write("COMMIT")
    later = IndexDatabase(url=index_url, node_id=NODE_ID)
    later.open()
    with pytest.raises(MetadataError, match="newer version") as caught:
        later.migrate()
    later.close()
    assert "9999_from_the_future" in str(caught.value)
    assert caught.value.hint


def test_migrations_build_the_tables_of_the_models(index_url: str, database: IndexDatabase) -> None:
    """The models describe what the migrations made: tables, columns, NULLs, keys."""
    connections = Connections(url=index_url)
    connected = connections.writing_database()
    try:
        assert set(connected.get_tables()) == set(TABLES)
        for model in MODELS:
            meta = model._meta
            found = {column.name: column.null for column in connected.get_columns(meta.table_name)}
            assert found == {field.column_name: field.null for field in meta.sorted_fields}
            keys = meta.primary_key
            names = list(keys.field_names) if isinstance(keys, peewee.CompositeKey) else [keys.name]
            assert connected.get_primary_keys(meta.table_name) == names
    finally:
        connections.close()


def test_migration_files_are_numbered_without_gap() -> None:
    """Their names give the order, and two authors cannot take the same number unnoticed."""
    directory = Path(dfs.db.migrations.__file__).parent
    names = sorted(path.stem for path in directory.glob("[0-9]*.py"))
    assert all(re.fullmatch(r"\d{4}_[a-z0-9_]+", name) for name in names)
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
