"""A log that is older than it was: the disk of the primary was put back as it had been once.

Log, primary and index then fit each other, and only the replicas know better. They never have more
than one commit that the log lacks (a synchronous write that was refused, or cut short by a power
cut), since the next one begins when the log has the last. So more than that was acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dfs.core.errors import StorageError, WalCorruptError, WalGapError
from dfs.services.stores import ReplicaStore
from dfs.storage.local_store import LocalStore
from dfs.storage.names import segment_name
from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import SegmentReader

REFUSED_COMMITS_MAX = 1
_COMMIT_START = int(Flag.COMMIT_START)


def require_newest(log: WriteAheadLog, replicas: Iterable[ReplicaStore]) -> None:
    """Refuse a log that lacks commits which a replica has. Before this process writes anything.

    Asks directories only: what talks to object stores must not be used before a fork. One that
    does not answer is passed over.

    Raises:
        WalGapError: naming the replica; `durable_lsn` in its context is the last record there, to
            restore the log up to.
    """
    for store in replicas:
        if isinstance(store, LocalStore):
            try:
                _require_newer(log, store)
            except (StorageError, WalCorruptError):
                continue  # its jobs meet the same, and say so


def _require_newer(log: WriteAheadLog, store: LocalStore) -> None:
    while True:
        held = max(store.list_segments(), default=(0, 0))
        end = log.position  # asked after the store: what others have shipped since is no excess
        if held <= (end.segment_id, end.offset):
            return
        commits, lsn = _count_commits(store, end)
        commits += bool(commits) and held[0] > end.segment_id
        if commits <= REFUSED_COMMITS_MAX:
            return
        if log.position == end:
            break
    raise WalGapError(
        f"The log ends at LSN {end.lsn}, but {store.name} has acknowledged records up to {lsn}: "
        "the log is older than it was.",
        hint="A start restores it from the replicas. To go back to this log on purpose, move the "
        f"directories of the replicas aside, {store.path} first.",
        path=log.path,
        durable_lsn=lsn,
    )


def _count_commits(store: LocalStore, end: LogPosition) -> tuple[int, int]:
    """Return how many commits a store has behind a place, in that segment, and the last LSN."""
    commits, lsn = 0, end.lsn
    reader = SegmentReader(
        segment=_StoredSegment(store, end.segment_id), start=end, stop=None, durable_lsn=0
    )
    for frame in reader:
        commits += bool(frame.flags & _COMMIT_START)
        lsn = frame.lsn
    return commits, lsn


class _StoredSegment:
    """A segment on a store, as bytes to be read. See `SegmentBytes`."""

    def __init__(self, store: LocalStore, segment_id: int) -> None:
        self._store = store
        self._segment_id = segment_id
        self.path: Path = store.path / segment_name(segment_id)

    def size(self) -> int:
        return dict(self._store.list_segments()).get(self._segment_id, 0)

    def read(self, offset: int, length: int) -> bytes:
        return self._store.read_segment(self._segment_id, offset, length)
