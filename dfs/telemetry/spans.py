"""The spans of dfs's own, see `dfs.core.tracing`, as OpenTelemetry records them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dfs.core.tracing import Attribute

_KINDS = {"enqueue": SpanKind.PRODUCER, "job": SpanKind.CONSUMER}
"""By the first word of the name; any other is INTERNAL."""
_PROPAGATOR = TraceContextTextMapPropagator()


class RecordedSpan:
    """A span that is recorded."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def note(self, **attributes: Attribute) -> None:
        """See `dfs.core.tracing.Span`."""
        self._span.set_attributes(named(attributes))


class RecordedSpans:
    """See `dfs.core.tracing.Spans`."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def here(self) -> object | None:
        """See `Spans`."""
        span = get_current_span()
        return span if span.get_span_context().is_valid else None

    def carry(self) -> str | None:
        """See `Spans`."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent")

    @contextmanager
    def span(
        self,
        name: str,
        *,
        origins: Sequence[object] | None = None,
        carried: str | None = None,
        **attributes: Attribute,
    ) -> Iterator[RecordedSpan]:
        """See `Spans`."""
        parent: Context | None = None
        others: list[Span] = []
        if carried is not None:
            parent = _PROPAGATOR.extract({"traceparent": carried}, Context())
        elif origins is not None:
            parent, others = _settle_parent(cast("Sequence[Span]", origins))
        with self._tracer.start_as_current_span(
            name,
            context=parent,
            kind=_KINDS.get(name.partition(" ")[0], SpanKind.INTERNAL),
            attributes=named(attributes),
            links=[Link(other.get_span_context()) for other in others],
        ) as span:
            for other in others:
                other.add_link(span.get_span_context())
            yield RecordedSpan(span)


def named(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    """Return attributes under the names that they have outside."""
    return {f"dfs.{name}": value for name, value in attributes.items()}


def _settle_parent(origins: Sequence[Span]) -> tuple[Context, list[Span]]:
    """Return the context of the first origin, rather of one that is recorded; and the others."""
    parent = next((span for span in origins if span.is_recording()), next(iter(origins), None))
    if parent is None:
        return Context(), []
    return set_span_in_context(parent, Context()), [span for span in origins if span is not parent]
