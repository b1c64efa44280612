"""Prometheus metrics: the endpoint, the requests, the commits.

The endpoint and the merging over processes are prometheus-flask-exporter's. Its own hooks on every
request cost about 60 us, as much as the rest of an empty route, because they look labels up by name
each time; so requests are counted here, under the exporter's names and labels, with the labels
looked up once for each (method, route, status): about 15 us.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import structlog
from flask import Flask, Response, request
from flask.globals import request_ctx
from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
METRICS_PATH = "/metrics"
SERIES_MAX = 400
"""Combinations of method, route and status that are counted apart; any further one is OTHER. Real
traffic has some fifty. It bounds the files below."""
FILE_BYTES = {"counter": 1 << 18, "histogram": 1 << 22}
"""Size of a process's file for each kind of metric: more than SERIES_MAX combinations can fill."""

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
    """What `install_metrics` made. `commits` is the hook for the commit path."""

    registry: CollectorRegistry
    commits: CommitMetrics


def reserve_metrics_files() -> bool:
    """Give the files that this process will count in their room on disk, before any metric exists.

    prometheus_client maps sparse files into memory; on a full disk the first touch of a new page
    would kill the process with SIGBUS. It takes a file that has a size as it is, so these are made
    whole beforehand. Where that fails, this process counts in its own memory, and its `/metrics`
    covers it alone.

    Returns:
        Whether the files are there.
    """
    directory = Path(os.environ[MULTIPROCESS_VARIABLE])
    paths = {kind: directory / f"{kind}_{os.getpid()}.db" for kind in FILE_BYTES}
    try:
        for kind, path in paths.items():
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, FILE_BYTES[kind])
    except OSError as error:
        structlog.get_logger().warning("metrics_not_shared", error=str(error))
        for path in paths.values():  # the other processes could not read half a file
            with suppress(OSError):
                path.unlink()
        del os.environ[MULTIPROCESS_VARIABLE]
        values.ValueClass = values.MutexValue  # it chose at its import, which was before the fork
        return False
    return True


def install_metrics(app: Flask) -> Metrics:
    """Serve `GET /metrics` and count the requests of `app`.

    Under Gunicorn the answer covers all worker processes: `gunicorn.conf.py` names their shared
    directory in PROMETHEUS_MULTIPROC_DIR. Elsewhere (tests, `flask run`) it covers this process.
    """
    registry = CollectorRegistry()
    if MULTIPROCESS_VARIABLE in os.environ:
        exporter = GunicornInternalPrometheusMetrics(export_defaults=False, registry=registry)
        exporter.path = METRICS_PATH
        exporter.init_app(app)
    else:
        PrometheusMetrics(app, path=METRICS_PATH, export_defaults=False, registry=registry)
    RequestMetrics(registry=registry).install(app)
    return Metrics(registry=registry, commits=CommitMetrics(registry=registry))
