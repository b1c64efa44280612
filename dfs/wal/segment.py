"""A segment: its header and its file names. Layout in `dfs.wal`."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dfs.core.checksum import crc32
from dfs.core.durable import storage_error, sync_directory
from dfs.core.errors import StorageError, WalCorruptError, WalFormatError, WalGapError
from dfs.core.regular import NOT_REGULAR, open_regular, read_start

MAGIC = b"dfs-wal\n"
FORMAT_VERSION = 1
ACTIVE_NAME = "wal.active"
NEXT_NAME = "wal.next"
SEGMENTS_NAME = "segments"
DAMAGED_NAME = "damaged"
FIRST_SEGMENT_ID = 1
FIRST_LSN = 1
OPEN_SEGMENTS_MAX = 128
OPEN_ATTEMPTS_MAX = 5
SWEEP_INTERVAL_S = 10.0

_ZEROS = bytes(1 << 20)
ZEROS_BYTES_MAX = 512 * len(_ZEROS)
"""Half as many pieces as one call writes."""

_FIELDS = struct.Struct("<8sIIQ16sQQQQI")
_CRC = struct.Struct("<I")
SEGMENT_HEADER_BYTES = _FIELDS.size + _CRC.size
_SEALED_NAME = re.compile(r"(\d{10})\.wal")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What a segment says about itself and about where the one before it ended.

    Attributes:
        previous_end: offset behind the last record of the previous segment; 0 in the first one.
        previous_last_lsn: always `first_lsn - 1`.
    """

    segment_id: int
    cluster_id: bytes
    first_lsn: int
    previous_end: int
    previous_last_lsn: int
    created_at_ms: int


