"""The access log: one event for each request, when its answer has been handed over or broken off.

What stands in a query is never told, since names of files and signatures do; nor is any header but
the id of the request. A path has ids only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING, Any

import structlog
from flask import Flask, Response
from flask.globals import request_ctx

from dfs.api.auth import CALLER_KEY
from dfs.api.errors import REQUEST_ID_KEY
from dfs.api.parking import Course
from dfs.api.streams import BODY_KEY
from dfs.core.tracing import TRACE_ID_KEY

if TYPE_CHECKING:
    from dfs.core.config import Config

log = structlog.get_logger()

PATH_CHARS_MAX = 256
_ANSWER_KEY = "dfs.answer"


def install_access_log(app: Flask, config: Config) -> AccessLog | None:
    """Return what tells of the requests of `app`; None if the settings want nothing of it."""
    if not config.access_log and not config.slow_request_ms:
        return None
    access_log = AccessLog(tells_all=config.access_log, slow_ms=config.slow_request_ms)
    app.after_request(access_log.note_answer)
    return access_log


class AccessLog:
    """Tells of requests.

    Args:
        tells_all: of each, by the event `request`.
        slow_ms: of those that take as long, by the event `request_slow`; 0 = of none.
    """

    def __init__(self, *, tells_all: bool, slow_ms: int) -> None:
        self._tells_all = tells_all
        self._slow_ms = slow_ms

    def note_answer(self, response: Response) -> Response:
        """Remember the answer to the current request."""
        request = request_ctx.request
        rule = request.url_rule
        request.environ[_ANSWER_KEY] = response, None if rule is None else rule.rule
        return response

    def watch(
        self, course: Course[Iterable[bytes]], environ: dict[str, Any]
    ) -> Course[Iterable[bytes]]:
        """Return what answers as `course` does, and tells of it in the end."""
        started_s = perf_counter()
        body = yield from course
        return WatchedBody(body, self, environ, started_s)

    def tell(
        self, environ: dict[str, Any], *, bytes_out: int, is_whole: bool, duration_s: float
    ) -> None:
        """Log a request that has ended."""
        duration_ms = round(1000 * duration_s, 3)
        is_slow = 0 < self._slow_ms <= duration_ms
        if not self._tells_all and not is_slow:
            return
        fields = {
            **_describe(environ),
            "bytes_out": bytes_out,
            "complete": is_whole,
            "duration_ms": duration_ms,
        }
        if self._tells_all:
            log.info("request", **fields)
        if is_slow:
            log.warning("request_slow", **fields)


class WatchedBody:
    """The body of an answer, counted as it is handed over.

    Args:
        body: the bytes. access_log: told when the body is closed.
        started_s: when the request began, by `perf_counter`.
    """

    def __init__(
        self,
        body: Iterable[bytes],
        access_log: AccessLog,
        environ: dict[str, Any],
        started_s: float,
    ) -> None:
        self._body = body
        self._access_log = access_log
        self._environ: dict[str, Any] | None = environ
        self._started_s = started_s
        self._bytes = 0
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces."""
        for piece in self._body:
            self._bytes += len(piece)
            yield piece
        self._is_whole = True

    def close(self) -> None:
        """Close the body, and tell."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            environ, self._environ = self._environ, None
            if environ is not None:
                self._access_log.tell(
                    environ,
                    bytes_out=self._bytes,
                    is_whole=self._is_whole,
                    duration_s=perf_counter() - self._started_s,
                )


def _describe(environ: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a request and its answer, without what is nobody's business."""
    # Taken out, or the answer to a download would be in a cycle: it keeps the context it began in.
    response, route = environ.pop(_ANSWER_KEY, (None, None))
    body = environ.get(BODY_KEY)
    caller = environ.get(CALLER_KEY)
    path = environ.get("PATH_INFO", "")[:PATH_CHARS_MAX]
    described = {
        "request_id": environ.get(REQUEST_ID_KEY),
        "trace_id": environ.get(TRACE_ID_KEY),
        "method": environ["REQUEST_METHOD"],
        "route": route,
        "path": path.encode("latin-1", "replace").decode("utf-8", "replace"),
        "status": None if response is None else response.status_code,
        "key_id": None if caller is None else caller.key_id or None,
        "remote": environ.get("REMOTE_ADDR"),
        "lsn": None if response is None else response.headers.get("DFS-LSN", type=int),
        "bytes_in": 0 if body is None else body.received,
    }
    return {name: value for name, value in described.items() if value is not None}
