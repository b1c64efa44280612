"""What the disk itself can do: the least that any durable store has to do.

Files that are written stay, as those of a store do: on a disk that finds room only when it is first
written to, a file in the place of one just removed is written several times as fast as a new one.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Appends:
    """What appending has shown.

    Attributes:
        per_s: records a second. p50_ms: of a write with its sync.
    """

    per_s: float
    p50_ms: float


def append_with_sync(path: Path, *, size: int, group: int, seconds: float) -> Appends:
    """Append records to a preallocated file, with one fdatasync for each group of them.

    Args:
        size: bytes of a record.
        group: records that share a write and a sync.
    """
    data = os.urandom(size * group)
    file_bytes = 64 << 20
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(fd).st_size < file_bytes:
            os.pwrite(fd, bytes(file_bytes), 0)
            os.fsync(fd)
        offset = 0
        timings_s: list[float] = []
        began = started = time.perf_counter()
        while began < started + seconds:
            os.pwrite(fd, data, offset)
            os.fdatasync(fd)
            ended = time.perf_counter()
            timings_s.append(ended - began)
            began = ended
            offset = offset + len(data) if offset + 2 * len(data) <= file_bytes else 0
    finally:
        os.close(fd)
    return Appends(
        per_s=group * len(timings_s) / (began - started),
        p50_ms=1e3 * statistics.median(timings_s),
    )


def write_and_sync(directory: Path, *, size: int, is_hashed: bool = False) -> float:
    """Write a new file in pieces of 1 MiB and sync it, as `dd conv=fdatasync` does.

    Args:
        is_hashed: take the SHA-256 of each piece before it is written, in the same thread.

    Returns:
        Seconds it took.
    """
    path = directory / f"reference-{secrets.token_hex(8)}"
    data = os.urandom(min(size, PIECE_BYTES))
    digest = hashlib.sha256()
    started = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for _ in range(size // len(data)):
            if is_hashed:
                digest.update(data)
            os.write(fd, data)
        os.fdatasync(fd)
        return time.perf_counter() - started
    finally:
        os.close(fd)


def hash_alone(*, size: int) -> float:
    """Take the SHA-256 of so many bytes, in pieces of 1 MiB.

    Returns:
        Seconds it took.
    """
    data = os.urandom(PIECE_BYTES)
    digest = hashlib.sha256()
    started = time.perf_counter()
    for _ in range(size // len(data)):
        digest.update(data)
    digest.digest()
    return time.perf_counter() - started


def store_with_threads(directory: Path, *, size: int, threads: int, seconds: float) -> float:
    """Store new files as durably as POSIX lets one, from some threads that share no lock.

    Each is created under a temporary name, written by one call, synced and renamed, and then the
    directory is synced. Almost all of the time goes by in the kernel, outside Python's lock.

    Returns:
        Files a second.
    """
    folder = Path(tempfile.mkdtemp(prefix="reference-", dir=directory))
    data = os.urandom(size)
    folder_fd = os.open(folder, os.O_RDONLY)
    began = time.perf_counter()

    def store(number: int) -> int:
        count = 0
        while time.perf_counter() < began + seconds:
            name = f"{number}-{count}"
            fd = os.open(f"{name}.tmp", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder_fd)
            os.write(fd, data)
            os.fdatasync(fd)
            os.close(fd)
            os.rename(f"{name}.tmp", name, src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
            os.fsync(folder_fd)
            count += 1
        return count

    try:
        with ThreadPoolExecutor(threads) as pool:
            counts = list(pool.map(store, range(threads)))
        return sum(counts) / (time.perf_counter() - began)
    finally:
        os.close(folder_fd)
