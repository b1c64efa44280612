"""Prometheus metrics: the endpoint, and all that is told there.

The endpoint and the merging over processes are prometheus-flask-exporter's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from dfs.telemetry.commits import CommitMetrics
from dfs.telemetry.disks import DiskGauges, collect_disks
from dfs.telemetry.ended import reading
from dfs.telemetry.files import MULTIPROCESS_VARIABLE, count_elsewhere, list_pids
from dfs.telemetry.lookup import AllLookups
from dfs.telemetry.node import NodeGauges, collect_node
from dfs.telemetry.processes import Processes, collect_processes, read_processes
from dfs.telemetry.queue import QueueGauges, collect_queue
from dfs.telemetry.requests import METRICS_PATH, RequestMetrics
from dfs.telemetry.stores import StoreCounters, StoreGauges, collect_stores
from dfs.telemetry.usage import UsageGauges, collect_usage


def _know_nothing() -> None:
    """Return that it is not known."""


def find_processes() -> Processes:
    """Return how the processes of this node are: those that share their counts, or only this."""
    directory = os.environ.get(MULTIPROCESS_VARIABLE)
    if directory is None:
        return Processes(read_processes((), own_pid=os.getpid()))
    seen = read_processes(list_pids(Path(directory)), own_pid=os.getpid())
    return Processes(seen, workers_elsewhere=count_elsewhere(Path(directory)))


@dataclass(frozen=True, slots=True)
class Readers:
    """What finds out, at a scrape, how things are; see `LookupCollector`."""

    node: Callable[[], NodeGauges | None] = _know_nothing
    stores: Callable[[], Sequence[StoreGauges] | None] = _know_nothing
    disks: Callable[[], DiskGauges | None] = _know_nothing
    usage: Callable[[], UsageGauges | None] = _know_nothing
    queue: Callable[[], QueueGauges | None] = _know_nothing
    processes: Callable[[], Processes | None] = find_processes

    def lookups(self) -> AllLookups:
        """Return what tells all of it."""
        return AllLookups(
            (
                collect_node(self.node),
                collect_stores(self.stores),
                collect_disks(self.disks),
                collect_usage(self.usage),
                collect_queue(self.queue),
                collect_processes(self.processes),
            )
        )


@dataclass(frozen=True, slots=True)
class Metrics:
    """What `install_metrics` made; the attributes besides `registry` are told what to count."""

    registry: CollectorRegistry
    commits: CommitMetrics
    stores: StoreCounters


class _SharedCounts(MultiProcessCollector):
    """Tells the sums of what processes have counted, of those that have ended, too."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        with reading(Path(self._path)):
            metrics: Iterable[Metric] = super().collect()  # type: ignore[no-untyped-call]
            return metrics


class _SharedMetrics(GunicornInternalPrometheusMetrics):  # type: ignore[misc] # it has no types
    """Tells what all processes have counted, and besides what one of them finds out for all.

    The inherited answer takes no metrics but those in the shared files.
    """

    def __init__(self, *, lookups: AllLookups, registry: CollectorRegistry) -> None:
        super().__init__(export_defaults=False, registry=registry)
        self._lookups = lookups

    def generate_metrics(
        self, accept_header: str | None = None, names: list[str] | None = None
    ) -> tuple[str, str]:
        """Return (text, its media type). All metrics are told, whatever names are asked for."""
        registry = CollectorRegistry()
        _SharedCounts(registry)  # type: ignore[no-untyped-call]
        registry.register(self._lookups)
        encode, content_type = choose_encoder(accept_header or "")
        return encode(registry).decode(), content_type


def install_metrics(
    app: Flask,
    *,
    readers: Readers = Readers(),
    stores: Sequence[str] = (),
    find_received: Callable[[Mapping[str, Any]], int] = lambda environ: 0,
) -> Metrics:
    """Serve `GET /metrics` and count the requests of `app`.

    Under Gunicorn the answer covers all worker processes: `gunicorn.conf.py` names their shared
    directory in PROMETHEUS_MULTIPROC_DIR. Elsewhere (tests, `flask run`) it covers this process.

    Args:
        stores: see `StoreCounters`. find_received: see `RequestMetrics`.
    """
    registry = CollectorRegistry()
    lookups = readers.lookups()
    if MULTIPROCESS_VARIABLE in os.environ:
        exporter = _SharedMetrics(lookups=lookups, registry=registry)
        exporter.path = METRICS_PATH
        exporter.init_app(app)
    else:
        registry.register(lookups)
        PrometheusMetrics(app, path=METRICS_PATH, export_defaults=False, registry=registry)
    RequestMetrics(registry=registry, find_received=find_received).install(app)
    return Metrics(
        registry=registry,
        commits=CommitMetrics(registry=registry),
        stores=StoreCounters(registry=registry, stores=stores),
    )
