"""Getting whole segments of the log out of the copies that stores keep."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Protocol

import structlog

from dfs.core.durable import make_directory_durably, storage_error, write_all
from dfs.core.errors import (
    BlobMissingError,
    StorageError,
    StoreUnavailableError,
    WalCorruptError,
    WalError,
    WalGapError,
)
from dfs.core.filelock import FileLock
from dfs.storage.base import BlobStore, KeepsSegments
from dfs.storage.local_store import LocalStore
from dfs.storage.names import segment_name
from dfs.wal.control import LogPosition
from dfs.wal.merge import (
    Merged,
    SegmentCopy,
    first_position,
    merge_newest,
    merge_up_to,
    read_runs,
    two_lives,
)
from dfs.wal.segment import (
    SEGMENT_HEADER_BYTES,
    OpenSegment,
    SegmentHeader,
    decode_header,
    encode_header,
)

FETCH_BYTES = 4 << 20
WORKSHOP_NAME = "restore"
LOCK_NAME = "restore.lock"
OWN = "this node"

logger = structlog.get_logger()


class SegmentStore(BlobStore, KeepsSegments, Protocol):
    """A store that keeps copies of segments."""


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """A store that was asked for its copy of the log.

    Attributes:
        held: segment id -> bytes held.
        newest: header of the newest of them; None if it is damaged, or there is none.
        cluster_id: of its `dfs.json`, if it has one.
        fault: why it could not be asked; None: it was.
    """

    store: SegmentStore
    held: Mapping[int, int]
    newest: SegmentHeader | None = None
    cluster_id: bytes | None = None
    fault: str | None = None

    @property
    def name(self) -> str:
        """The store's name."""
        return self.store.name


@dataclass(frozen=True, slots=True)
class Built:
    """A segment put together in a file, verified and synced.

    Attributes:
        end: behind its last record, where the file ends, too.
        origins: where its bytes come from.
    """

    path: Path
    header: SegmentHeader
    end: LogPosition
    origins: tuple[str, ...]


@contextlib.contextmanager
def workshop(wal_path: Path, *, timeout_s: float) -> Iterator[Path]:
    """Have an empty directory beside the log for oneself; what is left in it goes.

    Raises:
        WalError: another process works there, and did not end in that time.
        StorageError.
    """
    lock = FileLock(wal_path / LOCK_NAME)
    directory = wal_path / WORKSHOP_NAME
    try:
        with lock.hold(timeout_s=timeout_s) as held:
            if not held:
                raise WalError("Another process is restoring segments of the log.", path=directory)
            shutil.rmtree(directory, ignore_errors=True)
            make_directory_durably(directory)
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    finally:
        lock.close()


def sweep_workshop(wal_path: Path) -> None:
    """Remove what a process left that died while it worked there; nothing if one works there."""
    if (wal_path / WORKSHOP_NAME).exists():
        with contextlib.suppress(WalError, StorageError), workshop(wal_path, timeout_s=0):
            pass


def ask_store(store: SegmentStore) -> SegmentSource:
    """Ask a store which segments it holds.

    A local store whose directory is not there holds nothing.
    """
    try:
        if isinstance(store, LocalStore) and not _has_directory(store):
            logger.warning("store_absent", store=store.name, path=str(store.path))
            return SegmentSource(store, {})
        identity = store.read_identity()
        held = {
            segment_id: size
            for segment_id, size in store.list_segments()
            if size >= SEGMENT_HEADER_BYTES
        }
        newest = _find_newest(store, held)
    except StorageError as error:
        logger.warning("store_not_asked", store=store.name, error=str(error))
        return SegmentSource(store, {}, fault=error.message)
    return SegmentSource(store, held, newest, identity.cluster_id if identity else None)


def read_held_header(store: KeepsSegments, segment_id: int) -> SegmentHeader | None:
    """Return the header of a segment on a store; None if it is damaged. Raises StorageError."""
    return _decode(store.read_segment(segment_id, 0, SEGMENT_HEADER_BYTES), segment_id)


