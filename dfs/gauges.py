"""What a node tells of itself at a scrape: from the services to the values of the metrics."""

from __future__ import annotations

import platform
from collections.abc import Callable

import dfs
from dfs.api.health import OPTIONAL_PARTS
from dfs.core.errors import DfsError, QueueError
from dfs.node import Node
from dfs.services.breaker import Breaker
from dfs.services.recovery import Recovered
from dfs.services.reports import OwedKind, StoreReport
from dfs.telemetry.disks import DiskGauges
from dfs.telemetry.metrics import Readers
from dfs.telemetry.node import LogGauges, NodeGauges, StartGauges
from dfs.telemetry.queue import QueueGauges
from dfs.telemetry.stores import StoreGauges
from dfs.telemetry.usage import UsageGauges
from dfs.wal.control import LogPosition


def make_readers(find_node: Callable[[], Node]) -> Readers:
    """Return what finds out how a node is, which it opens if need be."""
    return Readers(
        node=lambda: _read_node(find_node()),
        stores=lambda: _read_stores(find_node()),
        disks=lambda: _read_disks(find_node()),
        usage=lambda: _read_usage(find_node()),
        queue=lambda: _read_queue(find_node()),
    )


def _read_node(node: Node) -> NodeGauges:
    """Return how the node is as a whole, be it that it cannot be opened."""
    build = {"version": dfs.__version__, "python": platform.python_version()}
    try:
        services = node.services
        reasons = services.health.reasons()
    except DfsError:
        return NodeGauges(build, is_ready=False, parts={"recovery": False})
    config = node.config
    position = services.log.control.position
    failing = {part for part, reason in reasons.items() if reason is not None}
    return NodeGauges(
        build,
        is_ready=failing <= OPTIONAL_PARTS,
        parts={part: reason is None for part, reason in reasons.items()},
        start=_describe_start(node.recovered or services.recovered),
        log=None if position is None else _describe_end(position),
        scrub_interval_s=config.scrub_interval_s if config.scrub_bytes_per_s else None,
    )


def _describe_end(end: LogPosition) -> LogGauges:
    return LogGauges(lsn=end.lsn, segment_id=end.segment_id, offset=end.offset)


def _describe_start(recovered: Recovered) -> StartGauges:
    return StartGauges(
        at_s=recovered.at_ms / 1000,
        recovery_s=recovered.duration_s,
        replayed=recovered.replayed,
    )


def _read_stores(node: Node) -> list[StoreGauges]:
    """Return how the stores are. Raises DfsError."""
    end = node.services.log.position
    return [
        StoreGauges(
            store=report.name,
            state=_find_state(report),
            lag_s=report.lag_s,
            lag_records=report.lag_records,
            owed={kind.value: (owed.count, owed.bytes) for kind, owed in report.owed.items()},
            failures=report.state.failures,
            scrub_read_bytes=report.scrub.state.bytes_read,
            scrub_damaged_last=report.scrub.state.last_damaged,
            lsn=(report.position or end).lsn,
            scrub_share=report.scrub.share,
            scrub_bytes_per_s=report.scrub.bytes_per_s,
            scrub_eta_s=report.scrub.eta_s,
            scrub_started_at_s=_find_seconds(report.scrub.state.started_at_ms),
            scrub_finished_at_s=_find_seconds(report.scrub.state.finished_at_ms),
        )
        for report in node.services.replicas.recall()
    ]


def _find_state(report: StoreReport) -> str:
    """Return the one of `telemetry.stores.STATES` that a store is."""
    if report.breaker is not Breaker.CLOSED:
        return "out"
    if report.position is not None and not report.state.store_id:
        return "new"
    owes = any(owed.count for kind, owed in report.owed.items() if kind is not OwedKind.REMOVAL)
    return "behind" if owes else "current"


def _find_seconds(at_ms: int | None) -> float | None:
    return None if at_ms is None else at_ms / 1000


def _read_disks(node: Node) -> DiskGauges:
    """Return what is left of the disks. Raises DfsError."""
    return DiskGauges(
        spaces=node.services.health.spaces(),
        reserve_bytes=node.config.reserve_bytes,
        reserve_inodes=node.config.reserve_inodes,
    )


def _read_usage(node: Node) -> UsageGauges:
    """Return what the node holds. Raises DfsError."""
    services = node.services
    report = services.usage.report()
    segments = report.segments
    return UsageGauges(
        files=report.files,
        blobs=report.blobs,
        segments={
            "active": (1, segments.active_bytes),
            "sealed": (segments.sealed, segments.sealed_bytes),
            "dropped": (segments.dropped, segments.dropped_bytes),
        },
        dead_bytes=report.dead_bytes,
        index_bytes=services.index.size_bytes(),
        index_lsn=services.index.applied_lsn(),
    )


def _read_queue(node: Node) -> QueueGauges | None:
    """Return how the queue is; None if there is none. Raises DfsError."""
    if node.config.redis_url is None:
        return None
    try:
        return QueueGauges(node.services.queue.count_jobs())
    except QueueError:
        return QueueGauges(None)
