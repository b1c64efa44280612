"""Counters that all processes of a node share, in memory: the storage of the library `limits`.

Redis, which the library could use, is not trusted and may be away. The table is a file of fixed
size, mapped into each process; whoever counts holds its lock for a few microseconds. When it is
lost, counting begins anew.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from limits.storage import Storage

SLOTS = 1 << 13
PROBES = 8
"""A key has one of so many slots in a row; if all are taken, the one that ends first has to go."""
_SLOT = struct.Struct("<QddQ")
_Entry = tuple[int, float, float, int]


class SharedCounters(Storage):
    """Counters by key, each of which ends some time after it began.

    A slot: hash of the key u64 | begin, end, in seconds since 1970 f64 | count u64; little-endian.
    One whose end has passed, or whose begin is to come, since the clock was turned back, is
    free.

    Args:
        path: of the file, which is made if it is not there.

    Raises:
        OSError: it cannot be.
    """

    STORAGE_SCHEME = None

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._clock = clock
        self._threads = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        weakref.finalize(self, os.close, self._file)
        # No hole: on a full disk the kernel would kill whoever writes there.
        os.posix_fallocate(self._file, 0, SLOTS * _SLOT.size)
        self._table = mmap.mmap(self._file, SLOTS * _SLOT.size)

    @property
    def base_exceptions(self) -> type[Exception]:
        """What the table may raise."""
        return OSError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a counter, which begins with this if it has ended. Returns what it is then."""
        with self._locked():
            now_s = self._clock()
            place, (_, begin_s, end_s, count) = self._find(key, now_s)
            if not count:
                begin_s, end_s = now_s, now_s + expiry
            count += amount
            _SLOT.pack_into(self._table, place, _hash(key), begin_s, end_s, count)
            return count

    def get(self, key: str) -> int:
        """Return a counter, 0 if it has ended."""
        with self._locked():
            return self._find(key, self._clock())[1][3]

    def get_expiry(self, key: str) -> float:
        """Return when a counter ends, in seconds since 1970; now, if it has."""
        with self._locked():
            now_s = self._clock()
            return max(now_s, self._find(key, now_s)[1][2])

    def clear(self, key: str) -> None:
        """End a counter."""
        with self._locked():
            place, _ = self._find(key, self._clock())
            _SLOT.pack_into(self._table, place, 0, 0.0, 0.0, 0)

    def reset(self) -> None:
        """End all counters."""
        with self._locked():
            self._table[:] = bytes(len(self._table))

    def check(self) -> bool:
        """Return that it works."""
        return True

    def _find(self, key: str, now_s: float) -> tuple[int, _Entry]:
        """Return the place of a key and what stands there; zeros for a key that has no counter."""
        wanted = _hash(key)
        best, best_end_s = 0, float("inf")
        for probe in range(PROBES):
            place = (wanted + probe) % SLOTS * _SLOT.size
            found: _Entry = _SLOT.unpack_from(self._table, place)
            end_s = found[2] if found[1] <= now_s < found[2] else 0.0
            if found[0] == wanted and end_s:
                return place, found
            if end_s < best_end_s:
                best, best_end_s = place, end_s
        return best, (wanted, 0.0, 0.0, 0)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._threads:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)


def _hash(key: str) -> int:
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little")
