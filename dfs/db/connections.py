"""The connections of one process to the index.

One is written on, by one transaction at a time: on SQLite this keeps the pages and the prepared
statements of the writer in one place, whichever thread leads a commit. On the others it is read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qs, urlsplit

from peewee import Database, PostgresqlDatabase, SqliteDatabase

from dfs.core.errors import IndexUnavailableError
from dfs.db.drivers import load_psycopg
from dfs.db.faults import driver_errors

if TYPE_CHECKING:
    import psycopg

Aside = Callable[[], AbstractContextManager[None]]
SQLITE_PREFIX = "sqlite:///"
POSTGRES_PREFIX = "postgresql://"
LOCK_WAIT_S = 30
CLOSE_WAIT_S = 10.0
"""Whoever closes the index waits so long for a transaction to end."""
SERVER_OPTIONS: dict[str, Any] = {
    "connect_timeout": 5,  # seconds
    # A network that drops what is sent tells nobody: the kernel gives the connection up by itself.
    "tcp_user_timeout": 15_000,  # milliseconds
    "keepalives_idle": 5,  # seconds, as the next
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
"""Of the connections to a PostgreSQL server. Its address may say otherwise.

Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""
CACHED_STATEMENTS = 512
"""Room for a statement of each size of batch, see `statements.chunks`, for upload, replay and
debts."""
SQLITE_PRAGMAS = {
    "journal_mode": "wal",
    # A power cut may take the newest transactions, which the log replays, but damages nothing.
    "synchronous": 1,
    "mmap_size": 0,  # a bad sector under a mapping kills the process; a read reports it
    # Pages of 4 KiB, far more than `checkpoint` leaves: should that fail, commits do its work.
    "wal_autocheckpoint": 16000,
    "journal_size_limit": 64 << 20,  # bytes
}

READER_CACHE_KIB = 512
"""Small, since the kernel has the pages anyway. It is taken as needed."""
WRITER_CACHE_KIB = 4096
"""Holds the pages that a group commit changes, so that each is written once; a larger one has made
nothing quicker."""


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


def is_postgres(url: str) -> bool:
    """Tell whether the address is one of PostgreSQL; else it is one of SQLite."""
    return url.startswith(POSTGRES_PREFIX)


class _Remote:
    """A connection to a server, during whose statements other threads run.

    Args:
        aside: see `Connections`.

    Attributes:
        is_lost: the server has closed it; known only after something was asked of it.
    """

    __slots__ = ("_aside", "_connection", "is_lost")

    def __init__(self, connection: psycopg.Connection, aside: Aside) -> None:
        self._connection = connection
        self._aside = aside
        self.is_lost = False

    def execute(self, sql: str, *parameters: Sequence[Any]) -> Cursor:
        try:
            with self._aside():
                return self._connection.execute(sql, *parameters)
        finally:
            self.is_lost = self._connection.closed

    def close(self) -> None:
        self._connection.close()


