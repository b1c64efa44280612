"""How a database gets to the newest schema, and which ones are refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import peewee
import pytest
from playhouse.migrations import Runner

import dfs.db.migrations
from dfs.core.errors import MetadataError
from dfs.db.connections import Connections
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


def test_migrate_schema_of_an_older_program_keeps_its_rows(index_url: str, tmp_path: Path) -> None:
    """An index of the first schema gets the tables that came later, and loses nothing."""
    first = Path(dfs.db.migrations.__file__).parent / "0001_first_schema.py"
    shutil.copy(first, tmp_path)
    path = Path(index_url.removeprefix("sqlite:///"))
    if path != Path(index_url):
        path.parent.mkdir()
    connections = Connections(url=index_url)
    Runner(connections.writing_database(), directory=str(tmp_path), table_name=MIGRATION_TABLE).up()
    connections.close()
    database = IndexDatabase(url=index_url, node_id=NODE_ID)
    database.open()
    put_files(database, make_file(1))
    database.migrate()
    repository = IndexRepository(database)
    assert repository.find_file(make_file(1).id, 0) == make_file(1)
    assert repository.summarize_debts() == []
    database.close()


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
