"""Repair of files of the log: what is taken away is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dfs.core.clock import now_ms
from dfs.core.durable import (
    make_directory_durably,
    replace_durably,
    storage_error,
    sync_directory,
)
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
            kept = None
            if cut:
                kept = _keep(directory, position.segment_id, position.offset, cut)
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


def overwrite(
    directory: Path, path: Path, *, segment_id: int, pieces: Sequence[tuple[int, bytes]]
) -> None:
    """Put the right bytes over damaged ones of a segment in use, and keep the damaged ones.

    Args:
        pieces: (offset, right bytes) of what was durable once.

    Raises:
        StorageError: some of it may not be durable, or not be done; do it again.

    Durability: what was there, then what takes its place, are on disk.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            for offset, data in pieces:
                _keep(directory, segment_id, offset, os.pread(fd, len(data), offset))
            for offset, data in pieces:
                written = 0
                while written < len(data):
                    written += os.pwrite(fd, data[written:], offset + written)
            os.fdatasync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, path=path) from error


def keep_file(directory: Path, path: Path) -> Path:
    """Keep a damaged file in `damaged/`, without reading it, until another takes its name.

    Where a file cannot have two names it is moved at once.

    Durability: the new name is on disk.
    """
    make_directory_durably(directory / DAMAGED_NAME)
    kept = directory / DAMAGED_NAME / f"{path.name}-{now_ms()}"
    try:
        try:
            os.link(path, kept)
        except OSError:
            path.rename(kept)
    except OSError as error:
        raise storage_error(error, path=path) from error
    sync_directory(kept.parent)
    return kept


def _keep(directory: Path, segment_id: int, offset: int, data: bytes) -> Path:
    make_directory_durably(directory / DAMAGED_NAME)
    path = directory / DAMAGED_NAME / f"{segment_id:010d}-{offset}-{now_ms()}.bin"
    replace_durably(path, data)
    return path
