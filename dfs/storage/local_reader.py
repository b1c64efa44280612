"""Reading the files of a local store: whole blobs, and any file behind the kernel's cache."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from pathlib import Path

from dfs.core.durable import storage_error
from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.core.regular import NOT_REGULAR, open_regular
from dfs.storage.base import BlobReader
from dfs.storage.stamp import FileStamp, stamp_of


class FileReader(BlobReader):
    """An open file, read as a blob. See `BlobReader`.

    Args:
        file: closed with the reader, and when this fails.
        path: only for the text of an error.

    Raises:
        StoreUnavailableError: its size could not be read.
    """

    def __init__(self, file: io.FileIO, *, path: object) -> None:
        self._file = file
        self._path = path
        try:
            opened = os.fstat(file.fileno())
        except OSError as error:
            file.close()
            raise storage_error(error, path=path) from error
        self._size = opened.st_size
        self._stamp = stamp_of(opened)
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    @property
    def size(self) -> int:
        """See `BlobReader`."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See `BlobReader`."""
        try:
            return read_fully(self._file.fileno(), offset, min(length, self._size - offset))
        except OSError as error:
            raise storage_error(error, path=self._path) from error

    @property
    def stamp(self) -> FileStamp | None:
        """See `StampedReader`."""
        return self._stamp

    def drop_cache(self) -> None:
        """See `BlobReader`."""
        drop_cached(self._file.fileno())

    def close(self) -> None:
        """See `BlobReader`."""
        self._file.close()


class LocalBlobReader(FileReader):
    """An open blob file. See `BlobReader`.

    Raises:
        BlobMissingError: there is no such file.
        StoreUnavailableError: it could not be opened.
    """

    def __init__(self, *, path: Path | str, digest: bytes | None = None) -> None:
        named = {"digest": digest.hex()} if digest is not None else {}
        try:
            file = io.FileIO(path, "rb", opener=open_regular)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in NOT_REGULAR:
                raise BlobMissingError(
                    "The store does not hold the blob.", path=str(path), **named
                ) from error
            raise storage_error(error, path=path) from error
        super().__init__(file, path=path)


def read_fully(descriptor: int, offset: int, length: int) -> bytes:
    """Return `length` bytes from `offset`, fewer only where the file ends. Raises OSError.

    One call gives it all, unless the file ends; a file system may still give less.
    """
    data = os.pread(descriptor, max(length, 0), offset)
    while len(data) < length and (
        more := os.pread(descriptor, length - len(data), offset + len(data))
    ):
        data += more
    return data


def drop_cached(descriptor: int) -> None:
    """Have the kernel forget the pages of a file that are on the disk already.

    Advice only: a file system without a disk below it has nowhere else to read from.
    """
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def regular_size(path: Path, *, follow: bool = True) -> int | None:
    """Return the bytes of a regular file; None if there is none of that name, or
    something else.

    Raises:
        StoreUnavailableError: the store could not tell.
    """
    try:
        found = path.stat(follow_symlinks=follow)
    except OSError as error:
        if isinstance(error, FileNotFoundError) or error.errno in NOT_REGULAR:
            return None
        raise storage_error(error, path=path) from error
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def require_directory(path: Path) -> None:
    """Raise StoreUnavailableError unless a directory of the store is there.

    Without it nothing is known about what the store holds: its disk may not be mounted.
    """
    if not path.is_dir():
        raise StoreUnavailableError(
            "The store is not there.",
            hint="Is its disk mounted? A directory of the store is missing.",
            path=str(path),
        )
