"""Copies of the segments of the log in a local store.

    <path>/segments/0000000007.wal    the bytes of segment 7, as many as were shipped
    <path>/tmp/<pid>-<random>         a segment that is being put as a whole

The file of a growing segment is the sealed one's from the start. It is kept open between one
append and the next; whether its name still stands for it is looked up each time, since another
process may have put another file there, or somebody taken the disk away.
"""

from __future__ import annotations

import contextlib
import os
import re
import weakref
from collections.abc import Iterable
from pathlib import Path

from dfs.core.durable import storage_error, sync_directory, write_all
from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.core.regular import NOT_REGULAR, open_regular
from dfs.storage.local_reader import drop_cached, read_fully, regular_size, require_directory
from dfs.storage.local_staging import FILE_MODE, create_temporary
from dfs.storage.names import segment_name

_SEGMENT = re.compile(r"(\d{10})\.wal")


class LocalSegments:
    """The segments of one local store. See `KeepsSegments`.

    Args:
        root: the directory of the store; `segments` and `tmp` in it must be there.
    """

    def __init__(self, *, root: Path) -> None:
        self._root = root
        self._directory = root / "segments"
        self._growing: _GrowingFile | None = None

    def list(self) -> list[tuple[int, int]]:
        """See `KeepsSegments.list_segments`. Names that are no segment's are passed over."""
        try:
            with os.scandir(self._directory) as entries:
                return sorted(
                    (int(match[1]), size)
                    for entry in entries
                    if (match := _SEGMENT.fullmatch(entry.name))
                    and (size := regular_size(Path(entry.path), follow=False)) is not None
                )
        except OSError as error:
            raise storage_error(error, path=self._directory) from error

    def append(self, segment_id: int, offset: int, data: bytes | memoryview) -> None:
        """See `KeepsSegments.append_segment`."""
        path = self.path(segment_id)
        try:
            file = self._grow(path, create=offset == 0)
            file.write(offset, data)
            if not file.named_durably:
                sync_directory(self._directory)
                file.named_durably = True
        except BaseException as error:
            # A sync that failed is never tried again on the same descriptor.
            self._close()
            if isinstance(error, OSError):
                raise storage_error(error, path=path) from error
            raise

    def read(self, segment_id: int, offset: int, length: int, *, from_disk: bool) -> bytes:
        """See `KeepsSegments.read_segment`."""
        path = self.path(segment_id)
        try:
            descriptor = open_regular(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if from_disk:
                    drop_cached(descriptor)
                return read_fully(descriptor, offset, length)
            finally:
                os.close(descriptor)
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in NOT_REGULAR:
                require_directory(self._directory)
                raise _missing(path) from error
            raise storage_error(error, path=path) from error

    def seal(self, segment_id: int) -> None:
        """See `KeepsSegments.seal_segment`. The file stays what it is."""
        if not self.path(segment_id).is_file():
            require_directory(self._directory)
            raise _missing(self.path(segment_id))
        self._close()

    def put(self, segment_id: int, pieces: Iterable[bytes]) -> None:
        """See `KeepsSegments.put_segment`."""
        path = self.path(segment_id)
        try:
            temporary, file = create_temporary(self._root / "tmp")
            with file:
                try:
                    for piece in pieces:
                        write_all(file.fileno(), piece)
                    os.fdatasync(file.fileno())
                    temporary.replace(path)
                except BaseException:
                    with contextlib.suppress(OSError):
                        temporary.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise storage_error(error, path=path) from error
        sync_directory(self._directory)

    def path(self, segment_id: int) -> Path:
        """Return where the segment is, or would be."""
        return self._root / segment_name(segment_id)

    def _grow(self, path: Path, *, create: bool) -> _GrowingFile:
        """Return the open file of that name: the one kept, if it is still the one."""
        if self._growing is None or not self._growing.is_at(path):
            self._close()
            self._growing = _GrowingFile(path, create=create)
        return self._growing

    def _close(self) -> None:
        """Give back the file that was kept open."""
        if self._growing is not None:
            self._growing.close()
            self._growing = None


class _GrowingFile:
    """A segment's file, open for writing. Raises OSError as it comes.

    Attributes:
        named_durably: whether the file's name is known to be durable. Whoever created the file may
            have died before.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        self._path = path
        self._descriptor = os.open(path, flags, FILE_MODE)
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self.named_durably = False

    def is_at(self, path: Path) -> bool:
        """Return whether that is the name of this very file."""
        if path != self._path:
            return False
        try:
            return os.path.samestat(path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Let the file be its first `offset` bytes and `data`, and sync it.

        Raises:
            StoreUnavailableError: it has fewer bytes.
        """
        size = os.fstat(self._descriptor).st_size
        if size < offset:
            raise StoreUnavailableError(
                "The store holds less of the segment than it held before.",
                hint="Copy the segment again, from its beginning.",
                path=str(self._path),
                size_bytes=size,
                offset=offset,
            )
        if size > offset:
            os.ftruncate(self._descriptor, offset)
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        write_all(self._descriptor, data)
        os.fdatasync(self._descriptor)


def _missing(path: Path) -> BlobMissingError:
    """Return the error for a segment that is not held."""
    return BlobMissingError("The store does not hold the segment.", path=str(path))
