"""Whether the node can do its work, and if not, why."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dfs.core.disk import LOOK_BYTES, LOOK_INODES, Disks, Space
from dfs.core.errors import DfsError, StoreUnavailableError
from dfs.db.session import IndexDatabase
from dfs.services.breaker import Breaker
from dfs.services.reports import StoreReport
from dfs.wal.log import WriteAheadLog

LAG_S_MAX = 15 * 60
"""A store that owes something for longer is not just busy."""
COMMIT_S_MAX = 30.0
"""A commit that takes longer than a quorum may take and this waits for something that hangs."""
FREE_BYTES_MIN = 1 << 20
"""Below this much room not even a delete is sure to find its own."""


class NodeHealth:
    """Asks each part of the node whether it works.

    Args:
        disks: those that the node cannot do without.
        paths: directories that it must be able to write to.
        ping_queue: raises DfsError if the queue does not answer.
        recall_stores: returns how the stores are; it may be some seconds old.
        find_commit_s: returns for how long the commit under way in this process has been so.
        quorum_s: seconds that a commit may wait for replicas.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexDatabase,
        disks: Disks,
        paths: tuple[Path, ...],
        ping_queue: Callable[[], None],
        recall_stores: Callable[[], Sequence[StoreReport]],
        find_commit_s: Callable[[], float],
        quorum_s: float,
    ) -> None:
        self._log = log
        self._index = index
        self._disks = disks
        self._paths = paths
        self._ping_queue = ping_queue
        self._recall_stores = recall_stores
        self._find_commit_s = find_commit_s
        self._quorum_s = quorum_s

    def reasons(self) -> dict[str, str | None]:
        """Return for each part why it does not work, or None if it does. Names no path.

        All but `room`, `queue` and `replicas` are needed to serve. Without room uploads are
        refused, all else works; without the other two background work is late, not lost.
        """
        return {
            "recovery": self._recovery(),
            "log": self._log.control.read_only_reason or self._stall(),
            "index": self._lag(),
            "disk": self._disk(),
            "room": self._room(),
            "queue": _reason(self._ping_queue),
            "replicas": self._stores(),
        }

    def spaces(self) -> dict[str, Space]:
        """Return what is left of the disks, see `Disks.look`; nothing if one is not there."""
        try:
            return self._disks.look()
        except StoreUnavailableError:
            return {}

    def _recovery(self) -> str | None:
        if self._log.control.position is None:
            return "the log has not been recovered yet"
        return None

    def _stall(self) -> str | None:
        commit_s = self._find_commit_s()
        if commit_s <= COMMIT_S_MAX + self._quorum_s:
            return None
        return (
            f"changes have waited for {commit_s:.0f} s: the disk of the log or of the index hangs, "
            "or a process that has the node's lock stands still"
        )

    def _lag(self) -> str | None:
        try:
            end = self._log.control.position  # first: the index is ahead of it, if anything
            applied_lsn = self._index.applied_lsn()
        except DfsError as error:
            return error.message
        if end is not None and applied_lsn < end.lsn:
            return f"the index lacks {end.lsn - applied_lsn} records; the next write adds them"
        return None

    def _stores(self) -> str | None:
        try:
            reports = self._recall_stores()
        except DfsError as error:
            return error.message
        faults: list[str] = []
        for report in reports:
            if report.breaker is not Breaker.CLOSED:
                faults.append(f"{report.name} is out of service")
            elif report.lag_s > LAG_S_MAX:
                faults.append(f"{report.name} is {report.lag_s:.0f} s behind")
        return "; ".join(faults) or None

    def _disk(self) -> str | None:
        try:
            spaces = self._disks.look()
        except StoreUnavailableError as error:
            return error.message
        if not all(os.access(path, os.W_OK) for path in self._paths):
            return "a directory of the node cannot be written"
        full = [name for name, space in spaces.items() if space.bytes < FREE_BYTES_MIN]
        return f"nothing is left of the disk of: {', '.join(full)}" if full else None

    def _room(self) -> str | None:
        scarce = [
            name
            for name, space in self.spaces().items()
            if space.bytes < self._disks.reserve_bytes + LOOK_BYTES
            or space.inodes < self._disks.reserve_inodes + LOOK_INODES
        ]
        return f"only the reserve is left of the disk of: {', '.join(scarce)}" if scarce else None


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except DfsError as error:
        return error.message
    return None
