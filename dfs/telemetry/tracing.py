"""Tracing, which is off unless the standard variables of OpenTelemetry ask for it.

Nothing of OpenTelemetry is imported by a process that records no spans: `recording` has all of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from dfs.core.tracing import NO_SPANS, Spans

if TYPE_CHECKING:
    from flask import Flask

PROTOCOL = "http/protobuf"


class Tracing:
    """What records spans, of which this one records none.

    Attributes:
        spans: told of pieces of work.
    """

    spans: Spans = NO_SPANS

    def watch_app(self, app: Flask) -> None:
        """Have spans of the requests of `app`. Before any other hook of it is installed."""

    def watch_store(self, store: object) -> None:
        """Have spans of what is done with a store."""

    def close(self) -> None:
        """Send what is recorded, within a bounded time, and record no more. May be repeated."""


def open_tracing(*, node_id: str, database_url: str) -> Tracing:
    """Return what records the spans of this process. After the fork, since it has a thread.

    It never fails: what cannot be recorded is not, and the log says why.
    """
    if not is_wanted(os.environ):
        return Tracing()
    try:
        from dfs.telemetry.recording import open_recording  # noqa: PLC0415

        uses_postgres = database_url.startswith("postgresql:")
        return open_recording(node_id=node_id, uses_postgres=uses_postgres)
    except Exception as error:  # whatever is wrong with one of its variables
        structlog.get_logger().error("tracing_not_started", exc_info=error)
        return Tracing()


def load_tracing() -> None:
    """Import what records spans, if it is wanted: before a fork, it costs each process less.

    It never fails; whoever opens it says why it cannot.
    """
    if is_wanted(os.environ):
        with suppress(Exception):  # a variable is senseless
            import dfs.telemetry.recording  # noqa: F401, PLC0415


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether spans are to be recorded. The log says so if they are, and cannot be."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporters = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not exporters:
        names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        exporters = "otlp" if any(environ.get(name, "").strip() for name in names) else "none"
    if exporters == "none":
        return False
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "").strip()
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip()
        or PROTOCOL
    )
    if exporters != "otlp" or protocol != PROTOCOL:
        structlog.get_logger().warning(
            "tracing_not_possible",
            exporter=exporters,
            protocol=protocol,
            hint=f"dfs sends spans by otlp over {PROTOCOL} only.",
        )
        return False
    return True
