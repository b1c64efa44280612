"""What the disk itself can do: the least that any durable store has to do."""

from __future__ import annotations

import os
import time
from pathlib import Path

PIECE_BYTES = 1 << 20


def append_with_sync(path: Path, *, size: int, group: int, seconds: float) -> float:
    """Append records to a preallocated file, with one fdatasync for each group of them.

    Args:
        size: bytes of a record.
        group: records that share a write and a sync.

    Returns:
        Records a second.
    """
    data = os.urandom(size * group)
    file_bytes = 64 << 20
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(fd).st_size < file_bytes:
            os.pwrite(fd, bytes(file_bytes), 0)
            os.fsync(fd)
        offset = count = 0
        started = time.perf_counter()
        deadline = started + seconds
        while time.perf_counter() < deadline:
            os.pwrite(fd, data, offset)
            os.fdatasync(fd)
            count += group
            offset = offset + len(data) if offset + 2 * len(data) <= file_bytes else 0
        return count / (time.perf_counter() - started)
    finally:
        os.close(fd)


def write_and_sync(directory: Path, *, size: int) -> float:
    """Write a new file in pieces of 1 MiB and sync it, as `dd conv=fdatasync` does.

    Returns:
        Seconds it took. The file is removed afterwards.
    """
    path = directory / "reference.dat"
    data = os.urandom(min(size, PIECE_BYTES))
    started = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for _ in range(size // len(data)):
            os.write(fd, data)
        os.fdatasync(fd)
        return time.perf_counter() - started
    finally:
        os.close(fd)
        path.unlink()
