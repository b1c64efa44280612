"""The only writer of the index: changes are gathered in memory and written in few statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from dfs.core.errors import MetadataError
from dfs.core.model import Blob, Debt, DebtKind, File, NodeState, Segment, SegmentUse, StoreState
from dfs.db.debts import PendingDebts
from dfs.db.keys import PendingKeys
from dfs.db.rows import (
    Row,
    blob_row,
    file_row,
    read_blob,
    read_file,
    read_segment_use,
    read_store,
    read_text,
    read_unit,
    segment_row,
    store_row,
)
from dfs.db.statements import Statements
from dfs.db.tables import BLOBS, FILES, NODE_STATES, SEGMENTS, STORES, Table, chunks, write_rows
from dfs.db.usage import PendingUsage

T = TypeVar("T")


class Writer(Protocol):
    """What a transaction needs of the database; `IndexDatabase` is it."""

    node_id: str
    replicas: tuple[str, ...]
    statements: Statements

    def write(self, sql: str, parameters: Sequence[Any] = ...) -> None:
        """Run a statement inside the transaction."""

    def ask(self, sql: str, parameters: Sequence[Any], read: Callable[[Row], T]) -> list[T]:
        """Run a query inside the transaction; return what `read` makes of each row."""

    def damaged(self, fault: str) -> MetadataError:
        """Return the error for content that cannot be right."""

    def end_transaction(self, *, abandon: bool) -> None:
        """Give the writer's connection back."""


