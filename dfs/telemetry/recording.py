"""Recording of spans by OpenTelemetry, and what sends them. Only `tracing` imports this module."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    SpanKind,
    Status,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.util.types import Attributes, AttributeValue

import dfs
from dfs.core.logging import hide_credentials
from dfs.core.tracing import TRACE_ID_KEY
from dfs.telemetry.spans import RecordedSpans
from dfs.telemetry.store_spans import watch_store
from dfs.telemetry.tracing import Tracing

if TYPE_CHECKING:
    from flask import Flask

CLOSE_S = 2.0
"""How long the end of a process waits for a collector that takes its time."""
UNTRACED = frozenset(
    f"{method} /{name}" for method in ("GET", "HEAD") for name in ("health", "ready", "metrics")
)
"""Spans of requests that come every few seconds and tell nothing."""
_HEADERS = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_"
PATTERNS = (
    "OTEL_PYTHON_EXCLUDED_URLS",
    "OTEL_PYTHON_FLASK_EXCLUDED_URLS",
    *(f"{_HEADERS}{what}" for what in ("SERVER_REQUEST", "SERVER_RESPONSE", "SANITIZE_FIELDS")),
)
"""Variables that hold regular expressions; some are looked at not before a request."""
_SECRETIVE = {"http.target": "?", "http.url": "?", "url.full": "?", "url.query": ""}
"""Attributes that may hold a query, and from where on."""


class MeaningfulSampler(Sampler):
    """Samples as another one does, but for spans that are worth nothing.

    A command to Redis, a statement of SQL or a read of a store that belongs to no request and no
    work is one of those that a process makes all the time: it looks for jobs, say.
    """

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> SamplingResult:
        """See `Sampler`."""
        is_root = not get_current_span(parent_context).get_span_context().is_valid
        if (is_root and kind is SpanKind.CLIENT) or name in UNTRACED:
            return SamplingResult(Decision.DROP)
        return self._inner.should_sample(parent_context, trace_id, name, kind, *args, **kwargs)

    def get_description(self) -> str:
        """See `Sampler`."""
        return f"MeaningfulSampler({self._inner.get_description()})"


class CarefulExporter(SpanExporter):
    """Exports by another one, without what stands in the query of a request, and credentials.

    The log tells the begin and the end of an outage, nothing else.
    """

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._is_failing = False
        self._is_closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See `SpanExporter`."""
        try:
            result = self._inner.export(list(map(_without_secrets, spans)))
            reason = "The collector does not take them."
        except Exception as error:  # whatever it met: this thread must go on
            result, reason = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"[:200]
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing and not self._is_failing and not self._is_closed:
            structlog.get_logger().warning("spans_not_sent", reason=reason)
        elif self._is_failing and not is_failing:
            structlog.get_logger().info("spans_sent_again")
        self._is_failing = is_failing
        return result

    def shutdown(self) -> None:
        """Break off what is under way. May be repeated."""
        if not self._is_closed:
            self._is_closed = True
            self._inner.shutdown()


class Recording(Tracing):
    """What records the spans of this process.

    Args:
        provider, exporter: not used by anybody else.
    """

    def __init__(self, provider: TracerProvider, exporter: SpanExporter) -> None:
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer("dfs", dfs.__version__)
        self.spans = RecordedSpans(self._tracer)
        self._uninstruments: list[Callable[[], None]] = []

    def watch_app(self, app: Flask) -> None:
        """See `Tracing`."""
        from opentelemetry.instrumentation.flask import FlaskInstrumentor  # noqa: PLC0415

        FlaskInstrumentor().instrument_app(
            app,
            tracer_provider=self._provider,
            request_hook=_note_trace_id,
            enable_commenter=False,
        )

    def watch_store(self, store: object) -> None:
        """See `Tracing`."""
        watch_store(store, self._tracer)

    def watch_libraries(self, *, uses_postgres: bool) -> None:
        """Have spans of what is asked of Redis and PostgreSQL, if a span is under way."""
        instrumentors = [RedisInstrumentor()]
        if uses_postgres:
            from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor  # noqa: PLC0415

            instrumentors.append(PsycopgInstrumentor())
        for instrumentor in instrumentors:
            instrumentor.instrument(tracer_provider=self._provider)
            self._uninstruments.append(instrumentor.uninstrument)

    def close(self) -> None:
        """See `Tracing`."""
        while self._uninstruments:
            self._uninstruments.pop()()
        _forget_trace_ids()
        # Its own limit is longer than anybody waits for the end of a process.
        closing = threading.Thread(
            target=self._provider.shutdown, name="spans-closing", daemon=True
        )
        closing.start()
        closing.join(CLOSE_S)
        self._exporter.shutdown()


def open_recording(*, node_id: str, uses_postgres: bool) -> Recording:
    """Begin to record spans, and to send them where the standard variables say.

    Raises:
        Exception: a variable has a value that OpenTelemetry does not take.
    """
    for name in PATTERNS:
        re.compile("|".join(os.environ.get(name, "").split(",")))
    # What it has to say of a collector that is away, it says for each batch; see CarefulExporter.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    resource = Resource(
        {
            "service.name": "dfs",
            "service.version": dfs.__version__,
            "service.instance.id": node_id,
        }
    ).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.sampler = MeaningfulSampler(provider.sampler)
    exporter = CarefulExporter(OTLPSpanExporter())
    provider.add_span_processor(BatchSpanProcessor(exporter))
    recording = Recording(provider, exporter)
    recording.watch_libraries(uses_postgres=uses_postgres)
    structlog.configure(processors=[_tell_trace, *structlog.get_config()["processors"]])
    return recording


def _without_secrets(span: ReadableSpan) -> ReadableSpan:
    """Return a span without queries, in which names of files stand, and without credentials."""
    attributes = _clean(span.attributes)
    events = [Event(event.name, _clean(event.attributes), event.timestamp) for event in span.events]
    if attributes == span.attributes and not events:
        return span
    status = span.status
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=events,
        links=span.links,
        kind=span.kind,
        instrumentation_scope=span.instrumentation_scope,
        status=Status(
            status.status_code, status.description and hide_credentials(status.description)
        ),
        start_time=span.start_time,
        end_time=span.end_time,
    )


def _clean(attributes: Attributes) -> dict[str, AttributeValue]:
    cleaned = {
        name: hide_credentials(value) if isinstance(value, str) else value
        for name, value in (attributes or {}).items()
    }
    for name, begin in _SECRETIVE.items():
        value = cleaned.get(name)
        if isinstance(value, str):
            cleaned[name] = value.partition(begin)[0] if begin else ""
    return cleaned


def _note_trace_id(span: Any, environ: dict[str, Any]) -> None:
    """Let the answer and the access log know the trace of a request."""
    environ[TRACE_ID_KEY] = format_trace_id(span.get_span_context().trace_id)


def _tell_trace(
    _: object, __: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Put the span that a line of the log belongs to into it."""
    context = get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format_trace_id(context.trace_id)
        event["span_id"] = format_span_id(context.span_id)
    return event


def _forget_trace_ids() -> None:
    processors = structlog.get_config()["processors"]
    structlog.configure(processors=[item for item in processors if item is not _tell_trace])
