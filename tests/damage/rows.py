"""What can befall one value in the index: SQLite keeps anything in any column."""

from __future__ import annotations

import contextlib
import sqlite3
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

from flask import Flask

from dfs.app import create_app
from dfs.core.access import OPERATOR
from dfs.core.config import Config
from dfs.core.errors import DfsError
from dfs.core.model import Debt
from dfs.db.models import TABLES
from dfs.node import Node
from dfs.wiring import Services, open_services
from tests.damage.asking import Asked, ask_all
from tests.damage.cases import memory
from tests.damage.store import Template, build, config_of
from torture.node import empty_directory

JUNK: tuple[object, ...] = (None, b"\xc1\xff", "junk", "", -1, 0, 1 << 62, 1.5)
"""Of another type, malformed as MessagePack and as JSON, or out of any range."""
SERVED = {"no_such_file"}
"""What is answered when an id is another one than it was: nobody can tell."""
REFUSED = ("dfs_migration.name", "dfs_node_state.node_id")
"""The index of a newer program, or of another node, is nothing to throw away: the start says so."""
DATABASE = Path("index", "dfs.db")


def build_rows(directory: Path) -> Template:
    """Build a node with a row in each table: it has a replica that owes something, and a key."""
    template = build(directory, has_replica=True, is_killed=False)
    with contextlib.closing(open_services(_settings(template.directory))) as node:
        with node.index.begin() as transaction:
            transaction.owe([Debt.of_blob("replica1", bytes(32), 5, 1)])
            transaction.commit()
        node.keys.create(name="key", scopes=1, caller=OPERATOR)
    return template


def list_row_harms(template: Template) -> dict[str, Callable[[Path], None]]:
    """Return what can befall the values of the first row of each table, by name."""
    with _connected(template.directory / DATABASE) as connection:
        columns = [
            (table, column)
            for table in TABLES
            if connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()
            for column in _columns(connection, table)
        ]
    return {
        f"{table}.{column} = {value!r}": partial(_put, table=table, column=column, value=value)
        for table, column in columns
        for value in JUNK
    }


def try_rows(template: Template, names: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Try harms out on copies of a node, each started twice.

    Yields:
        (name of the harm, promises that were broken).
    """
    harms = list_row_harms(template)
    with memory() as directory, mock.patch("dfs.node.REOPEN_PAUSE_S", 0):
        app = create_app(_settings(directory))
        for name in names:
            template.copy(directory)
            harms[name](directory / DATABASE)
            first, second = (_use(app, template) for _ in range(2))
            faults = [*first.faults, *second.faults]
            if not name.startswith(REFUSED):
                faults += [f"still: {x}" for x in second.codes.items() if x[1] not in SERVED]
            yield name, faults
            empty_directory(directory)


def _settings(directory: Path) -> Config:
    """Return the settings of a node whose keys nobody asks for."""
    return replace(config_of(directory, has_replica=True), auth="off")


def _use(app: Flask, template: Template) -> Asked:
    """Start the node, ask of it everything, have its jobs work, and end it."""
    client = app.test_client()

    def request(method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        kind = "application/json" if method == "PATCH" else "text/plain"
        answer = client.open(path, method=method, data=body, content_type=kind)
        return answer.status_code, answer.get_data()

    node: Node = app.extensions["dfs"]
    try:
        asked = ask_all(request, template.files)
        with contextlib.suppress(DfsError):
            _work(node.services)
        return asked
    except Exception:
        return Asked(faults=[traceback.format_exc()])
    finally:
        node.close()


def _work(node: Services) -> None:
    """Have each job work for a while. Raises what dfs should not."""
    stores = node.stores.all()
    jobs = [
        lambda: node.garbage.work(budget_s=1),
        lambda: node.compaction.work(budget_s=1),
        *[partial(node.replication.work, store.name, budget_s=1) for store in stores],
        *[partial(node.scrub.start, store.name) for store in stores],
        *[partial(node.scrub.work, store.name, budget_s=1) for store in stores],
    ]
    for job in jobs:
        with contextlib.suppress(DfsError):
            job()


def _put(path: Path, *, table: str, column: str, value: object) -> None:
    """Put a value where the schema may not allow it, and leave the schema as it was."""
    with _connected(path) as connection:
        query = "SELECT sql FROM sqlite_master WHERE name = ?"
        (schema,) = connection.execute(query, (table,)).fetchone()
        keys = ", ".join(f'"{name}"' for name, key in _columns(connection, table).items() if key)
    _set_schema(path, table, schema.replace(" NOT NULL", ""))
    with _connected(path) as connection, contextlib.suppress(sqlite3.IntegrityError):
        connection.execute(
            f'UPDATE {table} SET "{column}" = ? WHERE ({keys}) = '
            f"(SELECT {keys} FROM {table} LIMIT 1)",
            (value,),
        )
    _set_schema(path, table, schema)


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, bool]:
    """Return the columns of a table, and whether each is part of its key."""
    rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
    return {name: bool(key) for _, name, _, _, _, key in rows}


def _set_schema(path: Path, table: str, schema: str) -> None:
    with _connected(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (schema, table))


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection
