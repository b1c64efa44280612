"""Opening and closing the index, on SQLite or PostgreSQL.

Every thread reads on a connection of its own; the process writes on one more, which one
transaction at a time holds. On SQLite this keeps the pages and the prepared statements of the
writer in one place, whichever thread leads a commit.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from peewee import Database, PostgresqlDatabase, SqliteDatabase
from psycopg.types.numeric import Int8Dumper

from dfs.core.clock import now_ms
from dfs.core.durable import make_directory_durably, sync_directory
from dfs.core.errors import ConfigError, IndexUnavailableError, MetadataError
from dfs.db.faults import DRIVER_ERRORS, index_error
from dfs.db.migrations import migrate
from dfs.db.models import TABLES
from dfs.db.statements import Statements
from dfs.db.transaction import IndexTransaction

SQLITE_PREFIX = "sqlite:///"
POSTGRES_PREFIX = "postgresql://"
LOCK_WAIT_S = 30
CONNECT_TIMEOUT_S = 5
CACHED_STATEMENTS = 384
"""Room for a statement of each size of batch, see `statements.chunks`, for upload and replay."""
SQLITE_CACHE_KIB = 8192
SQLITE_MMAP_BYTES = 1 << 30
SQLITE_CHECKPOINT_PAGES = 4000
SQLITE_WAL_BYTES_KEPT = 64 << 20
_MIGRATION_LOCK = 0x646673
"""PostgreSQL advisory lock of whoever migrates: "dfs"."""


class Cursor(Protocol):
    """What is used of a cursor of either driver."""

    def fetchone(self) -> Any:
        """Return the next row or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""


class Connection(Protocol):
    """What is used of a connection of either driver."""

    def execute(self, sql: str, parameters: Sequence[Any] = ...) -> Cursor:
        """Run one statement."""

    def close(self) -> None:
        """Close it."""