def read_own_header(path: Path, segment_id: int | None = None) -> SegmentHeader | None:
    """Return the header of a segment's file; None if it is damaged, missing, or another's."""
    try:
        with path.open("rb") as file:
            return _decode(file.read(SEGMENT_HEADER_BYTES), segment_id)
    except OSError:
        return None


def find_header(
    copies: Sequence[SegmentCopy], segment_id: int, *, cluster_id: bytes
) -> SegmentHeader | None:
    """Return the header that copies of a segment have; None if it is damaged in all.

    Raises:
        WalCorruptError: they have different ones.
    """
    headers = {
        header: copy.origin
        for copy in copies
        if (header := _copied_header(copy, segment_id)) is not None
        and header.cluster_id == cluster_id
    }
    if len(headers) > 1:
        raise two_lives(headers.values())
    return next(iter(headers), None)


def open_own(path: Path) -> SegmentCopy:
    """Return a file of the log as a copy. Raises StorageError."""
    return SegmentCopy(OWN, _open(path), is_own=True)


class SegmentBuilder:
    """Puts segments together from files of the node and from what stores hold.

    Args:
        directory: for files that are being built; nobody else uses it.
        sources: asked one after the other.
        cluster_id: of the log.
    """

    def __init__(
        self, *, directory: Path, sources: Sequence[SegmentSource], cluster_id: bytes
    ) -> None:
        self._directory = directory
        self._sources = sources
        self._cluster_id = cluster_id
        self._count = 0

    def build_up_to(self, end: LogPosition, own: Sequence[SegmentCopy]) -> Built:
        """Build the segment that ends at `end`.

        Raises:
            WalCorruptError, WalGapError: it is nowhere whole, and what is damaged in one copy is
                damaged in all; or there is no copy.
            StorageError: the node's own disk failed.

        Durability: the file is on disk, its name is not yet.
        """
        copies = list(own)
        faults: dict[str, str] = {}
        built = self._try_building(copies, end, OWN, faults) if copies else None
        for source in self._sources:
            if built is not None:
                break
            copy = self._fetch_whole(source, end, faults)
            if copy is not None:
                copies.insert(0, copy)
                built = self._try_building(copies, end, source.name, faults)
        if built is not None:
            return built
        kind = WalCorruptError if copies else WalGapError
        asked = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise kind(
            f"Segment {end.segment_id} of the log, up to LSN {end.lsn}, is "
            f"{'damaged' if copies else 'missing'}, and no store can give it ({asked or 'none'}).",
            hint="Make these stores reachable, or put the file back from a copy; dfs never skips "
            "records. scripts/repair_replicas.py tells what each store holds.",
            segment_id=end.segment_id,
        )

    def build_newest(self, segment_id: int, own: Sequence[SegmentCopy]) -> Built:
        """Build the newest segment, as long as any copy makes it.

        Raises:
            WalCorruptError: a part of it that was durable is damaged in all copies; or the copies
                come from two lives of the log.
            StorageError: a store failed.

        Durability: the file is on disk, its name is not yet.
        """
        copies = list(own)
        for source in self._sources:
            if segment_id in source.held:
                copies.append(self.fetch(source, segment_id, source.held[segment_id]))
        header = find_header(copies, segment_id, cluster_id=self._cluster_id)
        if header is None:
            raise WalCorruptError(
                f"The header of segment {segment_id} of the log is damaged in all copies.",
                hint="Put the file back from a copy; dfs never skips records.",
                segment_id=segment_id,
            )
        return self._finish(header, merge_newest(copies, start=first_position(header)))

    def fetch(self, source: SegmentSource, segment_id: int, length: int) -> SegmentCopy:
        """Copy the first `length` bytes of a segment from a store. Raises StorageError."""
        pieces = (
            source.store.read_segment(segment_id, offset, min(FETCH_BYTES, length - offset))
            for offset in range(0, length, FETCH_BYTES)
        )
        path = self._new_path(segment_id, source.name)
        _write_file(path, pieces)
        copy = SegmentCopy(source.name, _open(path))
        if copy.segment.size() != length:
            raise StoreUnavailableError(
                "A segment became shorter while it was copied.",
                store=source.name,
                segment_id=segment_id,
            )
        return copy

    def _fetch_whole(
        self, source: SegmentSource, end: LogPosition, faults: dict[str, str]
    ) -> SegmentCopy | None:
        """Copy a segment from a store that holds it up to its end, or note why that fails."""
        held_bytes = source.held.get(end.segment_id, 0)
        if source.fault is not None:
            faults[source.name] = source.fault
        elif not held_bytes:
            faults[source.name] = "does not hold it"
        elif held_bytes < end.offset:  # its end may come from a write that was taken back
            faults[source.name] = f"holds {held_bytes} of {end.offset} bytes"
        else:
            try:
                return self.fetch(source, end.segment_id, end.offset)
            except (StoreUnavailableError, BlobMissingError) as error:
                faults[source.name] = error.message
        return None

    def _try_building(
        self, copies: Sequence[SegmentCopy], end: LogPosition, name: str, faults: dict[str, str]
    ) -> Built | None:
        header = find_header(copies, end.segment_id, cluster_id=self._cluster_id)
        if header is None:
            faults[name] = "its header is damaged"
            return None
        merged = merge_up_to(copies, start=first_position(header), end=end)
        if merged.end != end:
            faults[name] = f"damaged at offset {merged.end.offset}, LSN {merged.end.lsn + 1}"
            return None
        return self._finish(header, merged)

    def _finish(self, header: SegmentHeader, merged: Merged) -> Built:
        """Have what was merged in a file of its own: the one that was fetched, if that is all."""
        encoded = encode_header(header)
        copies = {run.copy.origin: run.copy for run in merged.runs}
        sole = next(iter(copies.values())) if len(copies) == 1 else None
        if sole is None or sole.is_own or sole.segment.read(0, len(encoded)) != encoded:
            path = self._new_path(header.segment_id, "merged")
            _write_file(path, chain([encoded], read_runs(merged.runs)))
            whole = SegmentCopy(OWN, _open(path))
            again = merge_up_to([whole], start=first_position(header), end=merged.end)
            if again.end != merged.end:
                raise WalCorruptError("A segment is not read as it was written.", path=path)
        else:
            path = sole.segment.path
        _cut_and_sync(path, merged.end.offset)
        return Built(path, header, merged.end, tuple(copies))

    def _new_path(self, segment_id: int, origin: str) -> Path:
        self._count += 1
        return self._directory / f"{segment_id:010d}-{self._count}.{origin}"


