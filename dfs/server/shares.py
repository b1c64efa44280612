"""How many connections each worker of a node has, so that none takes more than its share.

All workers are woken by a new connection, and the quickest takes it. That is often the same one,
and connections stay where they are: one worker would serve them all, beside others that are idle.
"""

from __future__ import annotations

import mmap
from time import monotonic

INSIST_S = 0.02
"""How long a worker leaves nothing to others after it has left them something in vain."""
WORKERS_MAX = 64
_ITEM_BYTES = 4
_ABSENT = -1


class Shares:
    """A table in memory that the master shares with its workers."""

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, WORKERS_MAX * _ITEM_BYTES)).cast("i")
        self._free = set(range(WORKERS_MAX))
        for place in self._free:
            self._counts[place] = _ABSENT

    def claim(self) -> Share:
        """Return the share of a new worker; in the master. Those beyond `WORKERS_MAX` have none."""
        return Share(self._counts, self._free.pop() if self._free else None)

    def release(self, share: Share) -> None:
        """Forget a worker that has ended; in the master."""
        share.close()
        if share.place is not None:
            self._free.add(share.place)


class Share:
    """The connections of one worker.

    Attributes:
        place: in the table.
    """

    def __init__(self, counts: memoryview[int], place: int | None) -> None:
        self.place = place
        self._counts = counts
        self._insists_until_s = 0.0

    def note(self, connections: int) -> None:
        """Tell the others how many connections this worker, which takes more, has."""
        if self.place is not None:
            self._counts[self.place] = connections

    def close(self) -> None:
        """Tell the others that this worker takes no more."""
        self.note(_ABSENT)

    def insist(self) -> None:
        """Not be ahead for a while: nobody took what was left, such as workers that hang."""
        self._insists_until_s = monotonic() + INSIST_S

    def is_ahead(self) -> bool:
        """Tell whether another worker that takes connections has fewer."""
        if self.place is None or monotonic() < self._insists_until_s:
            return False
        counts = self._counts.tolist()
        own = counts[self.place]
        return any(_ABSENT < count < own for count in counts)
