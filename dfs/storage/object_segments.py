"""Copies of the segments of the log in an object store.

    segments/0000000007.wal                 segment 7, sealed: one object
    segments/0000000007.wal.parts/000002    its third MiB, for as long as it grows

Objects cannot grow. So a growing segment lies on a grid of parts, and an append writes only the
parts it touches. A segment holds its parts up to the first that is missing or not full. If there
are both the object and parts, the object is the segment: whoever wrote the one died before the
others were removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from dfs.core.checksum import crc32
from dfs.core.clock import now_ms
from dfs.core.durable import storage_error, write_all
from dfs.core.errors import BlobMissingError, StoreUnavailableError
from dfs.storage.names import damaged_name, segment_name
from dfs.storage.object_client import ObjectClient, StoredObject, call_each
from dfs.storage.object_staging import Spool

PART_BYTES = 1 << 20
READ_BYTES = 4 << 20
"""So much of an object is read at a time where all of it is."""
_READ_ATTEMPTS_MAX = 3
_NAME = re.compile(r"segments/(\d{10})\.wal(?:\.parts/(\d{6}))?")


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store has of one segment.

    Attributes:
        whole: the object of a sealed segment.
        parts: index -> part, stale ones included.
    """

    whole: StoredObject | None
    parts: dict[int, StoredObject]

    def held_bytes(self) -> int | None:
        """Return the bytes of the segment; None if there is none."""
        if self.whole is not None:
            return self.whole.size
        return _held_bytes({index: part.size for index, part in self.parts.items()})


@dataclass(frozen=True, slots=True)
class _Tail:
    """The last part that was written here, so that the next append need not read it."""

    segment_id: int
    index: int
    etag: str | None
    data: bytes


