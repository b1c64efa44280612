"""Writing the files of a local store: their beginning through the kernel's cache, the rest past it.

What is written once and synced at once gains nothing from the cache: the kernel has to find a page
for every 4 KiB, to copy the bytes there, and to send them to the disk from there; and it drops for
them what others read. Past the cache (`O_DIRECT`) they go to the disk from where they are, but only
what begins at a whole block, in the file and in memory, and is as long as some.

Source: open(2), `O_DIRECT`, https://man7.org/linux/man-pages/man2/open.2.html#NOTES
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from concurrent.futures import Executor, Future

from dfs.core.checksum import Buffer
from dfs.core.durable import begin_writeback, write_all
from dfs.core.tasks import start_task

CACHED_BYTES = 4 << 20
"""So much of the beginning of each file goes through the cache: small files are often read soon
after, and past it they gain nothing."""
WRITEBACK_BYTES = 2 << 20
"""The kernel is told to begin writing to the disk whenever so much has come through the cache, so
that little is left for the sync at its end."""
BLOCK_BYTES = 4096
"""Nearly all disks and file systems take what begins at a multiple of this, and is one."""
BUFFER_BYTES = 1 << 20
"""So much goes past the cache by one call. With a fourth of it, large uploads took a tenth to
a fifth more processor time."""
PAIRS_MAX = 4
"""An upload holds a pair of buffers while it waits for its client, so there are few; it goes
through the cache if it has none."""

Pair = tuple[mmap.mmap, mmap.mmap]


class BufferPairs:
    """Pairs of buffers of `BUFFER_BYTES` that begin at a page, for all threads of a process.

    To map them anew takes a twentieth of the time in which a file of 8 MiB is stored: they are
    kept for as long as any is in use.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Pair] = []
        self._taken = 0

    def take(self) -> Pair | None:
        """Return a pair, with whatever is in it; None if all are in use, or there is no memory."""
        with self._lock:
            if self._taken == PAIRS_MAX:
                return None
            try:
                pair = self._idle.pop() if self._idle else (_map_buffer(), _map_buffer())
            except OSError:
                return None
            self._taken += 1
            return pair

    def give_back(self, pair: Pair) -> None:
        """Let others have it."""
        with self._lock:
            self._taken -= 1
            self._idle.append(pair)
            if not self._taken:
                self._idle.clear()


def _map_buffer() -> mmap.mmap:
    return mmap.mmap(-1, BUFFER_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class FileWriter:
    """Writes a new file from its beginning. For one thread.

    Past the cache a write waits for the disk: another thread does that, while the bytes that come
    next are gathered in a second buffer.

    Methods raise OSError as it comes, also that of a write before; what was written until then
    stays.

    Args:
        fd: open for writing. The caller syncs and closes it, after `finish` or `release`.
        pairs: where the bytes that go past the cache are gathered.
        threads: write them.
    """

    def __init__(self, fd: int, pairs: BufferPairs, threads: Executor) -> None:
        self._fd = fd
        self._pairs = pairs
        self._threads = threads
        self._pair: Pair | None = None
        self._gathered = 0
        self._room_bytes = 0
        self._writing: Future[None] | None = None
        self._written = 0
        self._begun = 0
        self._takes_direct = True

    def room(self) -> memoryview | None:
        """See `StagedBlob.room`. There is none before there are buffers."""
        pair = self._find_pair()
        if pair is None:
            return None
        room = memoryview(pair[0])[self._gathered :]
        self._room_bytes = len(room)
        return room

    def fill(self, count: int) -> None:
        """See `StagedBlob.fill`. The bytes may stay in memory until `finish`."""
        room_bytes, self._room_bytes = self._room_bytes, 0
        if self._pair is None or not 0 <= count <= room_bytes:
            raise ValueError(f"there is no room for {count} bytes")
        self._advance(self._pair, count)

    def write(self, data: Buffer) -> None:
        """Take the next bytes. The last may stay in memory until `finish`."""
        self._room_bytes = 0
        rest = memoryview(data).cast("B")
        if self._pair is None and self._written < CACHED_BYTES:
            head = rest[: CACHED_BYTES - self._written]
            self._write_cached(head)
            rest = rest[len(head) :]
        while rest:
            pair = self._find_pair()
            if pair is None:
                self._write_cached(rest)
                return
            taken = rest[: BUFFER_BYTES - self._gathered]
            pair[0][self._gathered : self._gathered + len(taken)] = taken
            rest = rest[len(taken) :]
            self._advance(pair, len(taken))

    def finish(self) -> None:
        """Write what is left in memory.

        Durability: none before a sync: the disk has a memory, too, and the file a size.
        """
        self._join()
        if self._pair is not None and self._gathered:
            self._write(memoryview(self._pair[0])[: self._gathered])
        self.release()

    def release(self) -> None:
        """Let go of what is in memory, written or not. May be repeated.

        Nothing uses the descriptor any more on return.
        """
        if self._writing is not None:
            self._writing.exception()
        pair, self._pair, self._writing = self._pair, None, None
        self._gathered = self._room_bytes = 0
        if pair is not None:
            self._pairs.give_back(pair)

    def _find_pair(self) -> Pair | None:
        """Return the buffers for what comes next; None if that goes through the cache."""
        is_direct = self._written >= CACHED_BYTES and self._written % BLOCK_BYTES == 0
        if self._pair is None and self._takes_direct and is_direct:
            self._pair = self._pairs.take()
        return self._pair

    def _advance(self, pair: Pair, count: int) -> None:
        """Count what was put into the buffer. A full one is written, and the other one filled."""
        self._gathered += count
        if self._gathered < BUFFER_BYTES:
            return
        self._join()
        full, other = pair
        self._pair = (other, full)
        self._gathered = 0
        self._writing = start_task(self._threads, self._write, memoryview(full))

    def _join(self) -> None:
        """Wait for the other thread, and raise what it met with."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, data: memoryview) -> None:
        """Write it past the cache, as far as that can be done."""
        self._write_cached(data[self._write_direct(data) :])

    def _write_cached(self, data: memoryview) -> None:
        write_all(self._fd, data)
        self._written += len(data)
        if self._written - self._begun >= WRITEBACK_BYTES:
            begin_writeback(self._fd, self._begun, self._written - self._begun)
            self._begun = self._written

    def _write_direct(self, data: memoryview) -> int:
        """Write the whole blocks of it past the cache. Returns how many bytes were taken so.

        A file system that has no such way, or wants larger blocks, is not asked again.
        """
        written, whole = 0, len(data) - len(data) % BLOCK_BYTES
        if not self._takes_direct:
            return 0
        try:
            self._turn_direct(on=True)
            while written < whole:
                written += os.write(self._fd, data[written:whole])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._takes_direct = False
        self._turn_direct(on=False)
        self._written += written
        return written

    def _turn_direct(self, *, on: bool) -> None:
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags)