def _has_directory(store: LocalStore) -> bool:
    """Tell whether a local store has a directory for segments. Raises StorageError."""
    try:
        return (store.path / segment_name(1)).parent.is_dir()
    except OSError as error:
        raise storage_error(error, path=store.path) from error


def _find_newest(store: KeepsSegments, held: dict[int, int]) -> SegmentHeader | None:
    """Return the header of the newest segment; forget those of which not even that was written."""
    for segment_id in sorted(held, reverse=True):
        if any(store.read_segment(segment_id, 0, SEGMENT_HEADER_BYTES)):
            return read_held_header(store, segment_id)
        del held[segment_id]
    return None


def _copied_header(copy: SegmentCopy, segment_id: int) -> SegmentHeader | None:
    try:
        return _decode(copy.segment.read(0, SEGMENT_HEADER_BYTES), segment_id)
    except StorageError:
        return None


def _decode(data: bytes, segment_id: int | None) -> SegmentHeader | None:
    """Return a header, or None if it is damaged or another segment's. Raises WalFormatError."""
    try:
        header = decode_header(data, path=Path(WORKSHOP_NAME))
    except WalCorruptError:
        return None
    return header if segment_id in (None, header.segment_id) else None


def _open(path: Path) -> OpenSegment:
    try:
        return OpenSegment(path)
    except OSError as error:
        raise storage_error(error, path=path) from error


def _write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file of the workshop. Not durable yet."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in pieces:
                write_all(fd, piece)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, path=path) from error


def _cut_and_sync(path: Path, size: int) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, path=path) from error
