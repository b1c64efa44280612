"""Prometheus metrics: the endpoint, the requests, the commits; the stores are in `stores`.

The endpoint and the merging over processes are prometheus-flask-exporter's. Its own hooks on every
request cost about 60 us, as much as the rest of an empty route, because they look labels up by name
each time; so requests are counted here, under the exporter's names and labels, with the labels
looked up once for each (method, route, status): about 15 us.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from flask import Flask, Response, request
from flask.globals import request_ctx
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from dfs.telemetry.disks import DiskGauges, collect_disks
from dfs.telemetry.files import MULTIPROCESS_VARIABLE
from dfs.telemetry.stores import StoreCounters, StoreGauges, collect_stores
from dfs.telemetry.usage import UsageGauges, collect_usage

METRICS_PATH = "/metrics"
SERIES_MAX = 400
"""Combinations of method, route and status that are counted apart; any further one is OTHER. Real
traffic has some fifty. With it no process outgrows its files, see `files.FILE_BYTES`."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SYNC_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5)


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
            buckets=_SYNC_BUCKETS,
            registry=registry,
        )

    def observe_commit(self, changes: int, syncs: int, bytes: int, sync_s: float) -> None:
        """Count one commit.

        Args:
            changes: changes in it.
            syncs: calls of fdatasync on the log.
            bytes: bytes appended to the log.
            sync_s: seconds spent in those syncs.
        """
        self._changes.observe(changes)
        self._syncs.inc(syncs)
        self._bytes.inc(bytes)
        self._sync_seconds.observe(sync_s)


class RequestMetrics:
    """Counts requests and their duration until the answer began, by method, route and status."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "flask_http_request_duration_seconds",
            "Seconds until the answer began",
            ("method", "url_rule", "status"),
            registry=registry,
        )
        self._total = Counter(
            "flask_http_request", "Requests answered", ("method", "status"), registry=registry
        )
        self._children: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}
        self._series: set[tuple[str, str, str]] = set()

    def install(self, app: Flask) -> None:
        """Count every request of `app` from now on, those for the metrics themselves excepted."""
        app.before_request(self._start)
        app.after_request(self._finish)

    def _start(self) -> None:
        request.environ["dfs.started_s"] = perf_counter()

    def _finish(self, response: Response) -> Response:
        current = request_ctx.request  # one look through the proxy instead of three
        started_s = current.environ.get("dfs.started_s")
        rule = current.url_rule
        route = rule.rule if rule is not None else ""
        if started_s is not None and route != METRICS_PATH:
            method, status = current.method, response.status_code
            children = self._children.get((method, route, status))
            if children is None:
                children = self._add_children(method, route, status)
            children[0].observe(perf_counter() - started_s)
            children[1].inc()
        return response

    def _add_children(self, method: str, route: str, status: int) -> tuple[Histogram, Counter]:
        known = method if method in _METHODS else "OTHER"
        series = (known, route, str(status))
        if series not in self._series and len(self._series) >= SERIES_MAX:
            series = ("OTHER", "OTHER", "OTHER")
        self._series.add(series)
        children = (self._duration.labels(*series), self._total.labels(series[0], series[2]))
        if known == method:  # else a client could grow the cache without end
            self._children[(method, route, status)] = children
        return children


@dataclass(frozen=True, slots=True)
class Metrics:
    """What `install_metrics` made; the attributes besides `registry` are told what to count."""

    registry: CollectorRegistry
    commits: CommitMetrics
    stores: StoreCounters


class _SharedMetrics(GunicornInternalPrometheusMetrics):  # type: ignore[misc] # it has no types
    """Tells what all processes have counted, and besides what one of them finds out for all.

    The inherited answer takes no metrics but those in the shared files.
    """

    def __init__(self, *, collectors: Sequence[Collector], registry: CollectorRegistry) -> None:
        super().__init__(export_defaults=False, registry=registry)
        self._collectors = collectors

    def generate_metrics(
        self, accept_header: str | None = None, names: list[str] | None = None
    ) -> tuple[str, str]:
        """Return (text, its media type). All metrics are told, whatever names are asked for."""
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        for collector in self._collectors:
            registry.register(collector)
        encode, content_type = choose_encoder(accept_header or "")
        return encode(registry).decode(), content_type


def install_metrics(
    app: Flask,
    *,
    read_stores: Callable[[], Sequence[StoreGauges]] = tuple,
    read_disks: Callable[[], DiskGauges] = DiskGauges,
    read_usage: Callable[[], UsageGauges | None] = lambda: None,
) -> Metrics:
    """Serve `GET /metrics` and count the requests of `app`.

    Under Gunicorn the answer covers all worker processes: `gunicorn.conf.py` names their shared
    directory in PROMETHEUS_MULTIPROC_DIR. Elsewhere (tests, `flask run`) it covers this process.

    Args:
        read_stores, read_disks, read_usage: see `LookupCollector`.
    """
    registry = CollectorRegistry()
    collectors: tuple[Collector, ...] = (
        collect_stores(read_stores),
        collect_disks(read_disks),
        collect_usage(read_usage),
    )
    if MULTIPROCESS_VARIABLE in os.environ:
        exporter = _SharedMetrics(collectors=collectors, registry=registry)
        exporter.path = METRICS_PATH
        exporter.init_app(app)
    else:
        for collector in collectors:
            registry.register(collector)
        PrometheusMetrics(app, path=METRICS_PATH, export_defaults=False, registry=registry)
    RequestMetrics(registry=registry).install(app)
    return Metrics(
        registry=registry,
        commits=CommitMetrics(registry=registry),
        stores=StoreCounters(registry=registry),
    )
