"""Structured logs: a constant event name and fields, one JSON object a line.

Levels: error = data or a request lost by our fault; warning = may heal; info = rare; debug = per
operation. Contents of files and credentials are never logged.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging(debug: bool) -> None:
    """Send the logs of this process to stderr: JSON, or readable text when `debug`."""
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if debug
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
