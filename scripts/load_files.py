"""The files of a load test: their bytes, and which of them the node must have."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

POOL_BYTES = 8 << 20
PIECE_BYTES = 1 << 20
STAMP_BYTES = 16


class Content:
    """Makes the bytes of files, quickly: slices of one pool of random bytes, each piece stamped.

    The same seed and label give the same bytes; other labels give other ones, but for files that
    are shorter than a stamp.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pool = random.Random(seed).randbytes(POOL_BYTES)

    def pieces(self, label: str, size: int) -> Iterator[bytes]:
        """Yield the bytes of a file, `size` in all, in pieces of at most PIECE_BYTES."""
        source = random.Random(f"{self._seed}/{label}")
        for start in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - start)
            stamp = source.randbytes(STAMP_BYTES)[:length]
            place = source.randrange(POOL_BYTES - PIECE_BYTES)
            yield stamp + self._pool[place : place + length - len(stamp)]


@dataclass(slots=True)
class Held:
    """A file that was acknowledged.

    Attributes:
        sha256: in hexadecimal.
        readers: how many clients are downloading it just now.
    """

    id: str
    name: str
    sha256: str
    size: int
    readers: int = 0


class Shelf:
    """The files that the node must have, shared by all clients.

    Attributes:
        stored, deleted: how many files were acknowledged as stored and as deleted.
    """

    def __init__(self) -> None:
        self.stored = 0
        self.deleted = 0
        self._files: list[Held] = []
        self._known: dict[str, tuple[str, int]] = {}
        self._lock = threading.Lock()

    def files(self) -> list[Held]:
        """Return all that must be there."""
        with self._lock:
            return list(self._files)

    def put(self, file: Held) -> None:
        """Add a file that was acknowledged."""
        with self._lock:
            self.stored += 1
            self._files.append(file)
            self._known[file.id] = (file.sha256, file.size)

    @contextlib.contextmanager
    def lend(self, chance: random.Random) -> Iterator[Held | None]:
        """Lend any file, which nobody will delete meanwhile; None if there is none."""
        with self._lock:
            file = chance.choice(self._files) if self._files else None
            if file is not None:
                file.readers += 1
        try:
            yield file
        finally:
            if file is not None:
                with self._lock:
                    file.readers -= 1

    def take(self, chance: random.Random) -> Held | None:
        """Take away any file, to delete it; None if there is none, or the one chosen is being read.

        From now on nobody relies on it: if the deletion gets no answer, it may have happened.
        """
        with self._lock:
            place = chance.randrange(len(self._files)) if self._files else 0
            if not self._files or self._files[place].readers:
                return None
            self._files[place], self._files[-1] = self._files[-1], self._files[place]
            return self._files.pop()

    def count_deleted(self) -> None:
        """Count a file whose deletion was acknowledged."""
        with self._lock:
            self.deleted += 1

    def differs(self, listed: Mapping[str, Any]) -> bool:
        """Return whether the node lists a file of this run as something else than it is."""
        known = self._known.get(listed["id"])
        return known is not None and known != (listed["sha256"], listed["size"])
