"""The files of an index in SQLite: the database, and its own log and shared memory beside it."""

from __future__ import annotations

import stat
from contextlib import suppress
from pathlib import Path

from dfs.core.durable import sync_directory
from dfs.core.errors import IndexUnavailableError
from dfs.core.regular import NOT_REGULAR
from dfs.db.faults import index_error

_SUFFIXES = ("", "-wal", "-shm")


def measure_files(path: Path) -> int:
    """Return the bytes of those that there are.

    Args:
        path: of the database.

    Raises:
        IndexUnavailableError: they cannot be looked at.
    """
    size = 0
    for each in _list(path):
        try:
            with suppress(FileNotFoundError):
                size += each.stat().st_size
        except OSError as error:
            raise index_error(error) from error
    return size


def require_files(path: Path) -> None:
    """Refuse what is no file: SQLite would only say that it cannot be opened.

    Raises:
        IndexUnavailableError: something else lies there, or it cannot be looked at.
    """
    for each in _list(path):
        try:
            # Beside its database SQLite follows no link.
            is_file = stat.S_ISREG(each.stat(follow_symlinks=each == path).st_mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in NOT_REGULAR:
                translated = index_error(error)
                translated.context.setdefault("path", str(path))
                raise translated from error
            is_file = False
        if not is_file:
            raise IndexUnavailableError(
                "Something that is no file lies where the index belongs.",
                hint=f"Is DATABASE_URL right? If it is, `mv {each} {each}.aside` and start "
                "again: the index is rebuilt from the log if need be.",
                path=each,
            )


def put_files_aside(path: Path, name: str) -> None:
    """Rename those that there are, so that the database is called `name`.

    Raises:
        IndexUnavailableError, NoSpaceError: the directory cannot be changed.

    Durability: on return they stand durably under their new names.
    """
    # The database first: SQLite discards a write-ahead log beside no database.
    for old, new in zip(_list(path), _list(path.with_name(name)), strict=True):
        try:
            old.rename(new)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise index_error(error) from error
    if path.parent.is_dir():
        sync_directory(path.parent)


def _list(path: Path) -> list[Path]:
    """Return all that there may be, the database first."""
    return [path.with_name(path.name + suffix) for suffix in _SUFFIXES]
