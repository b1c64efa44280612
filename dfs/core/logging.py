"""Structured logs: a constant event name and fields, one line each; JSON, or text for people.

Levels: error = data or a request lost by our fault; warning = may heal; info = rare; debug = per
operation. Contents of files and credentials are never logged. Nothing that came from outside can
begin a line of its own, or tell a terminal what to do, in either form.
"""

from __future__ import annotations

import logging
import re
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from dfs.core.config import Config

LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}
_MARGIN = "    | "
"""Before each line of a traceback, which no event begins with."""
_CREDENTIALS = re.compile(r"(\bdfs_[0-9A-Z]{12}_|\bsig=)[A-Za-z0-9_-]+")
"""Secrets of API keys and signatures of URLs, see `dfs.core.signing`."""

_SHARED_PROCESSORS: tuple[structlog.typing.Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
)


@dataclass(frozen=True, slots=True)
class LogStyle:
    """How a process logs.

    Attributes:
        is_text: for people, else JSON.
        level: the lowest that is told, as `logging` counts them.
    """

    is_text: bool = False
    level: int = logging.INFO

    def quieter(self, level: int) -> LogStyle:
        """Return the style of a program that tells only this level, unless all is to be told."""
        return self if self.level == logging.DEBUG else replace(self, level=level)


def style_of(config: Config) -> LogStyle:
    """Return how the settings say that a process logs."""
    is_text = config.log_format == "text"
    if config.log_format == "auto":
        is_text = config.debug or sys.stderr.isatty()
    return LogStyle(is_text, logging.DEBUG if config.debug else LEVELS[config.log_level])


def configure_logging(style: LogStyle = LogStyle()) -> None:
    """Send the logs of this process to stderr."""
    structlog.configure(
        processors=[*_SHARED_PROCESSORS, *_renderers(style)],
        wrapper_class=structlog.make_filtering_bound_logger(style.level),
        logger_factory=structlog.WriteLoggerFactory(file=_Patient(sys.stderr)),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )


def library_formatter(style: LogStyle) -> logging.Formatter:
    """Return a formatter that makes the lines of a library's `logging` look like dfs's own."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_SHARED_PROCESSORS],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderers(style),
        ],
    )


def configure_stdlib_logging(style: LogStyle) -> None:
    """Send the warnings of libraries, and rq's account of its jobs, to stderr in the same form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(library_formatter(style))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)


def hide_credentials(text: str) -> str:
    """Return a text without what may let somebody in, wherever a client has put it."""
    return _CREDENTIALS.sub(r"\1***", text)


class _Patient:
    """A stream that may be gone, or on a full disk: what was to be said is lost then, not work."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _renderers(style: LogStyle) -> list[structlog.typing.Processor]:
    if not style.is_text:
        return [structlog.processors.JSONRenderer(), _hide_in_line]
    console = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        repr_native_str=True,  # so that each value shows where it ends, and what no one sees
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_contain, console, _hide_in_line]


def _hide_in_line(_: object, __: str, line: Any) -> str:
    return hide_credentials(line)


def _contain(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Keep what is written as it is, not as a value, inside its lines."""
    event["event"] = _escape(str(event["event"]))
    for name in ("exception", "stack"):
        if name in event:
            lines = str(event[name]).split("\n")
            event[name] = "\n".join(_MARGIN + _escape(line) for line in lines)
    return event


def _escape(text: str) -> str:
    """Return the text with escapes for what moves the cursor, breaks the line, or is not seen."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )
