"""Logs say what happened in one line each, and nothing that came from outside can change that."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from dfs.core.config import load_config
from dfs.core.logging import (
    LogStyle,
    configure_logging,
    configure_stdlib_logging,
    style_of,
)
from dfs.core.signing import make_key_id, make_secret

HOSTILE = (
    '/a\n2026-01-01T00:00:00Z [error    ] forged\r{"event": "forged"}\x1b[2J\x9b1m\x7f\u2028\u202e'
)
FORMS = [pytest.param(False, id="json"), pytest.param(True, id="text")]


class Terminal(io.StringIO):
    """A stream that somebody looks at."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class FullDisk(io.StringIO):
    """A stream to a file on a disk that is full."""

    def write(self, text: str) -> int:
        """Fail."""
        raise OSError(28, "No space left on device")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was found, and nothing bound in this thread by other tests."""
    structlog.contextvars.clear_contextvars()
    before, handlers = structlog.get_config(), logging.getLogger().handlers
    level = logging.getLogger().level
    yield
    structlog.configure(**before)
    logging.getLogger().handlers = handlers
    logging.getLogger().setLevel(level)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], io.StringIO]:
    """Return what starts logging in one form or the other, into the stream that it returns."""

    def start(is_text: bool) -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging(LogStyle(is_text))
        configure_stdlib_logging(LogStyle(is_text))
        return stream

    return start


def is_harmless(text: str) -> bool:
    """Tell whether a terminal shows the text as it is, in as many lines as it has."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("is_text", FORMS)
def test_log_values_stay_inside_their_line(
    logged: Callable[[bool], io.StringIO], is_text: bool
) -> None:
    """A value with line breaks or escape sequences is one line, and moves no cursor."""
    stream = logged(is_text)
    for value in (HOSTILE, *HOSTILE):
        structlog.get_logger().info("request", path=value, many=[value], none=None)
    logging.getLogger("library").warning("It said %s", HOSTILE, extra={"more": HOSTILE})
    text = stream.getvalue()
    assert text.count("\n") == 2 + len(HOSTILE)
    assert is_harmless(text)


@pytest.mark.parametrize("is_text", FORMS)
def test_log_traceback_forges_no_line(logged: Callable[[bool], io.StringIO], is_text: bool) -> None:
    """What an error says is told inside its event, whatever it is made of."""
    stream = logged(is_text)
    for log in (structlog.get_logger().error, logging.getLogger("library").error):
        try:
            raise ValueError(HOSTILE)
        except ValueError as error:
            log("request_crashed", exc_info=error)
    text = stream.getvalue()
    assert is_harmless(text)
    assert text.count("ValueError") >= 2
    starts = [line for line in text.splitlines() if not line.startswith("    | ")]
    assert len(starts) == 2
    assert all("request_crashed" in line for line in starts)


def test_log_json_gives_values_back_as_they_were(
    logged: Callable[[bool], io.StringIO],
) -> None:
    """A program reads from a line of JSON exactly what was logged."""
    stream = logged(False)
    structlog.get_logger().warning("store_failed", error=HOSTILE, count=3)
    event = json.loads(stream.getvalue())
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "store_failed", "level": "warning", "error": HOSTILE, "count": 3}


@pytest.mark.parametrize("is_text", FORMS)
def test_log_tells_no_credentials(logged: Callable[[bool], io.StringIO], is_text: bool) -> None:
    """A secret or a signature that a client puts where it does not belong is not told."""
    stream = logged(is_text)
    secret, key_id = make_secret(), make_key_id()
    structlog.get_logger().info("request", path=f"/download/dfs_{key_id}_{secret}")
    structlog.get_logger().info("request", query=f"?sig_key={key_id}&sig={secret}")
    assert secret not in stream.getvalue()
    assert key_id in stream.getvalue()


def test_log_that_cannot_be_written_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk below the log costs the line, not the request."""
    monkeypatch.setattr(sys, "stderr", FullDisk())
    configure_logging()
    structlog.get_logger().error("request_failed")


@pytest.mark.parametrize(
    ("settings", "stream", "style"),
    [
        ({}, io.StringIO(), LogStyle(False, logging.INFO)),
        ({}, Terminal(), LogStyle(True, logging.INFO)),
        ({"DEBUG": "1"}, io.StringIO(), LogStyle(True, logging.DEBUG)),
        ({"DEBUG": "1", "DFS_LOG_FORMAT": "json"}, Terminal(), LogStyle(False, logging.DEBUG)),
        ({"DFS_LOG_FORMAT": "text"}, io.StringIO(), LogStyle(True, logging.INFO)),
        ({"DFS_LOG_LEVEL": "error"}, io.StringIO(), LogStyle(False, logging.ERROR)),
    ],
)
def test_style_of_follows_settings_and_terminal(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], stream: io.StringIO, style: LogStyle
) -> None:
    """Text is for people who look at it, unless the settings say otherwise."""
    monkeypatch.setattr(sys, "stderr", stream)
    assert style_of(load_config(settings, env_file="")) == style


def test_quieter_style_yields_to_debug() -> None:
    """A program that tells errors only tells everything when it is debugged."""
    assert LogStyle().quieter(logging.ERROR).level == logging.ERROR
    assert LogStyle(level=logging.DEBUG).quieter(logging.ERROR).level == logging.DEBUG


def test_level_keeps_lesser_events_away(logged: Callable[[bool], io.StringIO]) -> None:
    """What is below the level is not told."""
    stream = logged(False)
    structlog.get_logger().debug("hint_lost")
    assert stream.getvalue() == ""