class SegmentBytes(Protocol):
    """The bytes of a segment, wherever they are kept."""

    @property
    def path(self) -> Path:
        """Where they are, for the text of an error."""

    def size(self) -> int:
        """Return how many there are. Raises StorageError."""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`; fewer only at the end. Raises StorageError."""


class OpenSegment:
    """A segment opened for reading. Closed when the last one who uses it is done."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = open_regular(path)

    def size(self) -> int:
        """See `SegmentBytes`."""
        try:
            return os.fstat(self.fd).st_size
        except OSError as error:
            raise storage_error(error, path=self.path) from error

    def read(self, offset: int, length: int) -> bytes:
        """See `SegmentBytes`."""
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise storage_error(error, path=self.path) from error

    def is_removed(self) -> bool:
        """Tell whether the file has no name any more, so that only its readers keep it."""
        return os.fstat(self.fd).st_nlink == 0

    def drop_cache(self) -> None:
        """Have the next reads come from the disk. Advice only: never raises."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.fd)


class OpenSegments:
    """The segments of one log that are open for reading, the least used closed first.

    Whoever reads from a file goes on with it when another takes its name. Files that have no name
    any more are closed soon, since until then they take their space on the disk.

    Args:
        directory: of the log.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: OrderedDict[int, OpenSegment] = OrderedDict()
        self._lock = threading.Lock()
        self._sweep_at_s = time.monotonic() + SWEEP_INTERVAL_S

    def get(self, segment_id: int) -> OpenSegment:
        """Return a segment, whether sealed or active.

        Raises:
            WalGapError: it is missing.
            StorageError: it cannot be opened.
        """
        self.sweep()
        with self._lock:
            segment = self._open.get(segment_id)
            if segment is None:
                segment = self._open[segment_id] = self._find(segment_id)
                if len(self._open) > OPEN_SEGMENTS_MAX:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(segment_id)
        return segment

    def open_anew(self, segment_id: int) -> OpenSegment:
        """Return a segment as it is now: another file may have taken its name. Raises as `get`."""
        self.forget(segment_id)
        return self.get(segment_id)

    def forget(self, segment_id: int) -> None:
        """Open a segment anew when it is wanted again."""
        with self._lock:
            self._open.pop(segment_id, None)

    def clear(self) -> None:
        """Forget them all; each is closed when its last user is done."""
        with self._lock:
            self._open.clear()

    def sweep(self) -> None:
        """Forget files that have no name any more. Looks for them every few seconds only."""
        moment_s = time.monotonic()
        if moment_s < self._sweep_at_s:
            return
        with self._lock:
            self._sweep_at_s = moment_s + SWEEP_INTERVAL_S
            removed = [number for number, segment in self._open.items() if segment.is_removed()]
            for segment_id in removed:
                del self._open[segment_id]

    def _find(self, segment_id: int) -> OpenSegment:
        path = sealed_path(self._directory, segment_id)
        active_path = self._directory / ACTIVE_NAME
        for _ in range(OPEN_ATTEMPTS_MAX):  # a rotation may come between the two looks
            try:
                return OpenSegment(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise unreadable_segment(error, path) from error
            try:
                segment = OpenSegment(active_path)
                data = os.pread(segment.fd, SEGMENT_HEADER_BYTES, 0)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable_segment(error, active_path) from error
            if decode_header(data, path=active_path).segment_id == segment_id:
                return segment
        raise WalGapError(
            f"Segment {segment_id} of the log is missing.",
            hint="Restore it from a copy of the log; dfs never skips records.",
            path=path,
        )


def encode_header(header: SegmentHeader) -> bytes:
    """Return the `SEGMENT_HEADER_BYTES` bytes at the start of a segment."""
    fields = _FIELDS.pack(
        MAGIC,
        FORMAT_VERSION,
        SEGMENT_HEADER_BYTES,
        header.segment_id,
        header.cluster_id,
        header.first_lsn,
        header.previous_end,
        header.previous_last_lsn,
        header.created_at_ms,
        0,
    )
    return fields + _CRC.pack(crc32(fields))


def decode_header(data: bytes, *, path: Path) -> SegmentHeader:
    """Check and read the start of a segment.

    Raises:
        WalFormatError: a newer program wrote it.
        WalCorruptError: it is no valid header.
    """
    if len(data) < SEGMENT_HEADER_BYTES or data[:8] != MAGIC:
        raise _header_error("it does not begin like one", path)
    (_, version, length, segment_id, cluster_id, first_lsn, end, last_lsn, created, _zero) = (
        _FIELDS.unpack_from(data)
    )
    if _CRC.unpack_from(data, _FIELDS.size)[0] != crc32(data[: _FIELDS.size]):
        raise _header_error("the CRC32 of its header does not fit", path)
    if version != FORMAT_VERSION:
        raise WalFormatError(
            f"A segment of the log has format {version}; this program knows {FORMAT_VERSION}.",
            hint="Start the newer version of dfs that wrote it.",
            path=path,
        )
    if length != SEGMENT_HEADER_BYTES or last_lsn != first_lsn - 1:
        raise _header_error("its header contradicts itself", path)
    return SegmentHeader(segment_id, cluster_id, first_lsn, end, last_lsn, created)


def read_header(path: Path) -> SegmentHeader:
    """Read the header of a segment file. Raises as `decode_header`, and StorageError."""
    try:
        return decode_header(read_start(path, SEGMENT_HEADER_BYTES)[0], path=path)
    except OSError as error:
        raise unreadable_segment(error, path) from error


def unreadable_segment(error: OSError, path: Path) -> StorageError | WalCorruptError:
    """Return the error to raise when a segment cannot be opened or its start not be read."""
    is_dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
    if is_dangling or error.errno in NOT_REGULAR:
        return WalCorruptError(
            "Something that is no file lies where a segment of the log belongs.",
            hint="Restore it from a copy of the log; a start does so by itself from replicas.",
            path=path,
        )
    return storage_error(error, path=path)


def write_segment(path: Path, header: SegmentHeader, *, size_bytes: int) -> None:
    """Write a segment without records: its header, and zeros up to `size_bytes`.

    What lies there already is removed first. It may be what was left when the sync of its name
    failed: the kernel takes such a name for durable then, and only a new one is written at all.

    Raises:
        StorageError: nothing of it is left at `path`, if that could be helped.

    Durability: the file and its name are on disk.
    """
    try:
        path.unlink(missing_ok=True)
        with open(path, "wb", opener=_open_private) as file:
            file.write(encode_header(header))
            file.writelines(zeros(size_bytes - SEGMENT_HEADER_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            path.unlink()
        raise storage_error(error, path=path) from error
    sync_directory(path.parent)


def zeros(size: int) -> list[memoryview]:
    """Return `size` zero bytes, or none if that is negative, as buffers to be written.

    They are the same memory over and over, of which the kernel need not keep any.
    """
    whole, rest = divmod(max(0, size), len(_ZEROS))
    return [memoryview(_ZEROS)] * whole + [memoryview(_ZEROS)[:rest]]


def sealed_path(directory: Path, segment_id: int) -> Path:
    """Return where the sealed segment of that id lies in the log's directory."""
    return directory / SEGMENTS_NAME / f"{segment_id:010d}.wal"


def list_sealed_ids(directory: Path) -> list[int]:
    """Return the ids of the sealed segments present, ascending. Raises StorageError."""
    path = directory / SEGMENTS_NAME
    try:
        with os.scandir(path) as entries:
            matches = (_SEALED_NAME.fullmatch(entry.name) for entry in entries)
            return sorted(int(match[1]) for match in matches if match)
    except OSError as error:
        raise storage_error(error, path=path) from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _header_error(fault: str, path: Path) -> WalCorruptError:
    return WalCorruptError(
        f"A segment of the log is damaged: {fault}.",
        hint="Restore this file from a copy of the log; dfs never skips records.",
        path=path,
        offset=0,
    )