class ObjectSegments:
    """The segments of one object store. See `KeepsSegments`.

    Args:
        spool: where a segment is gathered before it is uploaded as one object.
    """

    def __init__(self, *, client: ObjectClient, spool: Spool) -> None:
        self._client = client
        self._spool = spool
        self._tail: _Tail | None = None

    def list(self) -> list[tuple[int, int]]:
        """See `KeepsSegments.list_segments`."""
        sizes: dict[int, int] = {}
        parts: dict[int, dict[int, int]] = {}
        for stored in self._client.list("segments"):
            match = _NAME.fullmatch(stored.name)
            if match is None:
                continue
            if match[2] is None:
                sizes[int(match[1])] = stored.size
            else:
                parts.setdefault(int(match[1]), {})[int(match[2])] = stored.size
        for segment_id, part_sizes in parts.items():
            held = _held_bytes(part_sizes)
            if held is not None:
                sizes.setdefault(segment_id, held)
        return sorted(sizes.items())

    def append(self, segment_id: int, offset: int, data: bytes | memoryview) -> None:
        """See `KeepsSegments.append_segment`."""
        found = self._find(segment_id)
        held = found.held_bytes() or 0
        if held < offset:
            raise StoreUnavailableError(
                "The store holds less of the segment than it held before.",
                hint="Copy the segment again, from its beginning.",
                path=f"{self._client.place}/{segment_name(segment_id)}",
                size_bytes=held,
                offset=offset,
            )
        first, kept = divmod(offset, PART_BYTES)
        body = self._read_kept(segment_id, found, first, kept) + bytes(data)
        # What lies behind goes first: whatever is cut off in between, nothing stale comes to lie
        # behind new bytes.
        stale = [part.name for index, part in found.parts.items() if index > first]
        self._client.delete(stale)
        if found.whole is not None:
            self._split(segment_id, first)
        if not body and offset:  # it ends where the part before ends
            self._client.delete([part.name for i, part in found.parts.items() if i == first])
        else:
            self._put_parts(segment_id, first, body)
        if found.whole is not None:
            self._client.delete([found.whole.name])

    def read(self, segment_id: int, offset: int, length: int) -> bytes:
        """See `KeepsSegments.read_segment`."""
        grows = self._tail is not None and self._tail.segment_id == segment_id
        for _ in range(_READ_ATTEMPTS_MAX):
            try:
                if not grows and length > 0:
                    return self._client.read(segment_name(segment_id), offset, length)
            except BlobMissingError:
                pass
            found = self._find(segment_id)
            held = found.held_bytes()
            if held is None:
                break
            grows = found.whole is None
            if length <= 0 or offset >= held:
                return b""
            try:
                if grows:
                    return self._read_parts(segment_id, offset, min(offset + length, held))
            except BlobMissingError:  # it was sealed just now
                continue
        raise self._missing(segment_id)

    def seal(self, segment_id: int) -> None:
        """See `KeepsSegments.seal_segment`."""
        found = self._find(segment_id)
        if found.whole is None:
            held = found.held_bytes()
            if held is None:
                raise self._missing(segment_id)
            size, checksum = self._upload(segment_id, self._pieces(segment_id, held))
            self._check(segment_id, size, checksum)
        self._client.delete([part.name for part in found.parts.values()])
        self._tail = None

    def put(self, segment_id: int, pieces: Iterable[bytes]) -> None:
        """See `KeepsSegments.put_segment`."""
        found = self._find(segment_id)
        self._upload(segment_id, pieces)
        self._client.delete([part.name for part in found.parts.values()])
        self._tail = None

    def quarantine(self, segment_id: int) -> None:
        """See `KeepsSegments.quarantine_segment`. What has grown in parts is kept in parts."""
        found = self._find(segment_id)
        target = damaged_name(segment_name(segment_id), now_ms=now_ms())
        for index, part in found.parts.items():
            self._client.copy(part.name, f"{target}.parts/{index:06d}")
        if found.whole is not None:
            self._client.copy(found.whole.name, target)
        # The object goes last: until then it is the segment, and stale parts are not.
        self._client.delete([part.name for part in found.parts.values()])
        if found.whole is not None:
            self._client.delete([found.whole.name])
        self._tail = None

    def _find(self, segment_id: int) -> _Found:
        """Return what the store has of a segment, by one request in the common case."""
        name = segment_name(segment_id)
        whole: StoredObject | None = None
        parts: dict[int, StoredObject] = {}
        # Names come in order, those of one segment together: they begin behind "...07.wa".
        for stored in self._client.list("segments", after=name[:-1]):
            match = _NAME.fullmatch(stored.name)
            if not stored.name.startswith(name):
                break
            if match is not None and match[2] is not None:
                parts[int(match[2])] = stored
            elif match is not None:
                whole = stored
        return _Found(whole, parts)

    def _read_kept(self, segment_id: int, found: _Found, first: int, kept: int) -> bytes:
        """Return the first `kept` bytes of the part that an append begins in."""
        if not kept:
            return b""
        tail = self._tail
        if found.whole is not None:
            data = self._client.read(found.whole.name, first * PART_BYTES, kept)
        elif tail is not None and (tail.segment_id, tail.index, tail.etag) == (
            segment_id,
            first,
            found.parts[first].etag or "unknown",
        ):
            data = tail.data[:kept]
        else:
            data = self._client.read(found.parts[first].name, 0, kept)
        if len(data) != kept:
            raise StoreUnavailableError(
                "The store gives fewer bytes of the segment than it lists.",
                path=f"{self._client.place}/{segment_name(segment_id)}",
            )
        return data

    def _put_parts(self, segment_id: int, first: int, body: bytes) -> None:
        """Write parts from index `first` on, at least one; several under way at once."""
        chunks = [body[at : at + PART_BYTES] for at in range(0, len(body), PART_BYTES)] or [b""]
        etags = call_each(
            lambda item: self._client.put(_part_name(segment_id, first + item[0]), item[1]),
            enumerate(chunks),
        )
        self._tail = _Tail(segment_id, first + len(chunks) - 1, etags[-1], chunks[-1])

    def _split(self, segment_id: int, count: int) -> None:
        """Turn the first `count` MiB of a sealed segment into parts."""
        for index in range(count):
            data = self._client.read(segment_name(segment_id), index * PART_BYTES, PART_BYTES)
            self._client.put(_part_name(segment_id, index), data)

    def _read_parts(self, segment_id: int, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop) of a growing segment that holds at least `stop`."""

        def read_part(index: int) -> bytes:
            base = index * PART_BYTES
            low, high = max(start - base, 0), min(stop - base, PART_BYTES)
            return self._client.read(_part_name(segment_id, index), low, high - low)

        return b"".join(call_each(read_part, range(start // PART_BYTES, -(-stop // PART_BYTES))))

    def _pieces(self, segment_id: int, size: int) -> Iterator[bytes]:
        """Yield the bytes of a growing segment, a few parts at a time."""
        for start in range(0, size, READ_BYTES):
            yield self._read_parts(segment_id, start, min(start + READ_BYTES, size))

    def _upload(self, segment_id: int, pieces: Iterable[bytes]) -> tuple[int, int]:
        """Write a segment as one object; return (bytes, CRC32 of them)."""
        with self._spool.open() as file:
            size, checksum = _gather(file, pieces)
            self._client.upload(segment_name(segment_id), file, size)
        return size, checksum

    def _check(self, segment_id: int, size: int, checksum: int) -> None:
        """Read a segment back before its parts are removed; remove it if it is not what it was.

        Raises:
            StoreUnavailableError: the parts are the segment again.
        """
        name = segment_name(segment_id)
        found = 0
        for start in range(0, size, READ_BYTES):
            found = crc32(self._client.read(name, start, min(READ_BYTES, size - start)), found)
        if found != checksum:
            self._client.delete([name])
            raise StoreUnavailableError(
                "The store does not give back what was written to it.",
                path=f"{self._client.place}/{name}",
            )

    def _missing(self, segment_id: int) -> BlobMissingError:
        """Return the error for a segment that is not held."""
        place = f"{self._client.place}/{segment_name(segment_id)}"
        return BlobMissingError("The store does not hold the segment.", path=place)


def _held_bytes(part_sizes: dict[int, int]) -> int | None:
    """Return the bytes of a segment with these parts, index -> size; None if there is none."""
    if 0 not in part_sizes:
        return None
    held = index = 0
    while index in part_sizes:
        held += part_sizes[index]
        if part_sizes[index] != PART_BYTES:
            break
        index += 1
    return held


def _part_name(segment_id: int, index: int) -> str:
    """Return the name of one part of a growing segment."""
    return f"{segment_name(segment_id)}.parts/{index:06d}"


def _gather(file: IO[bytes], pieces: Iterable[bytes]) -> tuple[int, int]:
    """Write the pieces to a file; return (bytes, CRC32 of them)."""
    size = checksum = 0
    for piece in pieces:
        try:
            write_all(file.fileno(), piece)
        except OSError as error:
            raise storage_error(error, path="the spool of the object store") from error
        size += len(piece)
        checksum = crc32(piece, checksum)
    return size, checksum
