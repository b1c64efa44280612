"""Uploads in flight of an object store: files without a name, on a disk of this machine.

The kernel takes such a file away with the process, however it dies: there is nothing to sweep. The
bytes go out when the blob is published.
"""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from dfs.core.durable import DIRECTORY_MODE, storage_error, write_all
from dfs.storage.local_reader import FileReader
from dfs.storage.names import require_digest
from dfs.storage.staging import Staging


class Spool:
    """Where the files are.

    Args:
        path: a directory; None for that of the system for temporary files.
    """

    def __init__(self, *, path: Path | None) -> None:
        self._path = path

    def open(self) -> io.FileIO:
        """Return an empty file that is gone when it is closed. The directory is made if need be.

        Raises:
            NoSpaceError, StoreUnavailableError: it could not be created.
        """
        try:
            if self._path is not None:
                self._path.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            return tempfile.TemporaryFile(buffering=0, dir=self._path)
        except OSError as error:
            raise storage_error(error, path=self._path) from error


class ObjectStagedBlob(Staging):
    """A blob on its way into an object store. See `StagedBlob`.

    Raises:
        NoSpaceError, StoreUnavailableError: there is no room for it on this machine.
    """

    def __init__(self, *, spool: Spool) -> None:
        super().__init__()
        self._file = spool.open()

    def write(self, data: bytes | memoryview) -> None:
        """See `StagedBlob`."""
        self._require_open(sealed=False)
        try:
            write_all(self._file.fileno(), data)
        except OSError as error:
            self._has_failed = True
            raise storage_error(error, path="the spool of the object store") from error
        self._size += memoryview(data).nbytes

    def seal(self, digest: bytes) -> None:
        """See `StagedBlob`. Durable the bytes are once they are published."""
        self._require_open(sealed=False)
        require_digest(digest)
        self._digest = digest

    def sealed_file(self, digest: bytes, size: int) -> io.FileIO:
        """Return the file, or raise ValueError unless it was sealed as these bytes."""
        self.require_sealed(digest, size)
        return self._file

    def open(self) -> FileReader:
        """See `StagedBlob`."""
        self._require_open(sealed=True)
        try:
            copy = io.FileIO(os.dup(self._file.fileno()), "rb")
        except OSError as error:
            raise storage_error(error) from error
        return FileReader(copy, path="the spool of the object store")

    def discard(self) -> None:
        """See `StagedBlob`."""
        self._is_gone = True
        self._file.close()
