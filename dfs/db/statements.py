"""The SQL of the index, for both databases: only placeholders and locking differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dfs.db.rows import BLOB_COLUMNS, FILE_COLUMNS, NODE_STATE_COLUMNS, SEGMENT_COLUMNS

T = TypeVar("T")

CHUNK_ROWS_MAX = 128
_CHUNK_ROWS = (CHUNK_ROWS_MAX, 32)
"""Batches are cut into these sizes, and a rest below the smallest: the driver keeps a prepared
statement for each text, so there must not be a text for each size of batch."""


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield all items in order, in pieces of 128, then of 32, then the rest."""
    start = 0
    for size in _CHUNK_ROWS:
        while len(items) - start >= size:
            yield items[start : start + size]
            start += size
    if start < len(items):
        yield items[start:]


def _qualified(alias: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{column}" for column in columns)


_FILES = ", ".join(FILE_COLUMNS)
_BLOBS = ", ".join(BLOB_COLUMNS)
_LIVE = "(expires_at IS NULL OR expires_at > ?)"
_LISTED = f"SELECT {_FILES} FROM dfs_file WHERE bucket = ? AND (key, id) > (?, ?) AND {_LIVE}"
_IN_ORDER = "ORDER BY key, id LIMIT ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What multi-row statements need to know of a table.

    Attributes:
        key: the columns of its primary key.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]


FILES = Table(name="dfs_file", columns=FILE_COLUMNS, key=("id",))
BLOBS = Table(name="dfs_blob", columns=BLOB_COLUMNS, key=("digest",))
SEGMENTS = Table(name="dfs_segment", columns=SEGMENT_COLUMNS, key=("node_id", "id"))
NODE_STATES = Table(name="dfs_node_state", columns=NODE_STATE_COLUMNS, key=("node_id",))


def _values(table: Table, rows: int) -> str:
    """Return `TABLE (COLUMNS) VALUES (?, ...), ...` for so many rows."""
    values = f"({', '.join('?' * len(table.columns))})"
    return f"{table.name} ({', '.join(table.columns)}) VALUES {', '.join([values] * rows)}"


@dataclass(slots=True)
class Statements:
    """The texts for one database.

    Args:
        is_postgres: PostgreSQL, else SQLite.
    """

    is_postgres: bool
    file: str = field(init=False)
    blob: str = field(init=False)
    download: str = field(init=False)
    key_exists: str = field(init=False)
    list_all: str = field(init=False)
    list_below: str = field(init=False)
    list_named: str = field(init=False)
    segments: str = field(init=False)
    count_files: str = field(init=False)
    node_state: str = field(init=False)
    other_node: str = field(init=False)
    node_state_locked: str = field(init=False)
    begin: tuple[str, ...] = field(init=False)
    _made: dict[tuple[str, str, int], str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Write the texts."""
        self.file = self._own(f"SELECT {_FILES} FROM dfs_file WHERE id = ?")
        self.blob = self._own(f"SELECT {_BLOBS} FROM dfs_blob WHERE digest = ?")
        self.download = self._own(
            f"SELECT {_qualified('f', FILE_COLUMNS)}, {_qualified('b', BLOB_COLUMNS[1:])} "
            "FROM dfs_file f LEFT JOIN dfs_blob b ON b.digest = f.sha256 WHERE f.id = ?"
        )
        self.key_exists = self._own(
            f"SELECT id FROM dfs_file WHERE bucket = ? AND key = ? AND {_LIVE} LIMIT ?"
        )
        self.list_all = self._own(f"{_LISTED} {_IN_ORDER}")
        self.list_below = self._own(f"{_LISTED} AND key < ? {_IN_ORDER}")
        self.list_named = self._own(f"{_LISTED} AND key <= ? {_IN_ORDER}")
        self.segments = self._own(
            f"SELECT {', '.join(SEGMENT_COLUMNS)} FROM dfs_segment "
            "WHERE node_id = ? AND id > ? ORDER BY id LIMIT ?"
        )
        self.count_files = "SELECT COUNT(*) FROM dfs_file"
        self.node_state = self._own(
            f"SELECT {', '.join(NODE_STATE_COLUMNS)} FROM dfs_node_state WHERE node_id = ?"
        )
        self.other_node = self._own("SELECT node_id FROM dfs_node_state WHERE node_id <> ? LIMIT 1")
        self.node_state_locked = self.node_state + (" FOR UPDATE" if self.is_postgres else "")
        self.begin = (
            ("BEGIN", "SET LOCAL synchronous_commit = off")
            if self.is_postgres
            else ("BEGIN IMMEDIATE",)
        )

    def _own(self, sql: str) -> str:
        return sql.replace("?", "%s") if self.is_postgres else sql

    def insert(self, table: Table, rows: int) -> str:
        """Return the statement that inserts so many rows, none of which may exist.

        SQLite need not be able to undo half of it (OR FAIL), since whoever sees it fail rolls the
        whole transaction back. That spares copying every page into a statement journal, which
        nearly halves the cost of a batch.
        """
        made = self._made.get(("insert", table.name, rows))
        if made is None:
            verb = "INSERT" if self.is_postgres else "INSERT OR FAIL"
            made = self._made["insert", table.name, rows] = self._own(
                f"{verb} INTO {_values(table, rows)}"
            )
        return made

    def upsert(self, table: Table, rows: int) -> str:
        """Return the statement that inserts so many rows, or replaces those that exist."""
        made = self._made.get(("upsert", table.name, rows))
        if made is None:
            changes = ", ".join(
                f"{column} = excluded.{column}"
                for column in table.columns
                if column not in table.key
            )
            made = self._made["upsert", table.name, rows] = self._own(
                f"INSERT INTO {_values(table, rows)} "
                f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"
            )
        return made

    def select_in(self, table: Table, keys: int) -> str:
        """Return the statement that selects the rows with so many keys."""
        made = self._made.get(("select", table.name, keys))
        if made is None:
            made = self._made["select", table.name, keys] = self._own(
                f"SELECT {', '.join(table.columns)} FROM {table.name} "
                f"WHERE {table.key[0]} IN ({', '.join('?' * keys)})"
            )
        return made

    def delete_in(self, table: Table, keys: int) -> str:
        """Return the statement that deletes the rows with so many keys."""
        made = self._made.get(("delete", table.name, keys))
        if made is None:
            made = self._made["delete", table.name, keys] = self._own(
                f"DELETE FROM {table.name} WHERE {table.key[0]} IN ({', '.join('?' * keys)})"
            )
        return made
