"""ULIDs: 48 bits of milliseconds and 80 random bits, 26 characters that sort by time.

Specification: https://github.com/ulid/spec; the text is Crockford's base 32.
"""

from __future__ import annotations

import os
import time
from collections import deque

_ALPHABET = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CHARACTER_OF_BYTE = _ALPHABET * 8
"""As a table for `bytes.translate`: of each byte, the character for its lower five bits."""
_PAIRS = tuple(chr(high) + chr(low) for high in _ALPHABET for low in _ALPHABET)
"""The characters for each ten bits."""
_TIME_SHIFTS = range(40, -1, -10)
_RANDOM_CHARACTERS = 16
_STOCK = 256


class UlidFactory:
    """Makes ULIDs, for all threads of one process; to be made anew after a fork.

    The random parts are made many at a time: each look for random bytes lets other threads take
    the interpreter, and waiting to get it back costs far more than the bytes.
    """

    def __init__(self) -> None:
        self._random: deque[str] = deque()
        self._moment = (0, "")

    def make(self) -> str:
        """Return a new ULID."""
        try:
            random = self._random.pop()
        except IndexError:
            random = self._restock()
        now_ms = time.time_ns() // 1_000_000
        known_ms, text = self._moment
        if now_ms != known_ms:
            text = "".join([_PAIRS[now_ms >> shift & 1023] for shift in _TIME_SHIFTS])
            self._moment = (now_ms, text)
        return text + random

    def _restock(self) -> str:
        """Make the random parts of the next ULIDs, and return one."""
        drawn = os.urandom(_RANDOM_CHARACTERS * _STOCK).translate(_CHARACTER_OF_BYTE).decode()
        starts = range(_RANDOM_CHARACTERS, len(drawn), _RANDOM_CHARACTERS)
        self._random.extend(drawn[start : start + _RANDOM_CHARACTERS] for start in starts)
        return drawn[:_RANDOM_CHARACTERS]
