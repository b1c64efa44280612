"""The one place where the errors of database drivers become errors of dfs.

So does that of a row which dfs cannot have written: see `rows`.
"""

from __future__ import annotations

import errno
import sqlite3
from typing import TYPE_CHECKING

import msgspec
import peewee

from dfs.core.errors import (
    DfsError,
    IndexDamagedError,
    IndexUnavailableError,
    MetadataError,
    NoSpaceError,
)
from dfs.db.drivers import used_psycopg

if TYPE_CHECKING:
    import psycopg

_DRIVER_ERRORS: tuple[type[Exception], ...] = (
    sqlite3.Error,
    peewee.PeeweeException,
    UnicodeDecodeError,
    msgspec.MsgspecError,
)
REBUILD_HINT = "It is rebuilt from the log at the next start."
_DAMAGED_TEXTS = ("Could not decode to UTF-8", "no such column", "no such table", "already exists")
"""SQLite knows neither what a text should be, nor the schema that a program was written for."""
_SQLITE_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_SQLITE_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOMEM,
    }
)
_PG_DAMAGED = ("XX001", "XX002")
_PG_NO_SPACE = ("53100",)
_PG_UNAVAILABLE = ("08", "25006", "28", "3D000", "40", "53", "55P03", "57", "58")


def driver_errors() -> tuple[type[Exception], ...]:
    """Return what the drivers raise that this process uses."""
    postgres_error = used_psycopg()
    return _DRIVER_ERRORS if postgres_error is None else (*_DRIVER_ERRORS, postgres_error)


def index_error(error: Exception) -> DfsError:
    """Return the error of dfs that says what a database driver said; raise it `from` the cause.

    Args:
        error: one of `driver_errors`, or an OSError.

    Returns:
        IndexDamagedError: the database says that its content is not readable.
        NoSpaceError: its disk is full.
        IndexUnavailableError: locked, refused, closed, unreachable, or an input/output error.
        MetadataError: anything else, which is a fault of the program or of the schema.
    """
    cause = getattr(error, "orig", error)
    if isinstance(cause, OSError):
        full = cause.errno in (errno.ENOSPC, errno.EDQUOT)
        return _no_space(cause) if full else _unavailable(cause)
    if isinstance(cause, UnicodeDecodeError | msgspec.MsgspecError):
        return _damaged(cause)
    if isinstance(cause, sqlite3.Error):
        return _sqlite_error(cause)
    if isinstance(cause, used_psycopg() or ()):
        return _postgres_error(cause)
    return MetadataError("The index failed.", reason=str(cause))


def _sqlite_error(error: sqlite3.Error) -> DfsError:
    extended = getattr(error, "sqlite_errorcode", None)
    code = extended & 0xFF if extended is not None else None
    if code in _SQLITE_DAMAGED or any(text in str(error) for text in _DAMAGED_TEXTS):
        return _damaged(error)
    if code == sqlite3.SQLITE_FULL:
        return _no_space(error)
    if code in _SQLITE_UNAVAILABLE or "closed database" in str(error):
        return _unavailable(error)
    return MetadataError("The index failed.", reason=str(error))


def _postgres_error(error: psycopg.Error) -> DfsError:
    state = error.sqlstate or ""
    if state.startswith(_PG_DAMAGED):
        return _damaged(error)
    if state.startswith(_PG_NO_SPACE):
        return _no_space(error)
    # Without a state it was the connection that failed, not a statement.
    if state.startswith(_PG_UNAVAILABLE) or (not state and _is_connection_fault(error)):
        return _unavailable(error)
    return MetadataError("The index failed.", reason=str(error), sqlstate=state)


def _is_connection_fault(error: psycopg.Error) -> bool:
    import psycopg  # noqa: PLC0415 # it is here already: the error is one of its own

    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def _damaged(error: Exception) -> IndexDamagedError:
    return IndexDamagedError("The index is damaged.", hint=REBUILD_HINT, reason=str(error))


def _unavailable(error: Exception) -> IndexUnavailableError:
    return IndexUnavailableError(
        "The index does not answer.",
        hint="Look at DATABASE_URL: does the server run, is the path writable?",
        reason=str(error),
    )


def _no_space(error: Exception) -> NoSpaceError:
    return NoSpaceError(
        "There is no space left for the index.",
        hint="Free some space on the disk of the database.",
        reason=str(error),
    )
