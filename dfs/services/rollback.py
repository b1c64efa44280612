"""A log that is older than it was: the disk of the primary was put back as it had been once.

Log, primary and index then fit each other, and only the replicas know better. They never have more
than one commit that the log lacks (a synchronous write that was refused, or cut short by a power
cut), since the next one begins when the log has the last. So more than that was acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from dfs.core.errors import StorageError, WalCorruptError, WalGapError
from dfs.services.stores import ReplicaStore
from dfs.storage.names import segment_name
from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import SegmentReader

REFUSED_COMMITS_MAX = 1
_COMMIT_START = int(Flag.COMMIT_START)


class Newer(msgspec.Struct, frozen=True):
    """What a replica has of the log behind its end.

    Attributes:
        store: name of the replica.
        lsn: of the last record there.
    """

    store: str
    lsn: int


def require_newest(log: WriteAheadLog, ask: Callable[[LogPosition], Newer | None]) -> None:
    """Refuse a log that lacks commits which a replica has. Before this process writes anything.

    Args:
        ask: finds a replica that has commits behind a place; see `find_newer`.

    Raises:
        WalGapError: naming the replica; `durable_lsn` in its context is the last record there, to
            restore the log up to.
    """
    while True:
        end = log.position
        newer = ask(end)
        now = log.position  # what others have written and shipped since is no excess
        if newer is None or newer.lsn <= now.lsn:
            return
        if now == end:
            break
    raise WalGapError(
        f"The log ends at LSN {end.lsn}, but {newer.store} has acknowledged records up to "
        f"{newer.lsn}: the log is older than it was.",
        hint="A start restores it from the replicas. To go back to this log on purpose, move what "
        f"the replicas hold aside, {newer.store} first.",
        path=log.path,
        durable_lsn=newer.lsn,
    )


def find_newer(stores: Iterable[ReplicaStore], end: LogPosition) -> Newer | None:
    """Return the first of these stores that has acknowledged commits behind a place, or None.

    One that does not answer is passed over.
    """
    for store in stores:
        try:
            lsn = _find_newer_lsn(store, end)
        except (StorageError, WalCorruptError):
            continue  # its jobs meet the same, and say so
        if lsn is not None:
            return Newer(store.name, lsn)
    return None


def _find_newer_lsn(store: ReplicaStore, end: LogPosition) -> int | None:
    """Return the last LSN behind a place that a store has acknowledged, if there is any."""
    held = max(store.list_segments(), default=(0, 0))
    if held <= (end.segment_id, end.offset):
        return None
    commits, lsn = 0, end.lsn
    reader = SegmentReader(
        segment=_StoredSegment(store, end.segment_id), start=end, stop=None, durable_lsn=0
    )
    for frame in reader:
        commits += bool(frame.flags & _COMMIT_START)
        lsn = frame.lsn
    commits += bool(commits) and held[0] > end.segment_id
    return lsn if commits > REFUSED_COMMITS_MAX else None


class _StoredSegment:
    """A segment on a store, as bytes to be read. See `SegmentBytes`."""

    def __init__(self, store: ReplicaStore, segment_id: int) -> None:
        self._store = store
        self._segment_id = segment_id
        self._size = dict(store.list_segments()).get(segment_id, 0)
        self.path = Path(store.name, segment_name(segment_id))

    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        return self._store.read_segment(self._segment_id, offset, length)
