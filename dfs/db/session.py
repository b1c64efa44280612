"""Opening and closing the index, on SQLite or PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from dfs.core.clock import now_ms
from dfs.core.durable import make_directory_durably
from dfs.core.errors import (
    ConfigError,
    DfsError,
    IndexDamagedError,
    IndexUnavailableError,
    MetadataError,
)
from dfs.db.checkpoint import Checkpointer
from dfs.db.connections import (
    CLOSE_WAIT_S,
    LOCK_WAIT_S,
    SQLITE_PREFIX,
    Aside,
    Connection,
    Connections,
    is_postgres,
)
from dfs.db.faults import REBUILD_HINT, driver_errors, index_error
from dfs.db.files import measure_files, put_files_aside, require_files
from dfs.db.migrations import BeforeMigrating, ignore_migrations, migrate
from dfs.db.models import TABLES
from dfs.db.rows import Row, read_node_state, read_text, read_unit
from dfs.db.statements import Statements
from dfs.db.transaction import IndexTransaction

T = TypeVar("T")

_MIGRATION_LOCK = 0x646673
"""PostgreSQL advisory lock of whoever migrates: "dfs"."""


class IndexDatabase:
    """The index database of one process.

    Args:
        url: `sqlite:///PATH` or `postgresql://...`.
        node_id: the node whose state, segments, stores and debts are read and written.
        replicas: names of the stores that must hold a copy of each blob file.
        on_damaged: told whenever the database says that its content is not readable.
        aside: a block in which the calling thread waits for PostgreSQL.

    Raises:
        ConfigError: the URL is neither.
    """

    def __init__(
        self,
        *,
        url: str,
        node_id: str,
        replicas: Sequence[str] = (),
        on_damaged: Callable[[], None] = lambda: None,
        aside: Aside = nullcontext,
    ) -> None:
        self.url = url
        self.node_id = node_id
        self.replicas = tuple(replicas)
        self._on_damaged = on_damaged
        self._aside = aside
        self.is_postgres = is_postgres(url)
        if not self.is_postgres and not url.startswith(SQLITE_PREFIX):
            raise ConfigError("DATABASE_URL must be sqlite:///PATH or postgresql://...")
        self.statements = Statements(is_postgres=self.is_postgres)
        self._path = Path(url.removeprefix(SQLITE_PREFIX))
        self._writer_lock = threading.Lock()
        self._connections: Connections | None = None
        self._writing: Connection | None = None
        self._checkpointer: Checkpointer | None = None
        self._values_written = 0

    @property
    def directory(self) -> Path | None:
        """Where its files are; None if it is a server's."""
        return None if self.is_postgres else self._path.parent

    def open(self) -> None:
        """Connect, creating the database file and its directory if they are missing.

        Raises:
            IndexDamagedError: what is there is no readable database.
            IndexUnavailableError: it cannot be reached or opened.
            MetadataError: the PostgreSQL database is not encoded in UTF-8.
        """
        self.close()
        if not self.is_postgres:
            make_directory_durably(self._path.parent)
            require_files(self._path)
        self._connections = Connections(url=self.url, aside=self._aside)
        try:
            if self.is_postgres:
                self._require_utf8()
            else:
                # The first page and the schema are parsed here: most damage shows.
                self.read_all("SELECT name FROM sqlite_master")
                self._checkpointer = Checkpointer(self._connections.connect_apart)
        except BaseException:
            self.close()
            raise

    def migrate(self, *, before: BeforeMigrating = ignore_migrations) -> None:
        """Bring the schema up to the newest; does nothing if it is. Call under the node lock.

        Args:
            before: see `dfs.db.migrations`.

        Raises:
            MetadataError: a newer program made the schema.
            IndexDamagedError, IndexUnavailableError, NoSpaceError.
        """
        with self._writer_lock:
            connections = self._opened()
            try:
                database = connections.writing_database()
                if not self.is_postgres:
                    migrate(database, before=before)
                    return
                # Nodes that share the database may start at the same moment.
                database.execute_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
                migrate(database, before=before)
                database.execute_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
            except BaseException as error:
                # A lock of the server's lasts as long as the connection.
                connections.close()
                if isinstance(error, driver_errors()):
                    raise self._translate(error) from error
                raise

    def begin(self) -> IndexTransaction:
        """Begin the one write transaction of this process, and of the node's index.

        Returns:
            The transaction; its `node_state` has been read. Leave it by commit or rollback.

        Raises:
            IndexUnavailableError: it is not open, or another writer did not finish in time.
            IndexDamagedError, MetadataError.
        """
        if not self._writer_lock.acquire(timeout=LOCK_WAIT_S):
            raise IndexUnavailableError("Another transaction of this process does not end.")
        try:
            connection = self._writing = self._opened().begin(self.statements.begin)
            row = connection.execute(self.statements.node_state_locked, (self.node_id,)).fetchone()
            node_state = None if row is None else read_node_state(row)
        except driver_errors() as error:
            self.end_transaction(abandon=True)
            raise self._translate(error) from error
        except BaseException:
            self.end_transaction(abandon=True)
            raise
        return IndexTransaction(self, node_state)

    def applied_lsn(self) -> int:
        """Return the last record that this node's index has followed; one cheap question.

        Raises:
            IndexUnavailableError, IndexDamagedError, MetadataError: the database does not answer.
        """
        state = self.find(self.statements.node_state, (self.node_id,), read_node_state)
        return 0 if state is None else state.applied_lsn

    def other_node(self) -> str | None:
        """Return the name of another node in this index, or None. Raises as `applied_lsn`."""
        return self.find(self.statements.other_node, (self.node_id,), read_text)

    def nowhere_blob(self) -> bytes | None:
        """Return the digest of a blob that files refer to and no record of the log has put.

        Returns:
            None if there is none. Raises as `applied_lsn`.
        """
        return self.find(self.statements.nowhere_blob, (), read_unit)

    def sync(self) -> None:
        """Make durable what was committed until now. Its commits themselves wait for no disk.

        Raises:
            IndexUnavailableError, IndexDamagedError, MetadataError, NoSpaceError.

        Durability: on return a power cut takes none of it back.
        """
        if self.is_postgres:
            # A transaction that writes to the server's log waits for all that is in it before.
            self.read_one("SELECT pg_logical_emit_message(true, 'dfs', 'sync')")
            return
        # All that is not in the database file yet, which is synced when anything is moved there.
        path = self._path.with_name(f"{self._path.name}-wal")
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            return
        except OSError as error:
            raise index_error(error) from error

    def size_bytes(self) -> int:
        """Return the bytes that its files take; on PostgreSQL, the whole database.

        Raises:
            IndexUnavailableError, IndexDamagedError, MetadataError, NoSpaceError.
        """
        if self.is_postgres:
            return int(self.read_one("SELECT pg_database_size(current_database())")[0])
        return measure_files(self._path)

    def damaged(self, fault: str, **context: object) -> IndexDamagedError:
        """Return the error for content that cannot be right; have it known that it is rebuilt."""
        self._on_damaged()
        return IndexDamagedError(fault, hint=REBUILD_HINT, **context)

    def close(self) -> None:
        """Close all connections, between two transactions. Safe to call twice.

        Needed before a fork: a connection must not be carried into another process. Afterwards
        everything but `open` and `destroy` raises IndexUnavailableError.

        A transaction under way is waited for: a thread that a store kept for long may have only
        now come to its own, and a driver may crash whose connection is closed during a statement.
        One that does not end keeps the connection for as long as it lasts.
        """
        is_between = self._writer_lock.acquire(timeout=CLOSE_WAIT_S)
        try:
            checkpointer, self._checkpointer = self._checkpointer, None
            if checkpointer is not None:
                checkpointer.close()
            connections, self._connections = self._connections, None
            if connections is not None:
                connections.close(is_writing=not is_between)
        finally:
            if is_between:
                self._writer_lock.release()

    def destroy(self) -> None:
        """Throw the index away, so that it can be rebuilt: `open` and `migrate` make an empty one.

        SQLite: its files are kept as `NAME.damaged-<ms>`. PostgreSQL: dfs's own tables, those of
        all nodes, are dropped. Nobody else may have the index open.

        Raises:
            IndexUnavailableError, NoSpaceError: the database or directory cannot be changed.

        Durability: on return the files stand durably under their new names.
        """
        self.close()
        if self.is_postgres:
            self._drop_tables()
            return
        put_files_aside(self._path, f"{self._path.name}.damaged-{now_ms()}")

    def read_one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first row as a tuple, or None.

        Raises:
            IndexUnavailableError, IndexDamagedError, MetadataError.
        """
        return next(iter(self.read_all(sql, parameters)), None)

    def read_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return all rows as tuples. Raises as `read_one`."""
        try:
            return self._opened().read(sql, parameters)
        except driver_errors() as error:
            raise self._translate(error) from error

    def select(self, sql: str, parameters: Sequence[Any], read: Callable[[Row], T]) -> list[T]:
        """Return what `read` makes of each row.

        Raises:
            IndexDamagedError: a row is none that dfs can have written, among other things.
            IndexUnavailableError, MetadataError.
        """
        return self.select_all(sql, parameters, lambda rows: list(map(read, rows)))

    def select_all(self, sql: str, parameters: Sequence[Any], read: Callable[[list[Row]], T]) -> T:
        """Return what `read` makes of all rows together. Raises as `select`."""
        try:
            return read(self._opened().read(sql, parameters))
        except driver_errors() as error:
            raise self._translate(error) from error

    def find(self, sql: str, parameters: Sequence[Any], read: Callable[[Row], T]) -> T | None:
        """Return what `read` makes of the first row, or None. Raises as `select`."""
        rows = self.select(sql, parameters, read)
        return rows[0] if rows else None

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Run a statement in the open transaction; only for the transaction itself.

        Raises:
            IndexUnavailableError, IndexDamagedError, NoSpaceError, MetadataError.
        """
        self._values_written += len(parameters)
        try:
            self._in_transaction().execute(sql, parameters)
        except driver_errors() as error:
            raise self._translate(error) from error

    def ask(self, sql: str, parameters: Sequence[Any], read: Callable[[Row], T]) -> list[T]:
        """Return what `read` makes of each row, in the open transaction. Raises as `write`."""
        try:
            rows = self._in_transaction().execute(sql, parameters).fetchall()
            return [read(row) for row in rows]
        except driver_errors() as error:
            raise self._translate(error) from error

    def end_transaction(self, *, abandon: bool) -> None:
        """Let the next transaction begin; only for the transaction itself.

        Args:
            abandon: undo what it did. A connection that cannot even do that is closed, which
                undoes it too, and is opened again at the next use.
        """
        writing, self._writing = self._writing, None
        values, self._values_written = self._values_written, 0
        try:
            if self._connections is None and writing is not None:  # see `close`
                with suppress(*driver_errors()):
                    writing.close()
            elif abandon and self._connections is not None:
                self._connections.roll_back()
            elif self._checkpointer is not None:
                self._checkpointer.note(values)
        finally:
            self._writer_lock.release()

    def _in_transaction(self) -> Connection:
        """Return the connection of the open transaction."""
        if self._writing is None or self._connections is None:
            raise _not_open()
        return self._writing

    def _opened(self) -> Connections:
        if self._connections is None:
            raise _not_open()
        return self._connections

    def _translate(self, error: Exception) -> DfsError:
        """Return the error to raise; have it known if the index must be rebuilt."""
        translated = index_error(error)
        if isinstance(translated, IndexDamagedError):
            self._on_damaged()
        if not self.is_postgres:
            translated.context.setdefault("path", str(self._path))
        return translated

    def _require_utf8(self) -> None:
        encoding = self.read_one("SHOW server_encoding")[0]
        if encoding != "UTF8":
            raise MetadataError(
                "The PostgreSQL database is not encoded in UTF-8.",
                hint="Create it with ENCODING 'UTF8'.",
                encoding=encoding,
            )

    def _drop_tables(self) -> None:
        connections = Connections(url=self.url)
        try:
            connections.writer().execute(f"DROP TABLE IF EXISTS {', '.join(TABLES)}")
        except driver_errors() as error:
            raise self._translate(error) from error
        finally:
            connections.close()


def _not_open() -> IndexUnavailableError:
    return IndexUnavailableError("The index is not open.")