class IndexTransaction:
    """A unit of work. Begun by `IndexDatabase.begin`; leaving it without commit rolls back.

    What was read is remembered, and what was put is seen by later reads of the same transaction.
    Whoever changes a row has read it before: one that was not read counts as new in the usage.

    Args:
        writer: the database, with the transaction begun.
        node_state: how far the index has followed the log; None: it has not begun to.

    Attributes:
        node_state: how far the index has followed the log, changes of this transaction included.
        replicas: names of the stores that must hold a copy of each blob file.
        keys: the API keys.
    """

    def __init__(self, writer: Writer, node_state: NodeState | None) -> None:
        self._writer = writer
        self._is_open = True
        self.replicas = writer.replicas
        self.node_state = node_state
        self._files: dict[str, File | None] = {}
        self._blobs: dict[bytes, Blob | None] = {}
        # Not in the database: these rows can be inserted, which is quicker than replacing.
        self._absent: dict[str, set[Any]] = {FILES.name: set(), BLOBS.name: set()}
        self._changed_files: dict[str, File | None] = {}
        self._changed_blobs: dict[bytes, Blob | None] = {}
        self._changed_segments: dict[int, Segment] = {}
        self._changed_node_state: NodeState | None = None
        self._changed_stores: dict[str, StoreState] = {}
        self._debts = PendingDebts()
        self._usage = PendingUsage()
        self._held_before: int | None = None
        self.keys = PendingKeys(writer, usage=self._usage)

    def __enter__(self) -> Self:
        """Return the transaction."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Roll back what was not committed."""
        self.rollback()

    def preload(self, *, file_ids: Iterable[str] = (), digests: Iterable[bytes] = ()) -> None:
        """Read many rows with few statements. Those that are absent are remembered as absent.

        Raises:
            MetadataError.
        """
        self._load(FILES, file_ids, self._files, lambda row: (row[0], read_file(row)))
        self._load(BLOBS, digests, self._blobs, lambda row: (row[0], read_blob(row)))

    def expect_new(self, file_ids: Iterable[str]) -> None:
        """Take it that no file has these ids, which have just been made, without looking."""
        for file_id in file_ids:
            self._files[file_id] = None
            self._absent[FILES.name].add(file_id)

    def file(self, file_id: str) -> File | None:
        """Return the file as this transaction would leave it, expired or not. None: absent.

        Raises:
            MetadataError.
        """
        if file_id not in self._files:
            self.preload(file_ids=(file_id,))
        return self._files[file_id]

    def blob(self, digest: bytes) -> Blob | None:
        """Return the blob as this transaction would leave it, or None. Raises as `file`."""
        if digest not in self._blobs:
            self.preload(digests=(digest,))
        return self._blobs[digest]

    def key_exists(self, bucket: str, key: str, now_ms: int) -> bool:
        """Tell whether a file that can be found has that name, changes included.

        Args:
            now_ms: the present moment.

        Raises:
            MetadataError.
        """
        changed = self._changed_files
        for file in changed.values():
            if (
                file is not None
                and file.deleted_at_ms is None
                and file.key == key
                and file.bucket == bucket
                and (file.expires_at_ms is None or file.expires_at_ms > now_ms)
            ):
                return True
        parameters = (bucket, key, now_ms, len(changed) + 1)
        found = self._writer.ask(self._writer.statements.key_exists, parameters, read_text)
        return any(file_id not in changed for file_id in found)

    def put_file(self, file: File) -> None:
        """Insert the file, or replace the one of that id."""
        self._usage.change_file(self._files.get(file.id), file)
        self._files[file.id] = self._changed_files[file.id] = file

    def remove_file(self, file_id: str) -> None:
        """Remove the file, if there is one."""
        self._usage.change_file(self._files.get(file_id), None)
        self._files[file_id] = self._changed_files[file_id] = None

    def put_blob(self, blob: Blob) -> None:
        """Insert the blob, or replace the one of that digest."""
        self._usage.change_blob(self._blobs.get(blob.digest), blob)
        self._blobs[blob.digest] = self._changed_blobs[blob.digest] = blob

    def remove_blob(self, digest: bytes) -> None:
        """Remove the blob, if there is one."""
        self._usage.change_blob(self._blobs.get(digest), None)
        self._blobs[digest] = self._changed_blobs[digest] = None

    def add_record(self, segment_id: int, length: int) -> None:
        """Count the bytes of a record, which are dead unless a row has it as its place."""
        self._usage.add_record(segment_id, length)

    def add_tombstone(self, segment_id: int, length: int, first_lsn: int) -> None:
        """Count a record as alive that has taken away what the record `first_lsn` first put."""
        self._usage.add_tombstone(segment_id, length, first_lsn)

    def held_bytes(self) -> int:
        """Return the bytes of all files, those in the trash included, changes included.

        Raises:
            MetadataError.
        """
        if self._held_before is None:
            self._require_open()
            sql = self._writer.statements.held_bytes
            (stored,) = self._writer.ask(sql, (self._writer.node_id,), _read_sum)
            self._held_before = stored - self._usage.written_bytes
        return self._held_before + self._usage.added_bytes

    def segment_use(self, segment_id: int) -> SegmentUse:
        """Return what is dead of a segment, changes included. Flushes.

        Raises:
            NoSpaceError, MetadataError.
        """
        self.flush()
        parameters = (self._writer.node_id, segment_id)
        sql = self._writer.statements.segment_use
        return next(iter(self._writer.ask(sql, parameters, read_segment_use)), SegmentUse())

    def unused_inline_blobs(self, segment_id: int, limit: int) -> list[bytes]:
        """Return digests of blobs in a segment that no file refers to. Flushes; raises likewise."""
        self.flush()
        sql = self._writer.statements.unused_inline_blobs
        return self._writer.ask(sql, (segment_id, limit), read_unit)

    def drop_segment(self, segment_id: int, dropped_at_ms: int) -> None:
        """Note that nothing of a segment is needed any more. Flushes; raises likewise."""
        self.flush()
        parameters = (self._writer.node_id, segment_id, dropped_at_ms)
        self._writer.write(self._writer.statements.drop_segment, parameters)

    def put_segment(self, segment: Segment) -> None:
        """Insert the sealed segment of this node, or replace the one of that id."""
        self._changed_segments[segment.id] = segment

    def set_node_state(self, state: NodeState) -> None:
        """Note how far the index has followed the log once this transaction is committed."""
        self.node_state = self._changed_node_state = state

    def owe(self, debts: Iterable[Debt]) -> None:
        """Note debts. One that is there for the same store and unit is replaced."""
        self._debts.owe(debts)

    def owe_copies(self, digest: bytes, size: int, now_ms: int) -> None:
        """Note that every replica must hold this blob file.

        Args:
            size: bytes of the blob.
            now_ms: the present moment.
        """
        self._debts.owe(Debt.of_blob(store, digest, size, now_ms) for store in self.replicas)

    def owed(self) -> list[Debt]:
        """Return the debts noted in this transaction that are neither paid nor flushed yet."""
        return self._debts.owed()

    def pay(self, debts: Iterable[Debt]) -> None:
        """Remove these debts, except those whose unit has been owed again since they were read."""
        self._debts.pay(debts)

    def postpone(self, debts: Iterable[Debt]) -> None:
        """Note attempts, next try and error of these debts, with the exception that `pay` makes."""
        self._debts.postpone(debts)

    def owe_all_blobs(self, store: str, now_ms: int) -> None:
        """Note that a store must hold every blob file that a file refers to. Flushes.

        Raises:
            NoSpaceError, MetadataError.
        """
        self.flush()
        parameters = (self._writer.node_id, store, int(DebtKind.BLOB), now_ms)
        self._writer.write(self._writer.statements.owe_all_blobs, parameters)

    def store_states(self) -> dict[str, StoreState]:
        """Return name -> state of each known store of this node, changes included.

        Raises:
            MetadataError.
        """
        self._require_open()
        sql = self._writer.statements.stores
        states = self._writer.ask(sql, (self._writer.node_id,), read_store)
        return {state.name: state for state in states} | self._changed_stores

    def put_store_state(self, state: StoreState) -> None:
        """Insert the state of a store, or replace the one of that name."""
        self._changed_stores[state.name] = state

    def forget_store(self, name: str) -> None:
        """Remove what is known of a store, and all that it owes. Flushes.

        Raises:
            NoSpaceError, MetadataError.
        """
        self.flush()
        for statement in self._writer.statements.forget_store:
            self._writer.write(statement, (self._writer.node_id, name))

    def flush(self) -> None:
        """Write what was put and removed; it is still part of the transaction.

        Raises:
            NoSpaceError, MetadataError: roll back; nothing of the transaction is kept.
        """
        self._require_open()
        files, self._changed_files = self._changed_files, {}
        blobs, self._changed_blobs = self._changed_blobs, {}
        segments, self._changed_segments = self._changed_segments, {}
        state, self._changed_node_state = self._changed_node_state, None
        stores, self._changed_stores = self._changed_stores, {}
        self._write(FILES, files, file_row)
        self._write(BLOBS, blobs, blob_row)
        node_id = self._writer.node_id
        if segments:
            self._upsert(SEGMENTS, [segment_row(node_id, segment) for segment in segments.values()])
        if state is not None:
            self._upsert(NODE_STATES, [(state.node_id, state.cluster_id, state.applied_lsn)])
        if stores:
            self._upsert(STORES, [store_row(node_id, store) for store in stores.values()])
        self._debts.write(node_id, self._writer.statements, self._writer.write)
        self._usage.write(node_id, self._writer.statements, self._writer.write)

    def commit(self) -> None:
        """Write everything and end the transaction.

        Raises:
            NoSpaceError, MetadataError: it has been rolled back.

        Durability: none of its own. The database does not sync per commit; what a power cut
        takes from it is replayed from the log.
        """
        try:
            self.flush()
            self._writer.write("COMMIT")
        except BaseException:
            self.rollback()
            raise
        self._end(abandon=False)

    def rollback(self) -> None:
        """Undo everything and end the transaction. Does nothing if it has ended."""
        if self._is_open:
            self._end(abandon=True)

    def _end(self, *, abandon: bool) -> None:
        self._is_open = False
        self._writer.end_transaction(abandon=abandon)

    def _require_open(self) -> None:
        if not self._is_open:
            raise MetadataError("The transaction has ended.")

    def _load(
        self,
        table: Table,
        keys: Iterable[Any],
        known: dict[Any, T | None],
        read: Callable[[Row], tuple[Any, T]],
    ) -> None:
        """Read the rows with these keys that are not known yet; note those that are absent."""
        self._require_open()
        absent = dict.fromkeys(key for key in keys if key not in known)
        found: dict[Any, T] = {}
        for chunk in chunks(tuple(absent)):
            sql = self._writer.statements.select_in(table, len(chunk))
            found.update(self._writer.ask(sql, chunk, read))
        for key in found:
            if key not in absent:
                raise self._writer.damaged("A row of the index is found under another key.")
            del absent[key]
        known.update(absent)
        known.update(found)
        self._absent[table.name].update(absent)

    def _write(
        self, table: Table, changed: Mapping[Any, T | None], row: Callable[[T], tuple[Any, ...]]
    ) -> None:
        """Put what there is by its key, and delete where there is nothing."""
        rows = [row(value) for value in changed.values() if value is not None]
        if rows:
            self._put(table, rows)
        if len(rows) < len(changed):
            self._delete(table, [key for key, value in changed.items() if value is None])

    def _put(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert the rows whose absence is known, and insert or replace the others."""
        absent = self._absent[table.name]
        fresh = [row for row in rows if row[0] in absent]
        if fresh:
            insert = partial(self._writer.statements.insert, table)
            write_rows(fresh, insert, self._writer.write)
            absent.difference_update([row[0] for row in fresh])
        if len(fresh) < len(rows):
            known = {row[0] for row in fresh}
            self._upsert(table, [row for row in rows if row[0] not in known])

    def _upsert(self, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        write_rows(rows, partial(self._writer.statements.upsert, table), self._writer.write)

    def _delete(self, table: Table, keys: Sequence[Any]) -> None:
        absent = self._absent[table.name]
        stored = [key for key in keys if key not in absent]
        for chunk in chunks(stored):
            self._writer.write(self._writer.statements.delete_in(table, len(chunk)), chunk)
        absent.update(stored)


def _read_sum(row: Row) -> int:
    return int(row[0])
