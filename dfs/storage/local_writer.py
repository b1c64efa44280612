"""Writing the files of a local store: their beginning through the kernel's cache, the rest past it.

Of a large file, which is written once and synced at once, the cache makes two copies of one: the
kernel has to find a page for every 4 KiB, to copy the bytes there, and to send them to the disk
from there; and it drops for them what others read. Past the cache (`O_DIRECT`) they go to the disk
from the caller's memory, as whole blocks that are aligned there, too. Not every file system takes
them so; those that do not are written to through the cache.

Source: open(2), `O_DIRECT`, https://man7.org/linux/man-pages/man2/open.2.html#NOTES
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading

from dfs.core.checksum import Buffer
from dfs.core.durable import begin_writeback, write_all

CACHED_BYTES = 4 << 20
"""So much of the beginning of each file goes through the cache: small files are often read soon
after, and past the cache they gain nothing."""
WRITEBACK_BYTES = 2 << 20
"""The kernel is told to begin writing to the disk whenever so much has come through the cache, so
that little is left for the sync at its end."""
GATHERED_BYTES = 1 << 20
"""So much goes to the disk by one call. Each large file that is being written has a buffer of this
size; with a fourth of it, it takes a tenth more processor time."""
BLOCK_BYTES = 4096
"""Nearly all disks and file systems take what begins at a multiple of this, and is one."""


class AlignedBuffers:
    """Buffers of `GATHERED_BYTES` that begin at a page, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        """Return one, with whatever is in it."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return mmap.mmap(-1, GATHERED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def give_back(self, buffer: mmap.mmap) -> None:
        """Keep one for whoever needs the next."""
        with self._lock:
            self._idle.append(buffer)


class FileWriter:
    """Writes a new file from its beginning. For one thread.

    Methods raise OSError as it comes; what was written until then stays.

    Args:
        fd: open for writing. The caller syncs and closes it.
        buffers: where the bytes that go past the cache are gathered.
    """

    def __init__(self, fd: int, buffers: AlignedBuffers) -> None:
        self._fd = fd
        self._buffers = buffers
        self._buffer: mmap.mmap | None = None
        self._gathered = 0
        self._written = 0
        self._begun = 0
        self._is_direct = True

    def write(self, data: Buffer) -> None:
        """Take the next bytes. The last may stay in memory until `finish`."""
        rest = memoryview(data).cast("B")
        if self._written < CACHED_BYTES:
            head = rest[: CACHED_BYTES - self._written]
            self._write_cached(head)
            rest = rest[len(head) :]
        while rest:
            if self._buffer is None:
                self._buffer = self._buffers.take()
            taken = rest[: GATHERED_BYTES - self._gathered]
            self._buffer[self._gathered : self._gathered + len(taken)] = taken
            self._gathered += len(taken)
            rest = rest[len(taken) :]
            if self._gathered == GATHERED_BYTES:
                self.finish()

    def finish(self) -> None:
        """Write what is left in memory.

        Durability: none before a sync: the disk has a memory, too, and the file a size.
        """
        if self._buffer is None:
            return
        data = memoryview(self._buffer)[: self._gathered]
        left = data[self._write_direct(data) :]
        if left:
            self._write_cached(left)
        self.release()

    def release(self) -> None:
        """Let go of what is in memory, written or not. May be repeated."""
        buffer, self._buffer = self._buffer, None
        self._gathered = 0
        if buffer is not None:
            self._buffers.give_back(buffer)

    def _write_cached(self, data: memoryview) -> None:
        write_all(self._fd, data)
        self._written += len(data)
        if self._written - self._begun >= WRITEBACK_BYTES:
            begin_writeback(self._fd, self._begun, self._written - self._begun)
            self._begun = self._written

    def _write_direct(self, data: memoryview) -> int:
        """Write the whole blocks of it past the cache. Returns how many bytes were taken so."""
        whole = len(data) - len(data) % BLOCK_BYTES if self._is_direct else 0
        written = 0
        try:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, os.O_DIRECT if whole else 0)
            while written < whole:
                written += os.write(self._fd, data[written:whole])
            fcntl.fcntl(self._fd, fcntl.F_SETFL, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # The file system has no such way, or wants larger blocks.
            self._is_direct = False
            fcntl.fcntl(self._fd, fcntl.F_SETFL, 0)
        self._written += written
        return written
