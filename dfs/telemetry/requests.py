"""Metrics of the requests.

prometheus-flask-exporter's own hooks on every request cost about 60 us, as much as the rest of an
empty route, because they look labels up by name each time; so requests are counted here, under the
exporter's names and labels, with the labels looked up once for each (method, route, status).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from flask import Flask, Response
from flask.globals import request_ctx
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

METRICS_PATH = "/metrics"
SERIES_MAX = 400
"""Combinations of method, route and status that are counted apart; any further one is OTHER. Real
traffic has some fifty. With it no process outgrows its files, see `files.FILE_BYTES`."""

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_STARTED_KEY = "dfs.started"


@dataclass(frozen=True, slots=True)
class _Series:
    """What is counted of requests of one method, route and status."""

    duration: Histogram
    total: Counter
    received: Counter
    sent: Counter


class RequestMetrics:
    """Counts requests, their duration until the answer began, and their bytes.

    A request is in flight until its view has answered; one whose body is made while it is sent,
    until that has ended.

    Args:
        find_received: returns the bytes that were read of the body of a request, by its
            environment.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        find_received: Callable[[Mapping[str, Any]], int] = lambda environ: 0,
    ) -> None:
        self._find_received = find_received
        self._duration = Histogram(
            "flask_http_request_duration_seconds",
            "Seconds until the answer began",
            ("method", "url_rule", "status"),
            registry=registry,
        )
        self._total = Counter(
            "flask_http_request",
            "Requests answered",
            ("method", "url_rule", "status"),
            registry=registry,
        )
        self._received = Counter(
            "dfs_http_received_bytes",
            "Bytes that were read of the bodies of requests",
            ("method", "url_rule"),
            registry=registry,
        )
        self._sent = Counter(
            "dfs_http_sent_bytes",
            "Bytes of the bodies of answers; those that a proxy sends are not among them",
            ("method", "url_rule"),
            registry=registry,
        )
        self._in_flight = Gauge(
            "dfs_http_requests_in_flight",
            "Requests that were begun and not answered to their end, by process",
            ("url_rule",),
            registry=registry,
            multiprocess_mode="liveall",  # a number of each process, which ends with it
        )
        self._in_flight_of: dict[str, Gauge] = {}
        self._series_of: dict[tuple[str, str, int], _Series] = {}
        self._series: set[tuple[str, str, str]] = set()

    def install(self, app: Flask) -> None:
        """Count every request of `app` from now on, those for the metrics themselves excepted."""
        app.before_request(self._start)
        app.after_request(self._finish)

    def _start(self) -> None:
        request = request_ctx.request  # one look through the proxy instead of three
        rule = request.url_rule
        route = rule.rule if rule is not None else ""
        if route == METRICS_PATH:
            return
        in_flight = self._in_flight_of.get(route)
        if in_flight is None:
            in_flight = self._in_flight_of[route] = self._in_flight.labels(route)
        in_flight.inc()
        request.environ[_STARTED_KEY] = (perf_counter(), route, in_flight)

    def _finish(self, response: Response) -> Response:
        request = request_ctx.request
        environ = request.environ
        started = environ.get(_STARTED_KEY)
        if started is None:
            return response
        started_s, route, in_flight = started
        method, status = request.method, response.status_code
        series = self._series_of.get((method, route, status))
        if series is None:
            series = self._add_series(method, route, status)
        series.duration.observe(perf_counter() - started_s)
        series.total.inc()
        received = self._find_received(environ)
        if received:
            series.received.inc(received)
        body = response.response
        if method != "HEAD" and hasattr(body, "on_close"):
            body.on_close = partial(_end, series.sent, in_flight)
        else:
            _end(series.sent, in_flight, 0 if method == "HEAD" else _measure(response, body))
        return response

    def _add_series(self, method: str, route: str, status: int) -> _Series:
        known = method if method in _METHODS else "OTHER"
        labels = (known, route, str(status))
        if labels not in self._series and len(self._series) >= SERIES_MAX:
            labels = ("OTHER", "OTHER", "OTHER")
        self._series.add(labels)
        series = _Series(
            self._duration.labels(*labels),
            self._total.labels(*labels),
            self._received.labels(labels[0], labels[1]),
            self._sent.labels(labels[0], labels[1]),
        )
        if known == method:  # else a client could grow the cache without end
            self._series_of[(method, route, status)] = series
        return series


def _end(sent: Counter, in_flight: Gauge, sent_bytes: int) -> None:
    """Count an answer that has ended."""
    in_flight.dec()
    if sent_bytes:
        sent.inc(sent_bytes)


def _measure(response: Response, body: Any) -> int:
    """Return how long a body is; all of it is at hand, or in a file that is sent as it is."""
    if type(body) is list:
        return len(body[0]) if len(body) == 1 else sum(map(len, body))
    return response.content_length or 0