class Connections:
    """From one opening of the index to its closing. Connects at first use.

    Whoever asks has a connection for himself while he does, the one that was used last if it is
    free. So there are as many as questions at the same time: on SQLite few, since few threads run
    at a time. When one is lost, so are mostly the idle ones, which are closed.

    Methods raise what the drivers raise: one of `faults.driver_errors`.

    Args:
        url: `sqlite:///PATH` or `postgresql://...`.
        aside: a block in which the calling thread waits for a server.
    """

    def __init__(self, *, url: str, aside: Aside = nullcontext) -> None:
        self._url = url
        self._aside = aside
        self._is_postgres = is_postgres(url)
        self._writers = _new_database(url, WRITER_CACHE_KIB)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._is_closed = False

    def read(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        """Return all rows that a question has.

        If the server has gone away since the last one, a new connection is tried, once: whoever
        asks first after its restart need not know of it.
        """
        reader = self._take_idle()
        if reader is not None:
            try:
                return self._read_on(reader, sql, parameters)
            except driver_errors():
                if self._is_closed or not _is_lost(reader):
                    raise
                self._close_idle()
        return self._read_on(self._connect_reader(), sql, parameters)

    def _read_on(self, reader: Connection, sql: str, parameters: Sequence[Any]) -> list[Any]:
        try:
            rows = reader.execute(sql, parameters).fetchall()
        except BaseException:  # one that was interrupted still waits for its answer
            _close_all([reader])
            raise
        self._give_back(reader)
        return rows

    def _take_idle(self) -> Connection | None:
        """Return the connection that was used last, which knows most of what is asked for."""
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, reader: Connection) -> None:
        """Keep a connection for the next question, or close it if none will come."""
        with self._lock:
            if not self._is_closed:
                self._idle.append(reader)
                return
        _close_all([reader])  # who was left behind may have it: nobody else would close it

    def begin(self, statements: Sequence[str]) -> Connection:
        """Begin a transaction by these statements, and return the connection of the writer.

        Its users take turns. As for `read`, a new connection is tried if the old one is lost.
        """
        writer = self.writer()
        try:
            _run_all(writer, statements)
        except driver_errors():
            if self._is_closed or not _is_lost(writer):
                raise
            with contextlib.suppress(*driver_errors()):
                self._writers.close()
            writer = self.writer()
            _run_all(writer, statements)
        return writer

    def writer(self) -> Connection:
        """Return the connection of the writer; its users take turns."""
        return self._fit(self.writing_database().connection())

    def writing_database(self) -> Database:
        """Return the writer's database for what goes through Peewee, connected."""
        if self._writers.is_closed():
            self._connect(self._writers)
        return self._writers

    def connect_apart(self) -> Connection:
        """Return a new connection, which is the caller's to close."""
        database = _new_database(self._url, READER_CACHE_KIB)
        self._connect(database)
        return self._fit(database.connection())

    def roll_back(self) -> None:
        """Undo the writer's transaction, if one is open; by closing, if need be."""
        if self._writers.is_closed():
            return
        connection = self._writers.connection()
        try:
            if self._is_postgres or connection.in_transaction:
                connection.execute("ROLLBACK")
        except driver_errors():
            with contextlib.suppress(*driver_errors()):
                self._writers.close()

    def close(self, *, is_writing: bool = False) -> None:
        """Close all connections, for good; those in use are closed by their users.

        Args:
            is_writing: a transaction is under way.
        """
        self._is_closed = True
        self._close_idle()
        if not is_writing:
            with contextlib.suppress(*driver_errors()):
                self._writers.close()

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        _close_all(idle)

    def _connect_reader(self) -> Connection:
        if self._is_closed:
            raise IndexUnavailableError("The index is not open.")
        return self.connect_apart()

    def _fit(self, connection: Connection) -> Connection:
        if self._is_postgres:
            return _Remote(cast("psycopg.Connection", connection), self._aside)
        return connection

    def _connect(self, database: Database) -> None:
        database.connect(reuse_if_open=True)
        if self._is_postgres:
            from psycopg.types.numeric import Int8Dumper  # noqa: PLC0415 # see `drivers`

            # One type for all integers: else each mix of sizes would be prepared for itself.
            database.connection().adapters.register_dumper(int, Int8Dumper)


def _is_lost(connection: Connection) -> bool:
    return isinstance(connection, _Remote) and connection.is_lost


def _run_all(connection: Connection, statements: Iterable[str]) -> None:
    for statement in statements:
        connection.execute(statement)


def _close_all(connections: Iterable[Connection]) -> None:
    for connection in connections:
        with contextlib.suppress(*driver_errors()):
            connection.close()


def _new_database(url: str, cache_kib: int) -> Database:
    """Return a Peewee database of one connection, which is not connected yet.

    Args:
        cache_kib: of SQLite's pages.
    """
    if is_postgres(url):
        load_psycopg()
        said = parse_qs(urlsplit(url).query)
        options = {name: value for name, value in SERVER_OPTIONS.items() if name not in said}
        return PostgresqlDatabase(
            url, thread_safe=False, client_encoding="UTF8", prefer_psycopg3=True, **options
        )
    return SqliteDatabase(
        str(Path(url.removeprefix(SQLITE_PREFIX))),
        thread_safe=False,
        lock_type="IMMEDIATE",
        timeout=LOCK_WAIT_S,
        check_same_thread=False,  # used by one thread at a time, whichever
        cached_statements=CACHED_STATEMENTS,
        pragmas={**SQLITE_PRAGMAS, "cache_size": -cache_kib},
    )
