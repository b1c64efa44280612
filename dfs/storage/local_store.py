"""A store in a directory of a local disk.

    <path>/blobs/ab/cd/<sha256>    blob files, immutable
    <path>/segments/<id>.wal       copies of the log, see `local_segments`
    <path>/damaged/<name>-<ms>     what was found damaged or unknown, kept for a while
    <path>/tmp/<pid>-<random>      uploads in flight, see `local_staging`
    <path>/dfs.json                see `identity`

A name under `blobs/` always stands for synced bytes: a temporary file is synced before it is
renamed. Directories have mode 0700, files 0600.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from dfs.core.clock import now_ms
from dfs.core.disk import Disks
from dfs.core.durable import make_directory_durably, storage_error, sync_directory
from dfs.core.errors import BlobMissingError, StorageError
from dfs.core.regular import open_regular
from dfs.storage.base import StagedBlob
from dfs.storage.identity import StoreIdentity, read_identity, write_identity
from dfs.storage.local_reader import LocalBlobReader, regular_size, require_directory
from dfs.storage.local_segments import LocalSegments
from dfs.storage.local_shards import ShardDirectories
from dfs.storage.local_staging import LocalStagedBlob, sweep_leftovers
from dfs.storage.local_writer import BufferPairs
from dfs.storage.names import (
    DAMAGED,
    PutAside,
    blob_name,
    damaged_name,
    parse_damaged,
    segment_name,
)
from dfs.storage.stamp import FileStamp, stamp_of

SYNC_THREADS = 16
"""How many directories are synced at a time. Syncs that begin together wait for one commit of the
file system's journal; one after the other, each waits for the disk, behind what others write to it:
beside 8 writers, 16 of them took 70 ms so, and 14 ms together."""

_SHARD = re.compile(r"[0-9a-f]{2}")
_BLOB = re.compile(r"[0-9a-f]{64}")
_ANY = re.compile(r".+")

_log = structlog.get_logger(__name__)


class LocalStore:
    """A `BlobStore` in a directory, with all the further powers.

    Args:
        path: the directory. Nothing is touched before `prepare`.
        name: how the store is called in answers and logs.
        shared: several processes publish at once, without a common lock. Two of them that publish
            the same blob may both take it for new, and one that only looks may count on it: so a
            `publish` that fails takes nothing back.
        disks: those with a reserve, which blobs leave alone; None if there are none.
    """

    def __init__(
        self,
        *,
        path: Path,
        name: str = "primary",
        shared: bool = False,
        disks: Disks | None = None,
    ) -> None:
        self._path = path.absolute()
        self._name = name
        self._shared = shared
        self._disks = disks
        self._blobs = self._path / "blobs"
        self._tmp = self._path / "tmp"
        self._damaged = self._path / DAMAGED
        self._shards = ShardDirectories(root=self._blobs)
        self._pairs = BufferPairs()
        self._segments = LocalSegments(root=self._path)
        self._threads = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix=f"sync-{name}")

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
        for directory in (self._blobs, self._path / "segments", self._damaged, self._tmp):
            make_directory_durably(directory)
        self._shards.forget_all()

    def is_mount(self) -> bool:
        """See `BlobStore`."""
        return self._path.is_mount()

    def read_identity(self) -> StoreIdentity | None:
        """See `BlobStore`."""
        identity = read_identity(self._path)
        if identity is None:
            require_directory(self._path)
        return identity

    def adopt(self, identity: StoreIdentity) -> None:
        """See `BlobStore`."""
        require_directory(self._path)
        write_identity(self._path, identity)

    def stage(self) -> LocalStagedBlob:
        """See `BlobStore`."""
        # Asked each time: a disk may be mounted here at any moment.
        disk = self._disks.holding(self._tmp) if self._disks is not None else None
        return LocalStagedBlob(
            directory=self._tmp,
            shards=self._shards,
            pairs=self._pairs,
            threads=self._threads,
            disk=disk,
        )

    def publish(self, staged: Sequence[tuple[StagedBlob, bytes, int]]) -> list[bytes]:
        """See `BlobStore`. Syncs each touched directory once, together, after all renames."""
        checked = [(_own_sealed(blob, digest, size), digest, size) for blob, digest, size in staged]
        added: list[bytes] = []
        try:
            for blob, digest, size in checked:
                if self._put(blob, digest, size):
                    added.append(digest)
            # A blob that was there counts too: whoever renamed it may have died before the sync.
            self._sync({self.blob_path(digest).parent: None for _, digest, _ in checked})
        except StorageError:
            if not self._shared:
                self.withdraw(added)
            raise
        return added

    def _sync(self, directories: Collection[Path]) -> None:
        """Sync directories, several at a time."""
        each = map if len(directories) < 2 else self._threads.map
        for _ in each(sync_directory, directories):
            pass

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
        found_size = regular_size(self.blob_path(digest))
        if found_size is None:
            require_directory(self._blobs)
        return found_size == size

    def confirm(self, digest: bytes, size: int) -> bool:
        """See `BlobStore`."""
        if not self.has(digest, size):
            return False
        path = self.blob_path(digest)
        try:
            descriptor = open_regular(path)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(error, path=path) from error
        self._shards.sync(self._shards.make(digest))
        sync_directory(path.parent)
        return True

    def open(self, digest: bytes) -> LocalBlobReader:
        """See `BlobStore`."""
        try:
            # As text: to join paths costs a third of what opening the file does.
            return LocalBlobReader(path=f"{self._path}/{blob_name(digest)}", digest=digest)
        except BlobMissingError:
            require_directory(self._blobs)
            raise

    def find_stamp(self, digest: bytes) -> FileStamp | None:
        """See `StampsBlobs`."""
        try:
            return stamp_of(self.blob_path(digest).stat(follow_symlinks=False))
        except OSError:
            return None

    def sweep(self, *, older_than_s: float | None) -> int:
        """See `SweepsTemporaries`."""
        written_before_s = None if older_than_s is None else time.time() - older_than_s
        count = sweep_leftovers(self._tmp, written_before_s=written_before_s)
        if count:
            _log.info("temporaries_swept", store=self._name, count=count)
        return count

    def list_blobs(self) -> Iterator[tuple[bytes, int]]:
        """See `ListsBlobs`. Names that are no blob's are passed over."""
        require_directory(self._blobs)
        for first in _matching_names(self._blobs, _SHARD):
            for second in _matching_names(self._blobs / first, _SHARD):
                shard = self._blobs / first / second
                for name in _matching_names(shard, _BLOB):
                    size = regular_size(shard / name)
                    if size is not None and name.startswith(first + second):
                        yield bytes.fromhex(name), size

    def written_at_ms(self, digest: bytes) -> int | None:
        """See `ListsBlobs`."""
        path = self.blob_path(digest)
        try:
            return path.stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:
            require_directory(self._blobs)
            return None
        except OSError as error:
            raise storage_error(error, path=path) from error

    def remove(self, digest: bytes) -> bool:
        """See `RemovesBlobs`."""
        path = self.blob_path(digest)
        try:
            path.unlink()
        except FileNotFoundError:
            require_directory(self._blobs)
            return False
        except OSError as error:
            raise storage_error(error, path=path) from error
        sync_directory(path.parent)
        return True

    def quarantine_blob(self, digest: bytes) -> None:
        """See `QuarantinesBlobs`."""
        self._quarantine(blob_name(digest))

    def list_put_aside(self) -> Iterator[PutAside]:
        """See `QuarantinesBlobs`."""
        require_directory(self._damaged)
        for name in _matching_names(self._damaged, _ANY):
            unit = parse_damaged(name)
            if unit is not None:
                yield unit

    def remove_put_aside(self, unit: PutAside) -> None:
        """See `QuarantinesBlobs`. Not synced: what comes back after a power cut is removed anew."""
        path = self._damaged / unit.name
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(error, path=path) from error

    def list_segments(self) -> list[tuple[int, int]]:
        """See `KeepsSegments`."""
        return self._segments.list()

    def append_segment(self, segment_id: int, offset: int, data: bytes | memoryview) -> None:
        """See `KeepsSegments`."""
        if not offset:
            self._make_way(segment_name(segment_id))
        self._segments.append(segment_id, offset, data)

    def read_segment(
        self, segment_id: int, offset: int, length: int, *, from_disk: bool = False
    ) -> bytes:
        """See `KeepsSegments`."""
        return self._segments.read(segment_id, offset, length, from_disk=from_disk)

    def seal_segment(self, segment_id: int) -> None:
        """See `KeepsSegments`."""
        self._segments.seal(segment_id)

    def put_segment(self, segment_id: int, pieces: Iterable[bytes]) -> None:
        """See `KeepsSegments`."""
        self._make_way(segment_name(segment_id))
        self._segments.put(segment_id, pieces)

    def quarantine_segment(self, segment_id: int) -> None:
        """See `KeepsSegments`."""
        self._quarantine(segment_name(segment_id))

    def blob_path(self, digest: bytes) -> Path:
        """Return where the blob is, or would be. Raises ValueError if `digest` is no SHA-256."""
        return self._path / blob_name(digest)

    def _make_way(self, name: str) -> None:
        """Move to `damaged` what has the name of a file and is none: a link would be written to."""
        path = self._path / name
        if regular_size(path, follow=False) is None and os.path.lexists(path):
            self._quarantine(name)

    def _quarantine(self, name: str) -> None:
        """Move a file of the store to `damaged`, if it is there."""
        source, moment_ms = self._path / name, now_ms()
        try:
            while (target := self._path / damaged_name(name, now_ms=moment_ms)).exists():
                moment_ms += 1  # the same was put aside just now: that is kept, too
            source.rename(target)
        except FileNotFoundError as error:
            require_directory(self._damaged)
            if source.exists():
                raise storage_error(error, path=source) from error
            return
        except OSError as error:
            raise storage_error(error, path=source) from error
        sync_directory(self._damaged)
        sync_directory(source.parent)

    def _put(self, blob: LocalStagedBlob, digest: bytes, size: int) -> bool:
        """Rename a staged file to its blob's name; return whether nothing of that name was there.

        A blob that is there is replaced by the same bytes, just received and hashed: that costs
        nothing, and mends it if it was damaged.

        Raises:
            NoSpaceError, StoreUnavailableError: it has no name.
        """
        target = self.blob_path(digest)
        found_size = regular_size(target)
        try:
            try:
                blob.rename(target)
            except IsADirectoryError:
                self.quarantine_blob(digest)
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


def _matching_names(directory: Path, pattern: re.Pattern[str]) -> list[str]:
    """Return the names in a directory that match as a whole, sorted; none if it is missing."""
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if pattern.fullmatch(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage_error(error, path=directory) from error
