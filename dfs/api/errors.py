"""Errors as answers: the one place that knows status codes.

Every answer that is no success is `application/problem+json`.

Source: RFC 9457.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from flask import Flask, request
from werkzeug.exceptions import HTTPException

from dfs.api.problems import MEDIA_TYPE, encode_problem
from dfs.api.responses import Answer
from dfs.api.streams import BODY_KEY
from dfs.core import errors
from dfs.core.tracing import TRACE_ID_KEY

log = structlog.get_logger()

REQUEST_ID_KEY = "dfs.request_id"
RETRY_AFTER_S = "1"
LATE_STATUS = 408
DRAINED_BYTES_MAX = (64 << 10) - 1
"""What is left of a body is received, so that the connection can be kept, up to this much.

Gunicorn gives up at 64 KiB."""
CHALLENGES = (
    ("WWW-Authenticate", 'Bearer realm="dfs"'),
    ("WWW-Authenticate", 'Basic realm="dfs", charset="UTF-8"'),
)

STATUS: dict[type[errors.DfsError], int] = {
    errors.ConfigError: 500,
    errors.InvalidRequestError: 400,
    errors.InvalidNameError: 422,
    errors.InvalidRangeError: 416,
    errors.TooLargeError: 413,
    errors.TruncatedBodyError: 400,
    errors.SlowBodyError: LATE_STATUS,
    errors.DigestMismatchError: 422,
    errors.NoSuchFileError: 404,
    errors.NoSuchStoreError: 404,
    errors.NoSuchSegmentError: 404,
    errors.NoSuchKeyError: 404,
    errors.LastKeyError: 409,
    errors.UnauthorizedError: 401,
    errors.ForbiddenError: 403,
    errors.CrossSiteError: 403,
    errors.TooManyRequestsError: 429,
    errors.TooManyAttemptsError: 429,
    errors.QuotaExceededError: 507,
    errors.AlreadyExistsError: 412,
    errors.PreconditionFailedError: 412,
    errors.NoSpaceError: 507,
    errors.BlobMissingError: 500,
    errors.BlobCorruptError: 500,
    errors.StoreUnavailableError: 503,
    errors.QuorumError: 503,
    errors.StoreIdentityError: 500,
    errors.WalTornTailError: 503,
    errors.WalCorruptError: 500,
    errors.WalGapError: 500,
    errors.WalDroppedError: 503,
    errors.WalFormatError: 500,
    errors.WalReadOnlyError: 503,
    errors.MetadataError: 503,
    errors.IndexDamagedError: 503,
    errors.IndexUnavailableError: 503,
    errors.KeysUnavailableError: 503,
    errors.QueueError: 503,
}
"""Status of each error; an error that is not here has that of its nearest base, at last 500.
An invalid request that names fields is 422: it parses, but does not validate."""


def status_of(error: errors.DfsError) -> int:
    """Return the status that answers an error."""
    if isinstance(error, errors.InvalidRequestError) and error.fields:
        return 422
    for kind in type(error).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 400 if isinstance(error, errors.RequestError) else 503 if error.retryable else 500


def make_problem(
    status: int,
    code: str,
    detail: str,
    *,
    fields: Mapping[str, list[str]] | None = None,
    headers: Iterable[tuple[str, str]] = (),
) -> Answer:
    """Return an answer that says what went wrong.

    Args:
        code: stable, for programs.
        detail: one sentence for the reader.
        fields: messages for each offending field.
    """
    request_id = request.environ.get(REQUEST_ID_KEY, "")
    trace_id = request.environ.get(TRACE_ID_KEY)
    encoded = encode_problem(status, code, detail, request_id, fields, trace_id=trace_id)
    sent = [("Content-Type", MEDIA_TYPE), *headers]
    if status == 503:
        sent.append(("Retry-After", RETRY_AFTER_S))
    close = status == LATE_STATUS or _leaves_much_unread(request.environ)
    return Answer(status, sent, encoded, close=close)


def _leaves_much_unread(environ: Mapping[str, Any]) -> bool:
    """Return whether more of the body is still to come than is worth receiving."""
    body = environ.get(BODY_KEY)
    if body is not None:
        if body.complete:
            return False
        return body.length is None or body.length - body.received > DRAINED_BYTES_MAX
    if "HTTP_TRANSFER_ENCODING" in environ:
        return True
    declared = environ.get("CONTENT_LENGTH") or "0"
    return not declared.isdigit() or int(declared) > DRAINED_BYTES_MAX


def handle_dfs_error(error: errors.DfsError) -> Answer:
    """Answer an error raised on purpose."""
    status = status_of(error)
    if status >= 500:
        write = log.warning if error.retryable else log.error
        write("request_failed", code=error.code, error=str(error), path=request.path)
    headers = []
    if isinstance(error, errors.InvalidRangeError):
        headers.append(("Content-Range", f"bytes */{error.size}"))
    elif isinstance(error, errors.UnauthorizedError):
        headers.extend(CHALLENGES)
    elif isinstance(error, errors.TooManyRequestsError):
        headers.append(("Retry-After", str(error.retry_after_s)))
    fields = error.fields if isinstance(error, errors.InvalidRequestError) else None
    return make_problem(status, error.code, error.message, fields=fields, headers=headers)


def handle_http_exception(error: HTTPException) -> Answer:
    """Answer an error of Flask's or Werkzeug's own: no such path, wrong method, ..."""
    status = error.code or 500
    code = re.sub("[^a-z]+", "_", error.name.lower())
    allowed = getattr(error, "valid_methods", None)
    headers = [("Allow", ", ".join(sorted(allowed)))] if allowed else []
    return make_problem(status, code, error.description or error.name, headers=headers)


def handle_unknown(error: Exception) -> Answer:
    """Answer an error nobody foresaw: the log has everything, the client only the request id."""
    log.error("request_crashed", path=request.path, exc_info=error)
    return make_problem(500, "internal", "The server failed to handle the request.")


def install_error_handlers(app: Flask) -> None:
    """Make every error of `app` a problem."""
    app.register_error_handler(errors.DfsError, handle_dfs_error)
    app.register_error_handler(HTTPException, handle_http_exception)
    app.register_error_handler(Exception, handle_unknown)
