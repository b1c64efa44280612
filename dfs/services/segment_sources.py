"""The stores that keep copies of the log, asked what they hold of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from dfs.core.durable import storage_error
from dfs.core.errors import StorageError, WalCorruptError, WalGapError
from dfs.core.regular import read_start
from dfs.storage.base import BlobStore, KeepsSegments
from dfs.storage.local_store import LocalStore
from dfs.storage.names import segment_name
from dfs.wal.log import WriteAheadLog
from dfs.wal.segment import SEGMENT_HEADER_BYTES, SegmentHeader, decode_header, sealed_path
from dfs.wal.stub import STUB_BYTES_MAX, Stub, decode_stub

logger = structlog.get_logger()


class SegmentStore(BlobStore, KeepsSegments, Protocol):
    """A store that keeps copies of segments."""


@dataclass(frozen=True, slots=True)
class SegmentSource:
    """A store that was asked for its copy of the log.

    Attributes:
        held: segment id -> bytes held; of a stub, its own.
        newest_id: of the newest that is more than a stub; 0 if there is none.
        newest: its header; None if it is damaged.
        cluster_id: of its `dfs.json`, if it has one.
        fault: why it could not be asked; None: it was.
    """

    store: SegmentStore
    held: Mapping[int, int]
    newest_id: int = 0
    newest: SegmentHeader | None = None
    cluster_id: bytes | None = None
    fault: str | None = None

    @property
    def name(self) -> str:
        """The store's name."""
        return self.store.name

    def read_stub(self, segment_id: int) -> Stub | None:
        """Return the stub that the store holds of a segment; None if it is none.

        Raises:
            StorageError.
        """
        held_bytes = self.held.get(segment_id, STUB_BYTES_MAX)
        if held_bytes >= STUB_BYTES_MAX:
            return None
        return decode_stub(self.store.read_segment(segment_id, 0, STUB_BYTES_MAX))


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
        newest_id = _find_newest(store, held)
        newest = read_held_header(store, newest_id) if newest_id else None
    except StorageError as error:
        logger.warning("store_not_asked", store=store.name, error=str(error))
        return SegmentSource(store, {}, fault=error.message)
    cluster_id = identity.cluster_id if identity else None
    return SegmentSource(store, held, newest_id, newest, cluster_id)


def read_held_header(store: KeepsSegments, segment_id: int) -> SegmentHeader | None:
    """Return the header of a segment on a store; None if it is damaged. Raises StorageError."""
    return decode_segment_header(
        store.read_segment(segment_id, 0, SEGMENT_HEADER_BYTES), segment_id
    )


def read_own_header(path: Path, segment_id: int | None = None) -> SegmentHeader | None:
    """Return the header of a segment's file; None if it is damaged, missing, or another's."""
    try:
        return decode_segment_header(read_start(path, SEGMENT_HEADER_BYTES)[0], segment_id)
    except OSError:
        return None


def read_following(log: WriteAheadLog, segment_id: int) -> SegmentHeader:
    """Return the header of the segment behind a sealed one. The active one must stay the same.

    Raises:
        WalGapError: it is missing or damaged itself.
    """
    following_id = segment_id + 1
    is_active = following_id == log.position.segment_id
    path = log.active_path if is_active else sealed_path(log.path, following_id)
    header = read_own_header(path, following_id)
    if header is None:
        raise WalGapError(
            f"Segment {following_id} of the log has to be mended before segment {segment_id}.",
            path=path,
            segment_id=following_id,
        )
    return header


def decode_segment_header(data: bytes, segment_id: int | None) -> SegmentHeader | None:
    """Return a header, or None if it is damaged or another segment's. Raises WalFormatError."""
    try:
        header = decode_header(data, path=Path())
    except WalCorruptError:
        return None
    return header if segment_id in (None, header.segment_id) else None


def _has_directory(store: LocalStore) -> bool:
    """Tell whether a local store has a directory for segments. Raises StorageError."""
    try:
        return (store.path / segment_name(1)).parent.is_dir()
    except OSError as error:
        raise storage_error(error, path=store.path) from error


def _find_newest(store: KeepsSegments, held: dict[int, int]) -> int:
    """Return the newest segment that is no stub; forget those without even a header behind it.

    A store that is being caught up may end in stubs: of what they stand for it has nothing.
    """
    for segment_id in sorted(held, reverse=True):
        data = store.read_segment(segment_id, 0, STUB_BYTES_MAX)
        if not any(data[:SEGMENT_HEADER_BYTES]):
            del held[segment_id]
        elif decode_stub(data) is None:
            return segment_id
    return 0
