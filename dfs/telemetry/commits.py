"""Metrics of the group commits."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SECONDS_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)


class CommitMetrics:
    """Counts what the commit path did.

    The count of `dfs_commit_changes` is the number of commits, its sum the number of changes.
    """

    def __init__(self, *, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._changes = Histogram(
            "dfs_commit_changes",
            "Changes that shared one commit",
            buckets=_BATCH_BUCKETS,
            registry=registry,
        )
        self._syncs = Counter(
            "dfs_commit_syncs", "Syncs of the log made by commits", registry=registry
        )
        self._bytes = Counter(
            "dfs_commit_bytes", "Bytes appended to the log by commits", registry=registry
        )
        self._sync_seconds = Histogram(
            "dfs_commit_sync_seconds",
            "Seconds that the syncs of one commit took",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._lock_wait_seconds = Histogram(
            "dfs_commit_lock_wait_seconds",
            "Seconds that a commit waited for the lock of the node, which one at a time has",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._locked_seconds = Histogram(
            "dfs_commit_locked_seconds",
            "Seconds that a commit had the lock of the node: plan, append, sync, index",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )

    def observe_commit(
        self,
        changes: int,
        syncs: int,
        bytes: int,
        sync_s: float,
        *,
        lock_wait_s: float,
        locked_s: float,
    ) -> None:
        """Count one commit.

        Args:
            changes: changes in it.
            syncs: calls of fdatasync on the log.
            bytes: bytes appended to the log.
            sync_s: seconds spent in those syncs.
            lock_wait_s: seconds until it had the lock of the node. locked_s: that it had it.
        """
        self._changes.observe(changes)
        self._syncs.inc(syncs)
        self._bytes.inc(bytes)
        self._sync_seconds.observe(sync_s)
        self._lock_wait_seconds.observe(lock_wait_s)
        self._locked_seconds.observe(locked_s)
