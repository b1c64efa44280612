"""Metrics of the node as a whole: whether it serves, where its log ends, how it started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dfs.telemetry.lookup import Lookup, LookupCollector, single


@dataclass(frozen=True, slots=True)
class StartGauges:
    """The last start of the node.

    Attributes:
        at_s: Unix time at which it was recovered.
        recovery_s: that this took.
        replayed: records of the log that the index lacked.
    """

    at_s: float
    recovery_s: float
    replayed: int


@dataclass(frozen=True, slots=True)
class LogGauges:
    """Where the log ends: all up to there is durable."""

    lsn: int
    segment_id: int
    offset: int


@dataclass(frozen=True, slots=True)
class NodeGauges:
    """How the node is.

    Attributes:
        build: name -> value of what distinguishes this program.
        parts: name -> whether it works.
        start, log: None if they are not known.
        scrub_interval_s: None if no store is ever scrubbed.
    """

    build: Mapping[str, str]
    is_ready: bool
    parts: Mapping[str, bool]
    start: StartGauges | None = None
    log: LogGauges | None = None
    scrub_interval_s: float | None = None


BUILD_LABELS = ("version", "python")


def _of_start(name: str, text: str, find: Callable[[StartGauges], float]) -> Lookup[NodeGauges]:
    return single(name, text, lambda node: None if node.start is None else find(node.start))


def _of_log(name: str, text: str, find: Callable[[LogGauges], float]) -> Lookup[NodeGauges]:
    return single(name, text, lambda node: None if node.log is None else find(node.log))


_METRICS: tuple[Lookup[NodeGauges], ...] = (
    Lookup(
        "dfs_build_info",
        "1; which program this is, and which Python runs it",
        BUILD_LABELS,
        lambda node: {tuple(node.build[label] for label in BUILD_LABELS): 1.0},
    ),
    single("dfs_ready", "1 while the node serves, see /ready", lambda node: node.is_ready),
    Lookup(
        "dfs_part_up",
        "1 while that part of the node works, see /ready",
        ("part",),
        lambda node: {(part,): float(works) for part, works in node.parts.items()},
    ),
    _of_start(
        "dfs_start_time_seconds",
        "Unix time at which the node was recovered at its last start",
        lambda start: start.at_s,
    ),
    _of_start(
        "dfs_recovery_seconds",
        "Seconds that the recovery took at the last start",
        lambda start: start.recovery_s,
    ),
    _of_start(
        "dfs_recovery_replayed_records",
        "Records of the log that the index lacked at the last start",
        lambda start: start.replayed,
    ),
    _of_log(
        "dfs_log_durable_lsn",
        "LSN of the last record of the log; it and all before it are durable",
        lambda log: log.lsn,
    ),
    _of_log(
        "dfs_log_active_segment",
        "Number of the segment that is written to",
        lambda log: log.segment_id,
    ),
    _of_log(
        "dfs_log_active_segment_bytes",
        "Bytes of the segment that is written to, up to the end of its last record",
        lambda log: log.offset,
    ),
    single(
        "dfs_scrub_interval_seconds",
        "Seconds from the beginning of one scrub of a store to that of the next, as it is set",
        lambda node: node.scrub_interval_s,
    ),
)


def collect_node(read: Callable[[], NodeGauges | None]) -> LookupCollector[NodeGauges]:
    """Return what tells how the node is."""
    return LookupCollector(read, _METRICS, name="node")
