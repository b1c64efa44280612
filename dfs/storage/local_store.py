"""A store in a directory of a local disk.

    <path>/blobs/ab/cd/<sha256>    blob files, immutable
    <path>/tmp/<pid>-<random>      uploads in flight, see `local_staging`
    <path>/dfs.json                see `identity`

A name under `blobs/` always stands for synced bytes: a temporary file is synced before it is
renamed. Directories have mode 0700, files 0600.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from dfs.core.durable import make_directory_durably, storage_error, sync_directory
from dfs.core.errors import BlobMissingError, StorageError
from dfs.storage.base import StagedBlob, blob_name
from dfs.storage.local_shards import ShardDirectories
from dfs.storage.local_staging import LocalStagedBlob, sweep_leftovers

_SHARD = re.compile(r"[0-9a-f]{2}")
_BLOB = re.compile(r"[0-9a-f]{64}")

_log = structlog.get_logger(__name__)


class LocalBlobReader:
    """An open blob file. See `BlobReader`.

    Raises:
        BlobMissingError: there is no such file.
        StoreUnavailableError: it could not be opened.
    """

    def __init__(self, *, path: Path, digest: bytes) -> None:
        self._path = path
        try:
            self._file = io.FileIO(path, "rb")
        except FileNotFoundError as error:
            raise BlobMissingError(
                "The store does not hold the blob.", digest=digest.hex(), path=str(path)
            ) from error
        except OSError as error:
            raise storage_error(error, path=path) from error
        try:
            self._size = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            self._file.close()
            raise storage_error(error, path=path) from error
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)

    @property
    def size(self) -> int:
        """See `BlobReader`."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """See `BlobReader`."""
        descriptor = self._file.fileno()
        try:
            data = os.pread(descriptor, length, offset)
            # One call gives it all, unless the file ends; a file system may still give less.
            while len(data) < min(length, self._size - offset) and (
                more := os.pread(descriptor, length - len(data), offset + len(data))
            ):
                data += more
        except OSError as error:
            raise storage_error(error, path=self._path) from error
        return data

    def close(self) -> None:
        """See `BlobReader`."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class LocalStore:
    """A `BlobStore` in a directory; it also sweeps, lists and removes.

    `publish`, `withdraw` and `remove` are for the holder of the commit lock: two processes that
    publish the same blob would both take it for new.

    Args:
        path: the directory. Nothing is touched before `prepare`.
        name: how the store is called in answers and logs.
    """

    def __init__(self, *, path: Path, name: str = "primary") -> None:
        self._path = path.absolute()
        self._name = name
        self._blobs = self._path / "blobs"
        self._tmp = self._path / "tmp"
        self._shards = ShardDirectories(root=self._blobs)

    @property
    def name(self) -> str:
        """See `BlobStore`."""
        return self._name

    @property
    def path(self) -> Path:
        """The directory of the store, absolute."""
        return self._path

    def prepare(self) -> None:
        """Create the directories of the store that are missing.

        Raises:
            NoSpaceError, StoreUnavailableError: a directory could not be made durable.

        Durability: on return the directories are durable.
        """
        make_directory_durably(self._blobs)
        make_directory_durably(self._tmp)

    def stage(self) -> LocalStagedBlob:
        """See `BlobStore`."""
        return LocalStagedBlob(directory=self._tmp, shards=self._shards)

    def publish(self, staged: Sequence[tuple[StagedBlob, bytes, int]]) -> list[bytes]:
        """See `BlobStore`. Syncs each touched directory once, after all renames."""
        checked = [(_own_sealed(blob, digest, size), digest, size) for blob, digest, size in staged]
        added: list[bytes] = []
        try:
            for blob, digest, size in checked:
                if self._put(blob, digest, size):
                    added.append(digest)
            # A blob that was there counts too: whoever renamed it may have died before the sync.
            for directory in {self.blob_path(digest).parent: None for _, digest, _ in checked}:
                sync_directory(directory)
        except StorageError:
            self.withdraw(added)
            raise
        return added

    def withdraw(self, digests: Sequence[bytes]) -> None:
        """See `BlobStore`. Not synced: a blob that comes back after a power cut is only unused."""
        for digest in digests:
            path = self.blob_path(digest)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("blob_not_withdrawn", path=str(path), error=str(error))

    def has(self, digest: bytes, size: int) -> bool:
        """See `BlobStore`."""
        return _file_size(self.blob_path(digest)) == size

    def open(self, digest: bytes) -> LocalBlobReader:
        """See `BlobStore`."""
        return LocalBlobReader(path=self.blob_path(digest), digest=digest)

    def sweep(self, *, older_than_s: float | None) -> int:
        """See `SweepsTemporaries`."""
        written_before_s = None if older_than_s is None else time.time() - older_than_s
        count = sweep_leftovers(self._tmp, written_before_s=written_before_s)
        if count:
            _log.info("temporaries_swept", store=self._name, count=count)
        return count

    def list_blobs(self) -> Iterator[tuple[bytes, int]]:
        """See `ListsBlobs`. Names that are no blob's are passed over."""
        for first in _matching_names(self._blobs, _SHARD):
            for second in _matching_names(self._blobs / first, _SHARD):
                shard = self._blobs / first / second
                for name in _matching_names(shard, _BLOB):
                    size = _file_size(shard / name)
                    if size is not None and name.startswith(first + second):
                        yield bytes.fromhex(name), size

    def remove(self, digest: bytes) -> bool:
        """See `RemovesBlobs`."""
        path = self.blob_path(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise storage_error(error, path=path) from error
        sync_directory(path.parent)
        return True

    def blob_path(self, digest: bytes) -> Path:
        """Return where the blob is, or would be. Raises ValueError if `digest` is no SHA-256."""
        return self._path / blob_name(digest)

    def _put(self, blob: LocalStagedBlob, digest: bytes, size: int) -> bool:
        """Rename a staged file to its blob's name; return whether nothing of that name was there.

        A blob that is there is replaced by the same bytes, just received and hashed: that costs
        nothing, and mends it if it was damaged.

        Raises:
            NoSpaceError, StoreUnavailableError: it has no name.
        """
        target = self.blob_path(digest)
        found_size = _file_size(target)
        try:
            blob.rename(target)
        except OSError as error:
            self._shards.forget(digest)
            raise storage_error(error, path=target) from error
        if found_size not in (None, size):
            _log.warning("damaged_blob_replaced", path=str(target), size_bytes=found_size)
        return found_size is None


def _own_sealed(blob: StagedBlob, digest: bytes, size: int) -> LocalStagedBlob:
    """Return `blob` if a local store staged it and it was sealed so; raises ValueError."""
    if not isinstance(blob, LocalStagedBlob):
        raise ValueError("the staged blob belongs to another store")
    blob.require_sealed(digest, size)
    return blob


def _file_size(path: Path) -> int | None:
    """Return the bytes of a regular file; None if there is none of that name.

    Raises:
        StoreUnavailableError: the store could not tell.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise storage_error(error, path=path) from error
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _matching_names(directory: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the names in a directory that match as a whole, sorted; none if it is missing."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if pattern.fullmatch(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, path=directory) from error
