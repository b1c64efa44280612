"""What is answered to a request that does not get as far as the application."""

from __future__ import annotations

import ssl
from contextlib import suppress

import structlog
from gunicorn.http import errors

from dfs.api.headers import GUARDS
from dfs.api.problems import MEDIA_TYPE, encode_problem, reason_of
from dfs.server.wire import Wire

log = structlog.get_logger()

_REFUSALS: dict[type[BaseException], tuple[int, str, str]] = {
    errors.LimitRequestLine: (414, "uri_too_long", "The first line of the request is too long."),
    errors.LimitRequestHeaders: (431, "headers_too_large", "The headers are too many or too long."),
    errors.ExpectationFailed: (417, "expectation_failed", "Only 100-continue can be expected."),
    errors.UnsupportedTransferCoding: (
        501,
        "transfer_coding_unknown",
        "The only Transfer-Encoding accepted is chunked.",
    ),
    errors.InvalidRequestLine: (400, "bad_request", "The first line of the request is malformed."),
    errors.InvalidRequestMethod: (400, "bad_request", "The method of the request is malformed."),
    errors.InvalidHTTPVersion: (400, "bad_request", "The version of HTTP is not one served here."),
    errors.ParseException: (400, "bad_request", "The head of the request is malformed."),
}
"""The answer to each error of Gunicorn's parser, or to its nearest base."""
_LATE = (408, "slow_client", "The head of the request did not arrive in time.")
_UNKNOWN = (500, "internal", "The server failed to handle the request.")


def refuse(
    wire: Wire, error: BaseException, *, request_id: str, told_of: str | None = None
) -> None:
    """Answer an error that the application never saw; the connection is closed afterwards.

    Args:
        told_of: address of the client, for the access log; None if there is none.
    """
    if isinstance(error, ssl.SSLError):  # whoever is there does not speak TLS, or too badly
        return
    found = next((_REFUSALS[kind] for kind in type(error).__mro__ if kind in _REFUSALS), None)
    if found is None or isinstance(
        error, errors.InvalidResponseHeader | errors.InvalidResponseHeaderName
    ):
        log.error("request_crashed", request_id=request_id, exc_info=error)
        found = _UNKNOWN
    with suppress(OSError):
        wire.sendall(_encode(*found, request_id, told_of))


def refuse_late_head(wire: Wire, *, request_id: str, told_of: str | None = None) -> None:
    """Answer a head that does not come, without waiting for the client. Raises OSError."""
    wire.send_now(_encode(*_LATE, request_id, told_of))


def _encode(status: int, code: str, detail: str, request_id: str, told_of: str | None) -> bytes:
    if told_of is not None:
        log.info("request_refused", request_id=request_id, status=status, code=code, remote=told_of)
    body = encode_problem(status, code, detail, request_id)
    guards = "".join(f"{name}: {value}\r\n" for name, value in GUARDS)
    head = (
        f"HTTP/1.1 {status} {reason_of(status)}\r\nConnection: close\r\n"
        f"Content-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
        f"X-Request-ID: {request_id}\r\n{guards}\r\n"
    )
    return head.encode("ascii") + body
