"""The SQL of the index, for both databases: only placeholders and locking differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dfs.core.model import BlobKind
from dfs.db.rows import (
    BLOB_COLUMNS,
    DEBT_COLUMNS,
    FILE_COLUMNS,
    FILE_INFO_COLUMNS,
    KEY_COLUMNS,
    NODE_STATE_COLUMNS,
    SEGMENT_COLUMNS,
    STORE_COLUMNS,
    USAGE_COLUMNS,
)
from dfs.db.tables import (
    DEBTS,
    Table,
)

LIST_ENDS = ("", " AND key < ?", " AND key <= ?")
"""How the listings end: nowhere, before a key, or behind one."""


def _qualified(alias: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{column}" for column in columns)


_FILES = ", ".join(FILE_COLUMNS)
_BLOBS = ", ".join(BLOB_COLUMNS)
_DEBTS = ", ".join(DEBT_COLUMNS)
_LIVE = "deleted_at IS NULL AND (expires_at IS NULL OR expires_at > ?)"
# Subtracted, so that no database reads the trash in the order in which it is emptied.
_TRASHED = "deleted_at IS NOT NULL AND deleted_at - ? > 0"
_LISTED = (
    f"SELECT {', '.join(FILE_INFO_COLUMNS)} FROM dfs_file WHERE bucket = ? AND (key, id) > (?, ?)"
)
_IN_ORDER = "ORDER BY key, id LIMIT ?"
_OF_STORE = f"SELECT {_DEBTS} FROM dfs_debt WHERE node_id = ? AND store = ?"
_IS_FILE = f"kind = {int(BlobKind.FILE)}"
_IS_INLINE = f"kind = {int(BlobKind.INLINE)}"
_IS_NOWHERE = f"kind = {int(BlobKind.NOWHERE)}"
"""Written out: the indexes of some blobs serve only statements that say it so."""
NODE_BUCKET = ""
"""Stands for all of the node in the rows of usage: blobs are in no bucket."""


_SAME_DEBT = " AND ".join(
    [f"dfs_debt.{column} = v.column{place}" for place, column in enumerate(DEBTS.key, 1)]
    # Subtracted, so that no database looks a debt up by its age.
    + ["dfs_debt.owed_at - v.column5 = 0"]
)
"""A debt is in the list `v`, and has not been owed again."""


def _values(table: Table, rows: int) -> str:
    """Return `TABLE (COLUMNS) VALUES (?, ...), ...` for so many rows."""
    return f"{table.name} ({', '.join(table.columns)}) VALUES {_rows(len(table.columns), rows)}"


def _rows(columns: int, rows: int) -> str:
    """Return `(?, ...), ...` for so many rows of so many columns."""
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)


def _replace(table: Table) -> str:
    """Return the clause with which an INSERT replaces the rows that exist."""
    changes = ", ".join(
        f"{column} = excluded.{column}" for column in table.columns if column not in table.key
    )
    return f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"


def _sum(table: Table) -> str:
    """Return the clause with which an INSERT adds to the rows that exist."""

    def combine(column: str) -> str:
        old, new = f"{table.name}.{column}", f"excluded.{column}"
        if column in table.lowest:
            return f"CASE WHEN {old} IS NULL OR {new} < {old} THEN {new} ELSE {old} END"
        return f"{old} + {new}"

    changes = ", ".join(
        f"{column} = {combine(column)}" for column in table.columns if column not in table.key
    )
    return f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET {changes}"


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
    list_files: dict[tuple[bool, str], str] = field(init=False)
    expired_files: str = field(init=False)
    purgeable_files: str = field(init=False)
    unused_blobs: str = field(init=False)
    nowhere_blob: str = field(init=False)
    usages: str = field(init=False)
    held_bytes: str = field(init=False)
    dead_bytes: str = field(init=False)
    dropped_segments: str = field(init=False)
    segment_use: str = field(init=False)
    drop_segment: str = field(init=False)
    unused_inline_blobs: str = field(init=False)
    compactable: str = field(init=False)
    units_owed: str = field(init=False)
    segments: str = field(init=False)
    node_state: str = field(init=False)
    other_node: str = field(init=False)
    node_state_locked: str = field(init=False)
    blob_files: str = field(init=False)
    blob_file_totals: str = field(init=False)
    stores: str = field(init=False)
    keys: str = field(init=False)
    any_key: str = field(init=False)
    debt: str = field(init=False)
    due_debts: str = field(init=False)
    debt_sums: str = field(init=False)
    last_error: str = field(init=False)
    owe_all_blobs: str = field(init=False)
    forget_store: tuple[str, str] = field(init=False)
    begin: tuple[str, ...] = field(init=False)
    _made: dict[tuple[str, str, int], str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Write the texts."""
        self._write_files()
        self._write_blobs()
        self._write_usage()
        self._write_node()
        self._write_debts()
        self.begin = (
            ("BEGIN", "SET LOCAL synchronous_commit = off")
            if self.is_postgres
            else ("BEGIN IMMEDIATE",)
        )

    def _write_files(self) -> None:
        self.file = self._own(f"SELECT {_FILES} FROM dfs_file WHERE id = ?")
        self.download = self._own(
            f"SELECT {_qualified('f', FILE_COLUMNS)}, {_qualified('b', BLOB_COLUMNS[1:])} "
            "FROM dfs_file f LEFT JOIN dfs_blob b ON b.digest = f.sha256 WHERE f.id = ?"
        )
        self.key_exists = self._own(
            f"SELECT id FROM dfs_file WHERE bucket = ? AND key = ? AND {_LIVE} LIMIT ?"
        )
        self.list_files = {
            (deleted, end): self._own(f"{_LISTED} AND {state}{end} {_IN_ORDER}")
            for deleted, state in ((False, _LIVE), (True, _TRASHED))
            for end in LIST_ENDS
        }
        self.expired_files = self._own(
            f"SELECT {_FILES} FROM dfs_file WHERE deleted_at IS NULL AND expires_at <= ? "
            "ORDER BY expires_at LIMIT ?"
        )
        self.purgeable_files = self._own(
            f"SELECT {_FILES} FROM dfs_file WHERE deleted_at <= ? ORDER BY deleted_at LIMIT ?"
        )

    def _write_blobs(self) -> None:
        self.blob = self._own(f"SELECT {_BLOBS} FROM dfs_blob WHERE digest = ?")
        self.blob_files = self._own(
            f"SELECT {_BLOBS} FROM dfs_blob WHERE {_IS_FILE} AND digest > ? ORDER BY digest LIMIT ?"
        )
        self.blob_file_totals = (
            f"SELECT COUNT(*), COALESCE(SUM(size), 0) FROM dfs_blob WHERE {_IS_FILE}"
        )
        self.unused_blobs = self._own(
            f'SELECT digest FROM dfs_blob WHERE {_IS_FILE} AND "references" = 0 '
            "ORDER BY digest LIMIT ?"
        )
        self.nowhere_blob = f"SELECT digest FROM dfs_blob WHERE {_IS_NOWHERE} LIMIT 1"

    def _write_usage(self) -> None:
        self.usages = self._own(
            f"SELECT {', '.join(USAGE_COLUMNS)} FROM dfs_usage WHERE node_id = ? ORDER BY bucket"
        )
        self.held_bytes = self._own(
            "SELECT COALESCE(SUM(bytes + deleted_bytes), 0) FROM dfs_usage WHERE node_id = ?"
        )
        self.dead_bytes = self._own(
            "SELECT COALESCE(SUM(dead_bytes), 0) FROM dfs_segment_use "
            "WHERE node_id = ? AND dropped_at IS NULL"
        )
        self.dropped_segments = self._own(
            "SELECT id FROM dfs_segment_use WHERE node_id = ? AND dropped_at IS NOT NULL"
        )
        self.segment_use = self._own(
            "SELECT dead_bytes, tombstone_bytes, tombstone_lsn FROM dfs_segment_use "
            "WHERE node_id = ? AND id = ?"
        )
        self.drop_segment = self._own(
            "INSERT INTO dfs_segment_use "
            "(node_id, id, dead_bytes, tombstone_bytes, tombstone_lsn, dropped_at) "
            "VALUES (?, ?, 0, 0, NULL, ?) ON CONFLICT (node_id, id) DO UPDATE SET dead_bytes = 0, "
            "tombstone_bytes = 0, tombstone_lsn = NULL, dropped_at = excluded.dropped_at"
        )
        self.unused_inline_blobs = self._own(
            f"SELECT digest FROM dfs_blob WHERE {_IS_INLINE} "
            'AND "references" = 0 AND segment_id = ? LIMIT ?'
        )
        columns = _qualified("s", SEGMENT_COLUMNS[1:])
        self.compactable = self._own(
            f"SELECT {columns}, u.dead_bytes, u.tombstone_bytes, u.tombstone_lsn "
            "FROM dfs_segment s JOIN dfs_segment_use u ON u.node_id = s.node_id AND u.id = s.id "
            "WHERE s.node_id = ? AND u.dropped_at IS NULL "
            "AND 1000 * (u.dead_bytes + u.tombstone_bytes) > ? * s.size_bytes ORDER BY s.id"
        )

    def _write_node(self) -> None:
        self.segments = self._own(
            f"SELECT {', '.join(SEGMENT_COLUMNS)} FROM dfs_segment "
            "WHERE node_id = ? AND id > ? ORDER BY id LIMIT ?"
        )
        self.node_state = self._own(
            f"SELECT {', '.join(NODE_STATE_COLUMNS)} FROM dfs_node_state WHERE node_id = ?"
        )
        self.other_node = self._own("SELECT node_id FROM dfs_node_state WHERE node_id <> ? LIMIT 1")
        self.node_state_locked = self.node_state + (" FOR UPDATE" if self.is_postgres else "")
        self.stores = self._own(
            f"SELECT {', '.join(STORE_COLUMNS)} FROM dfs_store WHERE node_id = ? ORDER BY name"
        )

        self.keys = f"SELECT {', '.join(KEY_COLUMNS)} FROM dfs_key ORDER BY id"
        self.any_key = "SELECT 1 FROM dfs_key LIMIT 1"

    def _write_debts(self) -> None:
        self.debt = self._own(f"{_OF_STORE} AND kind = ? AND unit = ?")
        # Two ranges of one index, each read in its order, so that neither is sorted.
        self.due_debts = self._own(
            f"SELECT * FROM ({_OF_STORE} AND next_try_at = 0 ORDER BY owed_at LIMIT ?) AS untried "
            f"UNION ALL SELECT * FROM ({_OF_STORE} AND next_try_at > 0 AND next_try_at <= ? "
            "ORDER BY next_try_at LIMIT ?) AS waiting ORDER BY owed_at LIMIT ?"
        )
        self.units_owed = self._own(
            "SELECT DISTINCT unit FROM dfs_debt WHERE node_id = ? AND kind = ?"
        )
        self.debt_sums = self._own(
            "SELECT store, kind, COUNT(*), SUM(size), MIN(owed_at), MAX(owed_at), "
            "SUM(CASE WHEN attempts > 0 THEN 1 ELSE 0 END) "
            "FROM dfs_debt WHERE node_id = ? GROUP BY store, kind ORDER BY store, kind"
        )
        self.last_error = self._own(
            "SELECT error FROM dfs_debt WHERE node_id = ? AND store = ? AND next_try_at > 0 "
            "AND kind = ? AND attempts > 0 ORDER BY next_try_at DESC LIMIT 1"
        )
        self.owe_all_blobs = self._own(
            f"INSERT INTO dfs_debt ({_DEBTS}) "
            f"SELECT ?, ?, ?, digest, size, ?, 0, 0, NULL, 0 FROM dfs_blob "
            f'WHERE {_IS_FILE} AND "references" > 0 {_replace(DEBTS)}'
        )
        self.forget_store = (
            self._own("DELETE FROM dfs_store WHERE node_id = ? AND name = ?"),
            self._own("DELETE FROM dfs_debt WHERE node_id = ? AND store = ?"),
        )

    def _own(self, sql: str) -> str:
        return sql.replace("?", "%s") if self.is_postgres else sql

    def insert(self, table: Table, rows: int) -> str:
        """Return the statement that inserts so many rows, none of which may exist.

        SQLite need not be able to undo half of it (OR FAIL), since whoever sees it fail rolls the
        whole transaction back. That spares copying every page into a statement journal, which
        nearly halves the cost of a batch.
        """
        verb = "INSERT" if self.is_postgres else "INSERT OR FAIL"
        return self._cached("insert", table, rows, lambda: f"{verb} INTO {_values(table, rows)}")

    def upsert(self, table: Table, rows: int) -> str:
        """Return the statement that inserts so many rows, or replaces those that exist."""
        return self._cached(
            "upsert", table, rows, lambda: f"INSERT INTO {_values(table, rows)} {_replace(table)}"
        )

    def add(self, table: Table, rows: int) -> str:
        """Return the statement that inserts so many rows, or adds them to those that exist."""
        return self._cached(
            "add", table, rows, lambda: f"INSERT INTO {_values(table, rows)} {_sum(table)}"
        )

    def select_in(self, table: Table, keys: int) -> str:
        """Return the statement that selects the rows with so many keys."""
        return self._cached(
            "select",
            table,
            keys,
            lambda: (
                f"SELECT {', '.join(table.columns)} FROM {table.name} "
                f"WHERE {table.key[0]} IN ({', '.join('?' * keys)})"
            ),
        )

    def delete_in(self, table: Table, keys: int) -> str:
        """Return the statement that deletes the rows with so many keys."""
        return self._cached(
            "delete",
            table,
            keys,
            lambda: f"DELETE FROM {table.name} WHERE {table.key[0]} IN ({', '.join('?' * keys)})",
        )

    def owed_in(self, units: int) -> str:
        """Return the statement that tells which of so many units a store owes.

        Its parameters: node, store, kind, then the units.
        """
        return self._cached(
            "owed",
            DEBTS,
            units,
            lambda: (
                "SELECT unit FROM dfs_debt WHERE node_id = ? AND store = ? AND kind = ? "
                f"AND unit IN ({', '.join('?' * units)})"
            ),
        )

    def debts_in(self, units: int) -> str:
        """Return the statement that selects debts of one kind of so many units; as `owed_in`."""
        return self._cached(
            "debts",
            DEBTS,
            units,
            lambda: f"{_OF_STORE} AND kind = ? AND unit IN ({', '.join('?' * units)})",
        )

    def pay(self, debts: int) -> str:
        """Return the statement that deletes so many debts, those that were not owed again.

        Its parameters for each: the columns of the key, `owed_at`.
        """
        return self._cached("pay", DEBTS, debts, lambda: self._pay(debts))

    def postpone(self, debts: int) -> str:
        """Return the statement that notes failed attempts at so many debts not owed again.

        Its parameters for each: the columns of the key, `owed_at`, `attempts`, `next_try_at`,
        `error`. Both databases call the columns of VALUES column1, column2 and so on.
        """
        return self._cached(
            "postpone",
            DEBTS,
            debts,
            lambda: (
                "UPDATE dfs_debt "
                "SET attempts = v.column6, next_try_at = v.column7, error = v.column8 "
                f"FROM (VALUES {_rows(8, debts)}) AS v WHERE {_SAME_DEBT}"
            ),
        )

    def _pay(self, debts: int) -> str:
        if self.is_postgres:
            return f"DELETE FROM dfs_debt USING (VALUES {_rows(5, debts)}) AS v WHERE {_SAME_DEBT}"
        # SQLite reads the whole table for (...) IN (VALUES ...).
        one = " AND ".join(f"{column} = ?" for column in DEBTS.key)
        return f"DELETE FROM dfs_debt WHERE {' OR '.join([f'({one} AND owed_at - ? = 0)'] * debts)}"

    def _cached(self, verb: str, table: Table, count: int, write: Callable[[], str]) -> str:
        """Return the statement for so many rows or keys, written when it is first asked for."""
        made = self._made.get((verb, table.name, count))
        if made is None:
            made = self._made[verb, table.name, count] = self._own(write())
        return made
