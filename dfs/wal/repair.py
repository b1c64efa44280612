"""Repair of a torn tail: what is cut off is kept."""

from __future__ import annotations

import os
from pathlib import Path

from dfs.core.clock import now_ms
from dfs.core.durable import make_directory_durably, replace_durably, storage_error
from dfs.wal.control import LogPosition
from dfs.wal.segment import DAMAGED_NAME

COPY_BYTES = 64 << 20


def cut_tail(directory: Path, active_path: Path, position: LogPosition) -> Path | None:
    """Cut everything behind `position` off the active segment.

    Args:
        position: behind the last whole change.

    Returns:
        The file in `damaged/` that holds what was cut, up to its last byte that is not zero;
        None if there were only zeros.

    Raises:
        StorageError: the copy or the cut did not become durable; the segment is as it was, or cut.

    Durability: the copy first, then the cut, are on disk.
    """
    try:
        fd = os.open(active_path, os.O_RDWR | os.O_CLOEXEC)
        try:
            cut = _read_from(fd, position.offset).rstrip(b"\0")
            kept = _keep(directory, position, cut) if cut else None
            os.ftruncate(fd, position.offset)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, path=active_path) from error
    return kept


def _read_from(fd: int, offset: int) -> bytes:
    """Return all bytes from `offset` on; one call of the kernel gives no more than 2 GiB."""
    pieces = []
    while piece := os.pread(fd, COPY_BYTES, offset):
        pieces.append(piece)
        offset += len(piece)
    return b"".join(pieces)


def _keep(directory: Path, position: LogPosition, cut: bytes) -> Path:
    make_directory_durably(directory / DAMAGED_NAME)
    name = f"{position.segment_id:010d}-{position.offset}-{now_ms()}.bin"
    path = directory / DAMAGED_NAME / name
    replace_durably(path, cut)
    return path
