"""Uploads in flight of a local store: temporary files that only a live writer keeps.

Each is under an flock of its writer for as long as it is open. The kernel drops the lock when the
process dies, however it dies: so whoever can take the lock has found a leftover.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TypeVar

import structlog

from dfs.core.disk import Disk
from dfs.core.durable import storage_error
from dfs.core.regular import NOT_REGULAR
from dfs.storage.local_reader import LocalBlobReader
from dfs.storage.local_shards import ShardDirectories
from dfs.storage.local_writer import BufferPairs, FileWriter
from dfs.storage.names import require_digest
from dfs.storage.staging import Staging

FILE_MODE = 0o600
INODES_MAX = 3
"""A blob of a name that begins as no other does needs two directories besides."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class LocalStagedBlob(Staging):
    """A temporary file of a local store. See `StagedBlob`.

    Args:
        directory: where the file is created, under a name that carries the process id.
        shards: where it will go.
        pairs, threads: see `FileWriter`.
        disk: what is written is taken from; None for a disk without a reserve.

    Raises:
        NoSpaceError, StoreUnavailableError: the file could not be created or locked.
    """

    def __init__(
        self,
        *,
        directory: Path,
        shards: ShardDirectories,
        pairs: BufferPairs,
        threads: Executor,
        disk: Disk | None = None,
    ) -> None:
        super().__init__()
        if disk is not None:
            disk.take(0, inodes=INODES_MAX)
        self._disk = disk
        self._shards = shards
        self._path, self._file = create_temporary(directory)
        self._writer = FileWriter(self._file.fileno(), pairs, threads)

    def room(self) -> memoryview | None:
        """See `StagedBlob`."""
        self._require_open(sealed=False)
        return self._writer.room()

    def fill(self, count: int) -> None:
        """See `StagedBlob`."""
        self._append(count, self._writer.fill, count)

    def write(self, data: bytes | memoryview) -> None:
        """See `StagedBlob`. The last bytes may stay in memory until `seal`."""
        self._append(memoryview(data).nbytes, self._writer.write, data)

    def _append(self, size: int, write: Callable[[T], None], what: T) -> None:
        self._require_open(sealed=False)
        if self._disk is not None:
            self._disk.take(size)
        try:
            write(what)
        except OSError as error:
            self._has_failed = True
            raise storage_error(error, path=self._path) from error
        self._size += size

    def seal(self, digest: bytes) -> None:
        """See `StagedBlob`."""
        self._require_open(sealed=False)
        require_digest(digest)
        self._has_failed = True  # Until all of it is done: a sync that failed is never tried again.
        made = self._shards.make(digest)
        try:
            self._writer.finish()
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise storage_error(error, path=self._path) from error
        self._shards.sync(made)
        self._has_failed = False
        self._digest = digest

    def rename(self, target: Path) -> None:
        """Move the sealed file to its name. Raises OSError as it comes."""
        self._path.replace(target)
        self._close()

    def open(self) -> LocalBlobReader:
        """See `StagedBlob`."""
        self._require_open(sealed=True)
        return LocalBlobReader(path=self._path)

    def discard(self) -> None:
        """See `StagedBlob`."""
        if self._is_gone:
            return
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("staged_blob_not_removed", path=str(self._path), error=str(error))
        # The lock goes last: without it a sweep would take the file for a leftover.
        self._close()

    def _close(self) -> None:
        """Close the file, and with it the lock. What had to be durable has been synced before."""
        self._is_gone = True
        self._writer.release()
        with contextlib.suppress(OSError):
            self._file.close()


def sweep_leftovers(directory: Path, *, written_before_s: float | None) -> int:
    """Remove the temporary files that no live process has locked.

    Args:
        written_before_s: only files last written before that time, in seconds since 1970; None
            for all.

    Returns:
        How many were removed. A missing directory holds none.

    Raises:
        StoreUnavailableError: the directory could not be listed, or a leftover not removed.
    """
    try:
        paths = sorted(directory.iterdir()) if directory.is_dir() else []
        return sum(_sweep_file(path, written_before_s) for path in paths)
    except OSError as error:
        raise storage_error(error, path=directory) from error


def _sweep_file(path: Path, written_before_s: float | None) -> bool:
    """Remove one file if it is a leftover; return whether it was. Raises OSError as it comes."""
    try:
        file = io.FileIO(path, "r+b")
    except OSError as error:
        if isinstance(error, FileNotFoundError | PermissionError) or error.errno in NOT_REGULAR:
            return False  # what is no file, or another user's, is none of ours
        raise
    with file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        found = os.fstat(file.fileno())
        if not found.st_nlink:
            return False
        if written_before_s is not None and found.st_mtime >= written_before_s:
            return False
        try:
            path.unlink()
        except FileNotFoundError:  # its writer gave it the name of a blob just now
            return False
    return True


def create_temporary(directory: Path) -> tuple[Path, io.FileIO]:
    """Create a file that stays locked for as long as it is open.

    A sweep may find it in the moment before it is locked, and remove it: then it is created again.

    Returns:
        (path, the file open for writing). The name carries the process id.

    Raises:
        NoSpaceError, StoreUnavailableError: it could not be created or locked.
    """
    path = directory / f"{os.getpid()}-{secrets.token_hex(8)}"
    try:
        while True:
            file = io.FileIO(path, "xb", opener=_open_private)
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
                if os.fstat(file.fileno()).st_nlink:
                    return path, file
            except BaseException:
                file.close()
                raise
            file.close()
    except OSError as error:
        raise storage_error(error, path=path) from error


def _open_private(path: str, flags: int) -> int:
    """Open a file the way FileIO asks for, readable by its owner only."""
    return os.open(path, flags, FILE_MODE)
