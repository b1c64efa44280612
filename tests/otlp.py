"""A collector of spans for tests: an HTTP server that decodes what OTLP brings."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class TakenSpan:
    """A span as the collector has got it. Ids are in hex; a root has no parent."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    resource: dict[str, Any]
    events: tuple[dict[str, Any], ...]
    is_error: bool
    error: str
    started_ns: int
    ended_ns: int


class Collector:
    """Takes spans.

    Attributes:
        url: for OTEL_EXPORTER_OTLP_ENDPOINT.
        spans: that have come. requests: exports that have begun to.
        answer: (status, body) of each export; None: as it should be.
        is_hanging: exports are not answered while it is set.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.spans: list[TakenSpan] = []
        self.requests = 0
        self.answer: tuple[int, bytes] | None = None
        self.is_hanging = threading.Event()
        self.released = threading.Event()
        self._changed = threading.Condition()

    def take(self, body: bytes) -> tuple[int, bytes]:
        """Take an export; return (status, body) of the answer."""
        spans = [] if self.answer else list(_decode(body))
        with self._changed:
            self.requests += 1
            self.spans += spans
            self._changed.notify_all()
        if self.is_hanging.is_set():
            self.released.wait(WAIT_S)
        return self.answer or (200, ExportTraceServiceResponse().SerializeToString())

    def wait_for(self, is_true: Callable[[list[TakenSpan]], object]) -> list[TakenSpan]:
        """Return the spans as soon as something is true of them."""
        with self._changed:
            if not self._changed.wait_for(lambda: is_true(self.spans), timeout=WAIT_S):
                names = sorted({span.name for span in self.spans})
                raise AssertionError(f"it never came true; there are {names}")
            return list(self.spans)

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many exports have begun."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests >= count, timeout=WAIT_S)

    def named(self, *names: str) -> list[TakenSpan]:
        """Return one span of each of these names, as soon as all are here."""
        spans = self.wait_for(lambda spans: set(names) <= {span.name for span in spans})
        return [next(span for span in spans if span.name == name) for name in names]


@contextmanager
def running_collector() -> Iterator[Collector]:
    """Run a collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            status, answer = collector.take(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Say nothing: clients that have gone are what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        collector = Collector(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            collector.released.set()
            server.shutdown()
            thread.join()


def _decode(body: bytes) -> Iterator[TakenSpan]:
    for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
        resource = _plain(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield TakenSpan(
                    name=span.name,
                    kind=span.kind,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    attributes=_plain(span.attributes),
                    links=tuple(link.span_id.hex() for link in span.links),
                    resource=resource,
                    events=tuple(_plain(event.attributes) for event in span.events),
                    is_error=span.status.code == 2,
                    error=span.status.message,
                    started_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                )


def _plain(attributes: Any) -> dict[str, Any]:
    values: list[KeyValue] = list(attributes)
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value") or "string_value")
        for item in values
    }
