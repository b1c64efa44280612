"""Structured logs: a constant event name and fields, one JSON object a line.

Levels: error = data or a request lost by our fault; warning = may heal; info = rare; debug = per
operation. Contents of files and credentials are never logged.
"""

from __future__ import annotations

import logging
import sys

import structlog

_SHARED_PROCESSORS: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


def configure_logging(debug: bool, *, level: int = logging.INFO) -> None:
    """Send the logs of this process to stderr: JSON, or readable text when `debug`.

    Args:
        level: the lowest that is told, unless `debug`, with which all are.
    """
    structlog.configure(
        processors=[*_SHARED_PROCESSORS, _renderer(debug)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )


def library_formatter(debug: bool) -> logging.Formatter:
    """Return a formatter that makes the lines of a library's `logging` look like dfs's own."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_SHARED_PROCESSORS],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _renderer(debug),
        ],
    )


def configure_stdlib_logging(debug: bool) -> None:
    """Send the warnings of libraries, and rq's account of its jobs, to stderr in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(library_formatter(debug))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def _renderer(debug: bool) -> structlog.typing.Processor:
    if debug:
        return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    return structlog.processors.JSONRenderer()
