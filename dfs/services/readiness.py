"""Whether the node can do its work, and if not, why."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dfs.core.durable import storage_error
from dfs.core.errors import DfsError
from dfs.db.session import IndexDatabase
from dfs.services.breaker import Breaker
from dfs.services.reports import StoreReport
from dfs.wal.log import WriteAheadLog

LAG_S_MAX = 15 * 60
"""A store that owes something for longer is not just busy."""
FREE_BYTES_MIN = 16 << 20
"""Below this much room the next rotation of the log may fail."""


class NodeHealth:
    """Asks each part of the node whether it works.

    Args:
        paths: directories on the disks that the node writes to.
        ping_queue: raises DfsError if the queue does not answer.
        recall_stores: returns how the stores are; it may be some seconds old.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexDatabase,
        paths: tuple[Path, ...],
        ping_queue: Callable[[], None],
        recall_stores: Callable[[], Sequence[StoreReport]],
    ) -> None:
        self._log = log
        self._index = index
        self._paths = paths
        self._ping_queue = ping_queue
        self._recall_stores = recall_stores

    def reasons(self) -> dict[str, str | None]:
        """Return for each part why it does not work, or None if it does. Names no path.

        All but `queue` and `replicas` are needed to serve: without them background work is late,
        not lost.
        """
        return {
            "recovery": self._recovery(),
            "log": self._log.control.read_only_reason,
            "index": self._lag(),
            "disk": self._disk(),
            "queue": _reason(self._ping_queue),
            "replicas": self._stores(),
        }

    def _recovery(self) -> str | None:
        if self._log.control.position is None:
            return "the log has not been recovered yet"
        return None

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
        for path in self._paths:
            try:
                status = os.statvfs(path)
            except OSError as error:
                return storage_error(error, path=path).message
            if not os.access(path, os.W_OK):
                return "a directory of the node cannot be written"
            free_bytes = status.f_bavail * status.f_frsize
            if free_bytes < FREE_BYTES_MIN:
                return f"only {free_bytes} bytes are free"
        return None


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except DfsError as error:
        return error.message
    return None
