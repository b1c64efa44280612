"""The active segment, open for writing in one process."""

from __future__ import annotations

import os
from pathlib import Path

from dfs.core.disk import find_space
from dfs.core.durable import begin_writeback, storage_error
from dfs.core.errors import StoreUnavailableError, WalCorruptError
from dfs.wal.control import LogPosition
from dfs.wal.segment import ZEROS_BYTES_MAX, read_header, zeros


class SegmentWriter:
    """Writes behind the end of the active segment. Opened at first use, and after each rotation.

    Raises, all methods:
        NoSpaceError: the disk is full.
        StoreUnavailableError: the disk failed.

    Args:
        path: of the active segment, whichever that is.
        segment_bytes: size up to which zeros are written ahead.
        preallocate_bytes: how many zeros at a time.
        reserve_bytes: of the disk; zeros are not worth touching it.
    """

    def __init__(
        self, *, path: Path, segment_bytes: int, preallocate_bytes: int, reserve_bytes: int = 0
    ) -> None:
        self._path = path
        self._segment_bytes = segment_bytes
        self._preallocate_bytes = min(preallocate_bytes, ZEROS_BYTES_MAX)
        self._reserve_bytes = reserve_bytes
        self._fd = -1
        self._segment_id = 0

    def open(self, position: LogPosition) -> None:
        """Have the segment of that position open.

        Raises:
            WalCorruptError: another segment is the active one.
        """
        if self._segment_id == position.segment_id:
            return
        self.close()
        header = read_header(self._path)
        if header.segment_id != position.segment_id:
            raise WalCorruptError(
                f"Segment {header.segment_id} is active where {position.segment_id} should be.",
                path=self._path,
            )
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise storage_error(error, path=self._path) from error
        self._segment_id = position.segment_id

    def close(self) -> None:
        """Close the segment. Safe to call twice."""
        if self._segment_id:
            os.close(self._fd)
        self._fd, self._segment_id = -1, 0

    def write(self, data: bytes, position: LogPosition) -> None:
        """Write behind `position`, by one call if the kernel takes it all; the disk begins at once.

        Where the file must grow anyway, it grows by zeros for later writes, too: a sync that finds
        the size unchanged takes half the time.
        """
        offset, end = position.offset, position.offset + len(data)
        try:
            buffers: list[bytes | memoryview] = [data]
            if end > self._require_whole(position):
                spare = find_space(self._fd).bytes - len(data) - self._reserve_bytes
                buffers += zeros(min(self._preallocate_bytes, self._segment_bytes - end, spare))
            written = os.pwritev(self._fd, buffers, offset)
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], offset + written)
            begin_writeback(self._fd, offset, len(data))
        except OSError as error:
            raise storage_error(error, path=self._path) from error

    def sync(self) -> None:
        """Make what was written durable."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise storage_error(error, path=self._path) from error

    def cut(self, position: LogPosition) -> None:
        """Take away, durably, what lies behind `position`."""
        try:
            os.ftruncate(self._fd, position.offset)
            os.fdatasync(self._fd)
        except OSError as error:
            raise storage_error(error, path=self._path) from error

    def _require_whole(self, position: LogPosition) -> int:
        """Return the size of the file, if it is still the one that everybody reads."""
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size < position.offset or not self._has_name():
            raise StoreUnavailableError(
                "The active segment was taken away or cut while in use.", path=self._path
            )
        return size

    def _has_name(self) -> bool:
        """Tell whether the open file still has the name by which it is read.

        Linux has the name of each descriptor, with " (deleted)" behind that of a file which has
        none any more, see proc_pid_fd(5). To ask for the status of the file would tell
        its times, too, and give the next write a time of its own (Linux 6.13, "multigrain
        timestamps"), which ext4 without a journal then writes to the disk with every sync: one
        write more, where there was one.
        """
        try:
            name = os.readlink(f"/proc/self/fd/{self._fd}")  # noqa: PTH115 # half as long
            return name.endswith(f"/{self._path.name}")
        except OSError:  # /proc is not mounted, or not for this process
            return os.fstat(self._fd).st_nlink > 0