class IndexDatabase:
    """The index database of one process.

    Args:
        url: `sqlite:///PATH` or `postgresql://...`.
        node_id: the node whose state and segments are read and written.

    Raises:
        ConfigError: the URL is neither.
    """

    def __init__(self, *, url: str, node_id: str) -> None:
        self.url = url
        self.node_id = node_id
        self.is_postgres = url.startswith(POSTGRES_PREFIX)
        if not self.is_postgres and not url.startswith(SQLITE_PREFIX):
            raise ConfigError("DATABASE_URL must be sqlite:///PATH or postgresql://...")
        self.statements = Statements(is_postgres=self.is_postgres)
        self._path = Path(url.removeprefix(SQLITE_PREFIX))
        self._lock = threading.Lock()
        self._writer_lock = threading.Lock()
        self._readers: Database | None = None
        self._writer: Database | None = None
        self._connections: list[tuple[threading.Thread, Connection]] = []

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
        self._readers = self._new_database(thread_safe=True)
        self._writer = self._new_database(thread_safe=False)
        try:
            if self.is_postgres:
                self._require_utf8()
            else:
                # The first page and the schema are parsed here: most damage shows.
                self.read_all("SELECT name FROM sqlite_master")
        except BaseException:
            self.close()
            raise

    def migrate(self) -> None:
        """Bring the schema up to the newest; does nothing if it is. Call under the node lock.

        Raises:
            MetadataError: a newer program made the schema.
            IndexDamagedError, IndexUnavailableError, NoSpaceError.
        """
        with self._writer_lock:
            try:
                database = self._opened(self._writer)
                database.connection()
                if not self.is_postgres:
                    migrate(database)
                    return
                # Nodes that share the database may start at the same moment.
                database.execute_sql("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
                try:
                    migrate(database)
                finally:
                    database.execute_sql("SELECT pg_advisory_unlock(%s)", (_MIGRATION_LOCK,))
            except DRIVER_ERRORS as error:
                raise self._failed(error, self._writer) from error

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
            connection = self._connection(self._writer)
            for statement in self.statements.begin:
                connection.execute(statement)
            row = connection.execute(self.statements.node_state_locked, (self.node_id,)).fetchone()
        except BaseException as error:
            self.end_transaction(abandon=True)
            if isinstance(error, DRIVER_ERRORS):
                raise self._failed(error, self._writer) from error
            raise
        return IndexTransaction(self, row)

    def check(self) -> None:
        """Ask the database one cheap question.

        Raises:
            IndexUnavailableError, IndexDamagedError, MetadataError: it does not answer.
        """
        self.read_one(self.statements.node_state, (self.node_id,))

    def close(self) -> None:
        """Close the connections of all threads. None may be in use. Safe to call twice.

        Needed before a fork: a connection must not be carried into another process. Afterwards
        everything but `open` and `destroy` raises IndexUnavailableError.
        """
        with self._lock:
            connections, self._connections = self._connections, []
            self._readers = None
            self._writer = None
        for _, connection in connections:
            with contextlib.suppress(*DRIVER_ERRORS):
                connection.close()

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
        moment = now_ms()
        # The database first: SQLite discards a write-ahead log beside no database.
        for suffix in ("", "-wal", "-shm"):
            path = self._path.with_name(self._path.name + suffix)
            try:
                path.rename(path.with_name(f"{self._path.name}.damaged-{moment}{suffix}"))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise index_error(error) from error
        if self._path.parent.is_dir():
            sync_directory(self._path.parent)

    def read_one(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """Return the first row as a tuple, or None, read on this thread's connection.

        Raises:
            IndexUnavailableError, IndexDamagedError, MetadataError.
        """
        try:
            return self._connection(self._readers).execute(sql, parameters).fetchone()
        except DRIVER_ERRORS as error:
            raise self._failed(error, self._readers) from error

    def read_all(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return all rows as tuples, read on this thread's connection. Raises as `read_one`."""
        try:
            return self._connection(self._readers).execute(sql, parameters).fetchall()
        except DRIVER_ERRORS as error:
            raise self._failed(error, self._readers) from error

    def write(self, sql: str, parameters: Sequence[Any] = ()) -> Cursor:
        """Run a statement in the open transaction; only for the transaction itself.

        Raises:
            IndexUnavailableError, IndexDamagedError, NoSpaceError, MetadataError.
        """
        try:
            return self._connection(self._writer).execute(sql, parameters)
        except DRIVER_ERRORS as error:
            raise index_error(error) from error

    def end_transaction(self, *, abandon: bool) -> None:
        """Let the next transaction begin; only for the transaction itself.

        Args:
            abandon: undo what it did. A connection that cannot even do that is closed, which
                undoes it too, and is opened again at the next use.
        """
        try:
            if abandon and self._writer is not None and not self._writer.is_closed():
                self._roll_back(self._writer)
        finally:
            self._writer_lock.release()

    def _roll_back(self, writer: Database) -> None:
        connection = writer.connection()
        try:
            if self.is_postgres or connection.in_transaction:
                connection.execute("ROLLBACK")
        except DRIVER_ERRORS:
            self._drop(writer)

    def _connection(self, database: Database | None) -> Connection:
        """Return this thread's connection; connect if it has none."""
        if database is None:
            raise IndexUnavailableError("The index is not open.")
        if database.is_closed():
            self._connect(database)
        return cast(Connection, database.connection())

    def _connect(self, database: Database) -> None:
        database.connect()
        connection = database.connection()
        if self.is_postgres:
            # One type for all integers: else each mix of sizes would be prepared for itself.
            connection.adapters.register_dumper(int, Int8Dumper)
        with self._lock:
            ended = [entry for entry in self._connections if not entry[0].is_alive()]
            self._connections = [entry for entry in self._connections if entry[0].is_alive()]
            self._connections.append((threading.current_thread(), connection))
        for _, old in ended:
            with contextlib.suppress(*DRIVER_ERRORS):
                old.close()

    def _opened(self, database: Database | None) -> Database:
        self._connection(database)
        return cast(Database, database)

    def _failed(self, error: Exception, database: Database | None) -> Exception:
        """Return the error to raise; drop a connection to PostgreSQL that is broken."""
        translated = index_error(error)
        if (
            self.is_postgres
            and isinstance(translated, IndexUnavailableError)
            and database is not None
            and not database.is_closed()
        ):
            self._drop(database)
        return translated

    def _drop(self, database: Database) -> None:
        connection = database.connection()
        with self._lock:
            self._connections = [entry for entry in self._connections if entry[1] is not connection]
        with contextlib.suppress(*DRIVER_ERRORS):
            database.close()

    def _new_database(self, *, thread_safe: bool) -> Database:
        """Return a Peewee database that is not connected yet."""
        if self.is_postgres:
            options: dict[str, Any] = {"client_encoding": "UTF8", "prefer_psycopg3": True}
            if "connect_timeout" not in self.url:
                options["connect_timeout"] = CONNECT_TIMEOUT_S
            return PostgresqlDatabase(self.url, thread_safe=thread_safe, **options)
        return SqliteDatabase(
            str(self._path),
            thread_safe=thread_safe,
            lock_type="IMMEDIATE",
            timeout=LOCK_WAIT_S,
            # Used by one thread at a time; `close` closes those of other threads.
            check_same_thread=False,
            cached_statements=CACHED_STATEMENTS,
            pragmas={
                "journal_mode": "wal",
                "synchronous": 1,
                "cache_size": -SQLITE_CACHE_KIB,
                "mmap_size": SQLITE_MMAP_BYTES,
                "wal_autocheckpoint": SQLITE_CHECKPOINT_PAGES,
                "journal_size_limit": SQLITE_WAL_BYTES_KEPT,
            },
        )

    def _require_utf8(self) -> None:
        encoding = self.read_one("SHOW server_encoding")[0]
        if encoding != "UTF8":
            raise MetadataError(
                "The PostgreSQL database is not encoded in UTF-8.",
                hint="Create it with ENCODING 'UTF8'.",
                encoding=encoding,
            )

    def _drop_tables(self) -> None:
        database = self._new_database(thread_safe=True)
        try:
            with database.connection_context():
                database.execute_sql(f"DROP TABLE IF EXISTS {', '.join(TABLES)}")
        except DRIVER_ERRORS as error:
            raise index_error(error) from error
