"""Which blob files were found sound a short while ago."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from time import monotonic

from dfs.storage.base import BlobReader, StampedReader, StampsBlobs
from dfs.storage.stamp import FileStamp

FILES_MAX = 16_384
"""Files that a process remembers, some 4 MiB; beyond, the one not asked for for longest goes."""


class VerifiedFiles:
    """Remembers blob files that were read whole, each block checked; for one process.

    Others than dfs may send such a file, which do not check it. It is known by its stamp: after any
    change it is another one, that has not been read yet. Bytes that rot on the disk do not change
    it. So nothing is remembered for longer than `good_for_s`.

    Args:
        store: the primary.
        on_hit: called for each file that was known.
    """

    def __init__(
        self,
        *,
        store: StampsBlobs,
        good_for_s: float,
        on_hit: Callable[[], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._good_for_s = good_for_s
        self._on_hit = on_hit
        self._clock = clock
        self._until_s: OrderedDict[tuple[bytes, FileStamp], float] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, digest: bytes, reader: BlobReader) -> None:
        """Remember a blob that a reader of the store has given whole and sound.

        If it was changed meanwhile it has another stamp than is remembered.
        """
        stamp = reader.stamp if isinstance(reader, StampedReader) else None
        if stamp is None:
            return
        with self._lock:
            self._until_s[digest, stamp] = self._clock() + self._good_for_s
            self._until_s.move_to_end((digest, stamp))
            if len(self._until_s) > FILES_MAX:
                self._until_s.popitem(last=False)

    def has(self, digest: bytes) -> bool:
        """Tell whether the file that the store has now is one of those."""
        stamp = self._store.find_stamp(digest)
        if stamp is None:
            return False
        with self._lock:
            until_s = self._until_s.get((digest, stamp), 0.0)
            if until_s <= self._clock():
                self._until_s.pop((digest, stamp), None)
                return False
            self._until_s.move_to_end((digest, stamp))
        self._on_hit()
        return True
