"""ULIDs: 48 bits of milliseconds and 80 random bits, 26 characters that sort by time.

Specification: https://github.com/ulid/spec; the text is Crockford's base 32.
"""

from __future__ import annotations

import os
import time
from collections import deque

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_RANDOM_BYTES = 10
_RANDOM_SHIFT = 8 * _RANDOM_BYTES
_SHIFTS = range(120, -1, -10)
_STOCK = 256


class UlidFactory:
    """Makes ULIDs, for all threads of one process; to be made anew after a fork.

    Random bytes are fetched for many at a time: each fetch lets other threads take the
    interpreter, and waiting to get it back costs far more than the fetch.
    """

    def __init__(self) -> None:
        self._random: deque[bytes] = deque()

    def make(self) -> str:
        """Return a new ULID."""
        try:
            random = self._random.pop()
        except IndexError:
            random = self._restock()
        number = time.time_ns() // 1_000_000 << _RANDOM_SHIFT | int.from_bytes(random, "big")
        return "".join([_PAIRS[number >> shift & 1023] for shift in _SHIFTS])

    def _restock(self) -> bytes:
        """Fetch random bytes for the next ULIDs, and return those for one."""
        fetched = os.urandom(_RANDOM_BYTES * _STOCK)
        pieces = range(_RANDOM_BYTES, len(fetched), _RANDOM_BYTES)
        self._random.extend(fetched[start : start + _RANDOM_BYTES] for start in pieces)
        return fetched[:_RANDOM_BYTES]
