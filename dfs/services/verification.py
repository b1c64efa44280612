"""Looking whether a store holds a blob or a segment whole, bit by bit.

The checks are generators: they yield as they get on, so that whoever looks can stop, do something
else, and go on; what they return is what is wrong. A store that does not answer is no finding: its
StoreUnavailableError passes through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from dfs.core.errors import (
    BlobCorruptError,
    BlobMissingError,
    StorageError,
    WalCorruptError,
    WalFormatError,
)
from dfs.core.model import BLOCK_BYTES, SEGMENT_UNIT_BYTES, Blob, DebtKind
from dfs.storage.base import BlobReader, BlobStore, KeepsSegments
from dfs.storage.verified import read_verified
from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag
from dfs.wal.reader import READ_BYTES, Outcome, SegmentReader
from dfs.wal.segment import SEGMENT_HEADER_BYTES, SegmentBytes, decode_header

T = TypeVar("T")
Place = tuple[int, int]
"""How far a unit has been read: offset, and LSN of the last record before it; 0 in a blob."""
_CONTINUES = int(Flag.CONTINUES)


class Fault(Enum):
    """What can be wrong with a unit of a store."""

    MISSING = "missing"
    """It should be there and is not."""
    WRONG_SIZE = "wrong size"
    """A blob with another number of bytes; a segment with fewer than it must have."""
    DAMAGED = "damaged"
    """Its bytes are not those that were stored."""
    UNREADABLE = "unreadable"
    """The store answers, but not for this unit."""
    EXTRA = "extra"
    """Nobody knows it."""
    OWED = "owed"
    """It is the end of the log, and owed for longer than shipping takes."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A unit of a store that is not as it should be.

    Attributes:
        unit: as in `model.Debt`.
        size: bytes it should have; of an extra one, bytes it has; 0 when that is not known.
        detail: what is wrong, in a few words.
        offset: where to look again: the damaged block of a blob; in a segment, the end of what
            was whole. None: from the beginning.
        lsn: of the last record before `offset`; only for a segment.
    """

    store: str
    kind: DebtKind
    unit: bytes
    fault: Fault
    size: int
    detail: str
    offset: int | None = None
    lsn: int = 0

    @property
    def segment_id(self) -> int:
        """Id of the segment; only for one of kind SEGMENT."""
        return int.from_bytes(self.unit, "big")

    @property
    def name(self) -> str:
        """How people call the unit: the digest in hexadecimal, or the number of the segment."""
        return self.unit.hex() if self.kind is DebtKind.BLOB else str(self.segment_id)


@dataclass(frozen=True, slots=True)
class SegmentSpan:
    """The part of a segment that a store must hold: from its beginning to `end`.

    Attributes:
        end: offset behind the record `last_lsn`.
    """

    segment_id: int
    first_lsn: int
    end: int
    last_lsn: int

    @property
    def unit(self) -> bytes:
        """The segment as the unit of a debt."""
        return self.segment_id.to_bytes(SEGMENT_UNIT_BYTES, "big")


# Blobs


def read_blob(
    store: BlobStore, blob: Blob, *, start: int = 0
) -> Generator[Place, None, Finding | None]:
    """Read a blob from the medium: its size, the CRC32 of each block, the SHA-256 of the whole.

    Args:
        start: go on from here, a multiple of `BLOCK_BYTES` that was yielded before. The SHA-256 is
            only compared by who reads from 0 to the end in one go.

    Yields:
        How far it has come.

    Raises:
        StoreUnavailableError.
    """
    try:
        with store.open(blob.digest) as reader:
            if reader.size != blob.size:
                return _wrong_size(store, blob, reader.size)
            reader.drop_cache()
            try:
                return (yield from _read_pieces(store, blob, reader, start))
            finally:
                reader.drop_cache()  # read once, it must not push out what is read often
    except BlobMissingError:
        return _finding(store, blob, Fault.MISSING, "there is no such blob")
    except BlobCorruptError as error:
        offset = error.context.get("offset")
        detail = error.message if offset is None else f"the block at {offset} is damaged"
        return _finding(
            store, blob, Fault.DAMAGED, detail, offset if isinstance(offset, int) else None
        )


def look_at_blob(store: BlobStore, blob: Blob) -> Finding | None:
    """Look whether a blob is there and has its size. Reads none of it.

    Raises:
        StoreUnavailableError.
    """
    try:
        with store.open(blob.digest) as reader:
            size = reader.size
    except BlobMissingError:
        return _finding(store, blob, Fault.MISSING, "there is no such blob")
    return None if size == blob.size else _wrong_size(store, blob, size)


def look_again_at_blob(store: BlobStore, blob: Blob, found: Finding) -> bool:
    """Tell whether what was found is still so. Reads one block at most, if that was damaged.

    Raises:
        StoreUnavailableError.
    """
    if found.fault is Fault.UNREADABLE:
        return True
    finding = look_at_blob(store, blob)
    if finding is not None or found.fault is not Fault.DAMAGED:
        return finding is not None
    if found.offset is None:
        return drain(read_blob(store, blob)) is not None
    stop = min(found.offset + BLOCK_BYTES, blob.size)
    try:
        with store.open(blob.digest) as reader:
            drain(_read_range(blob, reader, found.offset, stop))
    except (BlobMissingError, BlobCorruptError):
        return True
    return False


def _read_pieces(
    store: BlobStore, blob: Blob, reader: BlobReader, start: int
) -> Generator[Place, None, Finding | None]:
    sha256 = hashlib.sha256()
    offset = start
    for piece in _read_range(blob, reader, start, blob.size):
        if start == 0:
            sha256.update(piece)
        offset += len(piece)
        yield offset, 0
    if start == 0 and sha256.digest() != blob.digest:
        return _finding(store, blob, Fault.DAMAGED, "its bytes do not have its SHA-256")
    return None


def _read_range(
    blob: Blob, reader: BlobReader, start: int, stop: int
) -> Generator[bytes, None, None]:
    yield from read_verified(
        reader,
        size=blob.size,
        block_crc32s=blob.block_crc32s,
        start=start,
        stop=stop,
        digest=blob.digest,
    )


def _wrong_size(store: BlobStore, blob: Blob, size: int) -> Finding:
    return _finding(store, blob, Fault.WRONG_SIZE, f"{size} bytes instead of {blob.size}")


def _finding(
    store: BlobStore, blob: Blob, fault: Fault, detail: str, offset: int | None = None
) -> Finding:
    return Finding(store.name, DebtKind.BLOB, blob.digest, fault, blob.size, detail, offset)


# Segments


class StoredSegment:
    """A segment that a replica keeps, as the reader of the log wants it. See `SegmentBytes`.

    Args:
        size_bytes: that the replica holds of it, as far as they matter.
        twin: the same segment of the primary, to compare with; None: there is nothing to compare.

    Attributes:
        is_other: whether bytes were read that are not those of the twin.
    """

    def __init__(
        self,
        *,
        store: KeepsSegments,
        name: str,
        segment_id: int,
        size_bytes: int,
        twin: SegmentBytes | None,
    ) -> None:
        self.is_other = False
        self._store = store
        self._path = Path(name, "segments", str(segment_id))
        self._segment_id = segment_id
        self._size_bytes = size_bytes
        self._twin = twin

    @property
    def path(self) -> Path:
        """See `SegmentBytes`."""
        return self._path

    def size(self) -> int:
        """See `SegmentBytes`."""
        return self._size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """See `SegmentBytes`."""
        data = self._store.read_segment(self._segment_id, offset, length, from_disk=True)
        if self._twin is not None:
            try:
                self.is_other |= self._twin.read(offset, len(data)) != data
            except StorageError:  # what the primary cannot read is found when it is looked at
                self._twin = None
        return data


def read_segment(
    segment: SegmentBytes, span: SegmentSpan, *, cluster_id: bytes, start: Place | None = None
) -> Generator[Place, None, tuple[str, Place] | None]:
    """Read a segment: its header, and every record with its CRC32 and its LSN.

    Args:
        start: go on from here, a place that was yielded before.

    Yields:
        The place that was reached, about once a megabyte.

    Returns:
        What is wrong, and the end of what was whole before it; None if nothing is.

    Raises:
        StorageError: the bytes could not be read.
    """
    begin = SEGMENT_HEADER_BYTES, span.first_lsn - 1
    reached = start or begin
    reader = SegmentReader(
        segment=segment,
        start=LogPosition(span.segment_id, *reached),
        stop=span.end,
        durable_lsn=span.last_lsn,
    )
    try:
        fault = _find_header_fault(segment, span, cluster_id=cluster_id)
        if fault is not None:
            return fault, begin
        for frame in reader:
            behind = frame.offset + frame.length
            if behind - reached[0] >= READ_BYTES and not frame.flags & _CONTINUES:
                reached = behind, frame.lsn
                yield reached
    except (WalCorruptError, BlobMissingError) as error:
        return error.message, begin
    end = reader.end
    if end.outcome is not Outcome.CLEAN_END:
        return f"{end.fault} at {end.fault_offset}", (end.position.offset, end.position.lsn)
    if end.position.lsn != span.last_lsn:
        return f"it ends at LSN {end.position.lsn} and not at {span.last_lsn}", begin
    return None


def _find_header_fault(
    segment: SegmentBytes, span: SegmentSpan, *, cluster_id: bytes
) -> str | None:
    try:
        header = decode_header(segment.read(0, SEGMENT_HEADER_BYTES), path=segment.path)
    except (WalCorruptError, WalFormatError) as error:
        return error.message
    expected = (span.segment_id, cluster_id, span.first_lsn)
    if (header.segment_id, header.cluster_id, header.first_lsn) != expected:
        return "its header is that of another segment"
    return None


def drain(steps: Generator[object, None, T]) -> T:
    """Return what a generator returns, whatever it yields before."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            value: T = stop.value
            return value
