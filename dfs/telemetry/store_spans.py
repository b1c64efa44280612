"""Spans of what is done with a store.

As the instrumentations of libraries do, this replaces methods of the object that is watched: an
object in front of it would have to be whatever a store can be, and asks for `isinstance`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from opentelemetry.trace import Span, SpanKind, Tracer

OPERATIONS = {
    "publish": "publish",
    "confirm": "confirm",
    "remove": "remove",
    "quarantine_blob": "quarantine",
    "append_segment": "append",
    "read_segment": "read",
    "put_segment": "write",
    "seal_segment": "seal",
}
"""Method of a store -> the second word of the span."""


def watch_store(store: Any, tracer: Tracer) -> None:
    """Have spans of what is done with a store, if they belong to another one."""
    attributes = {"dfs.store": store.name}
    for method, operation in OPERATIONS.items():
        call = getattr(store, method, None)
        if call is not None:
            name = f"store.{operation}"
            setattr(store, method, _watched(call, tracer, name, {**attributes, "dfs.call": method}))
    store.stage = _watched_stage(store.stage, tracer, attributes)
    store.open = _watched_open(store.open, tracer, attributes)


def _watched(
    call: Callable[..., Any], tracer: Tracer, name: str, attributes: dict[str, str]
) -> Callable[..., Any]:
    @wraps(call)
    def run(*args: Any, **kwargs: Any) -> Any:
        with tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes):
            return call(*args, **kwargs)

    return run


def _watched_stage(
    stage: Callable[[], Any], tracer: Tracer, attributes: dict[str, str]
) -> Callable[[], Any]:
    """Have a span from the first byte of an upload until it is durable, or given up."""

    @wraps(stage)
    def run() -> Any:
        staged = stage()
        span = tracer.start_span("store.write", kind=SpanKind.CLIENT, attributes=attributes)
        if span.is_recording():
            ending = _Ending(span)
            staged.write = ending.counting(staged.write, lambda result, data: len(data))
            staged.seal = ending.after(staged.seal)
            staged.discard = ending.after(staged.discard)
        return staged

    return run


def _watched_open(
    open_blob: Callable[..., Any], tracer: Tracer, attributes: dict[str, str]
) -> Callable[..., Any]:
    """Have a span as long as a blob is open."""

    @wraps(open_blob)
    def run(digest: bytes) -> Any:
        span = tracer.start_span("store.read", kind=SpanKind.CLIENT, attributes=attributes)
        ending = _Ending(span)
        try:
            reader = open_blob(digest)
        except BaseException as error:
            span.record_exception(error)
            ending.end()
            raise
        if span.is_recording():
            reader.read = ending.counting(reader.read, lambda result, *_: len(result))
            reader.close = ending.after(reader.close)
        return reader

    return run


class _Ending:
    """Ends a span once, and says how many bytes went by."""

    def __init__(self, span: Span) -> None:
        self._span: Span | None = span
        self._bytes = 0

    def counting(self, call: Callable[..., Any], measure: Callable[..., int]) -> Callable[..., Any]:
        """Return the same function, of which each call adds to the bytes."""

        def run(*args: Any) -> Any:
            result = call(*args)
            self._bytes += measure(result, *args)
            return result

        return run

    def after(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the same function, with which the span ends."""

        def run(*args: Any) -> Any:
            try:
                return call(*args)
            finally:
                self.end()

        return run

    def end(self) -> None:
        """End the span."""
        span, self._span = self._span, None
        if span is not None:
            span.set_attribute("dfs.bytes", self._bytes)
            span.end()
