"""`GET /download/{file_id}`: the bytes of a file, whole or in ranges, every block checked."""

from __future__ import annotations

import base64
import contextvars
import secrets
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import structlog
from flask import request

from dfs.api.auth import caller_of, trust_in
from dfs.api.blueprints import Blueprint
from dfs.api.conditions import is_unmodified, range_applies
from dfs.api.handover import find_place
from dfs.api.headers import DOWNLOAD_GUARDS, format_disposition, format_http_date, is_shown_safely
from dfs.api.ranges import parse_ranges
from dfs.api.requests import checked_file_id, services
from dfs.api.responses import Answer
from dfs.api.spec import DOWNLOAD_DOC
from dfs.core.errors import BlobCorruptError, DfsError
from dfs.core.model import File
from dfs.services.download import Download

log = structlog.get_logger()
blueprint = Blueprint("downloads", __name__)

_ACCEPTS_RANGES = ("Accept-Ranges", "bytes")

Headers = list[tuple[str, str]]


@blueprint.route("/download/<file_id>", methods=["GET", "HEAD"])
@blueprint.doc(**DOWNLOAD_DOC)
@blueprint.without_query
def download(file_id: str) -> Answer:
    """Read a file"""
    environ = request.environ
    checked_file_id(file_id)
    caller = caller_of(environ)
    if environ["REQUEST_METHOD"] == "HEAD":
        return _answer_head(services().files.find(file_id, caller), environ)
    opened = services().files.open(file_id, caller)
    sending = False
    try:
        answer = _answer_get(opened, environ)
        sending = isinstance(answer.response, BodyIterator)
        return answer
    finally:
        if not sending:
            opened.close()


def _answer_head(file: File, environ: dict[str, Any]) -> Answer:
    if is_unmodified(environ, file.etag, file.updated_at_ms // 1000):
        return Answer(304, _validators(file), b"")
    headers = [
        ("Content-Type", file.content_type),
        ("Content-Length", str(file.size)),
        *_describe(file),
    ]
    return Answer(200, headers, ())


def _answer_get(opened: Download, environ: dict[str, Any]) -> Answer:
    file = opened.file
    if is_unmodified(environ, file.etag, file.updated_at_ms // 1000):
        return Answer(304, _validators(file), b"")
    ranges = None
    header = environ.get("HTTP_RANGE")
    if header is not None and range_applies(environ, file.etag, file.updated_at_ms // 1000):
        ranges = parse_ranges(header, file.size)
    headers = _describe(file)
    if header is None or ranges is not None:  # with a header that we ignore, a proxy might not
        place = find_place(opened, environ)
        if place is not None:
            return _answer_redirect(file, place)
    if ranges is not None and len(ranges) > 1:
        return _answer_ranges(opened, ranges, headers, environ)
    headers.append(("Content-Type", file.content_type))
    start, stop = (0, file.size) if ranges is None else ranges[0]
    if ranges is not None:
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{file.size}"))
    status = 200 if ranges is None else 206
    whole = opened.read_all()
    if whole is not None:
        return Answer(status, headers, whole if ranges is None else whole[start:stop])
    headers.append(("Content-Length", str(stop - start)))
    body = BodyIterator(opened, opened.read(start, stop), stop - start, trusts=trust_in(environ))
    return Answer(status, headers, body)


def _answer_redirect(file: File, place: str) -> Answer:
    """Have the proxy send a file, or the ranges of it that were asked for.

    That it accepts ranges it says itself.
    """
    headers = [
        *(header for header in _describe(file) if header != _ACCEPTS_RANGES),
        ("Content-Type", file.content_type),
        ("X-Accel-Redirect", place),
    ]
    return Answer(200, headers, b"")


def _answer_ranges(
    opened: Download, ranges: Sequence[tuple[int, int]], headers: Headers, environ: dict[str, Any]
) -> Answer:
    """Answer several ranges as multipart/byteranges (RFC 9110 section 14.6)."""
    file = opened.file
    boundary = secrets.token_hex(16)
    heads = [
        (
            f"\r\n--{boundary}\r\nContent-Type: {file.content_type}\r\n"
            f"Content-Range: bytes {start}-{stop - 1}/{file.size}\r\n\r\n"
        ).encode("latin-1")
        for start, stop in ranges
    ]
    end = f"\r\n--{boundary}--\r\n".encode("ascii")
    length = len(end) + sum(map(len, heads)) + sum(stop - start for start, stop in ranges)
    parts = (
        chain((head,), opened.read(start, stop))
        for head, (start, stop) in zip(heads, ranges, strict=True)
    )
    headers.append(("Content-Type", f"multipart/byteranges; boundary={boundary}"))
    headers.append(("Content-Length", str(length)))
    pieces = chain(chain.from_iterable(parts), (end,))
    return Answer(
        206, headers, BodyIterator(opened, pieces, length, trusts=trust_in(environ), ahead=2)
    )


class BodyIterator:
    """The body of a download that is too large to be held.

    The first block is read, and checked, when this is made: damage there is still answered with a
    problem. Damage further on can only cut the connection; the client sees a short body.

    Args:
        opened: closed at the end.
        pieces: the bytes.
        length: how many bytes `pieces` must have in all.
        trusts: tells whether the client may still have them.
        ahead: how many pieces to read when this is made.

    Attributes:
        on_close: called once, at the end, with how many bytes were handed out.
    """

    def __init__(
        self,
        opened: Download,
        pieces: Iterator[bytes],
        length: int,
        *,
        trusts: Callable[[], bool],
        ahead: int = 1,
    ) -> None:
        self._opened = opened
        self._trusts = trusts
        self._pieces = pieces
        self._length = self._left = length
        self.on_close: Callable[[int], None] = _ignore_end
        self._ahead = deque(islice(pieces, ahead))
        # What is logged later on is of the same request.
        self._context = contextvars.copy_context()

    def __iter__(self) -> BodyIterator:
        return self

    def __next__(self) -> bytes:
        return self._context.run(self._take)

    def _take(self) -> bytes:
        if self._left and not self._may_go_on():
            self.close()
            raise OSError("the client may not have the rest any more")
        try:
            piece = self._ahead.popleft() if self._ahead else next(self._pieces)
        except StopIteration:
            self.close()
            if self._left:
                self._log_cut(BlobCorruptError("The file is shorter than it should be."))
                raise OSError("the download was cut short") from None
            raise
        except DfsError as error:
            self.close()
            self._log_cut(error)
            raise
        self._left -= len(piece)
        return piece

    def _may_go_on(self) -> bool:
        try:
            return self._trusts()
        except DfsError:  # the bytes can be read without the index, which has the keys
            return True

    def _log_cut(self, error: DfsError) -> None:
        log.error(
            "download_cut",
            file_id=self._opened.file.id,
            code=error.code,
            error=str(error),
            missing_bytes=self._left,
        )

    def close(self) -> None:
        """Close the file, whether all of it was sent or not. Safe to call twice."""
        self._opened.close()
        on_close, self.on_close = self.on_close, _ignore_end
        on_close(self._length - self._left)


def _ignore_end(sent_bytes: int) -> None:
    """Do nothing."""


def _validators(file: File) -> Headers:
    return [
        *DOWNLOAD_GUARDS,
        ("ETag", f'"{file.etag}"'),
        ("Last-Modified", format_http_date(file.updated_at_ms // 1000)),
        ("Cache-Control", "no-cache"),
    ]


def _describe(file: File) -> Headers:
    safe = is_shown_safely(file.content_type)
    return [
        *_validators(file),
        _ACCEPTS_RANGES,
        ("Content-Disposition", format_disposition(file.key, inline=safe)),
        ("Repr-Digest", f"sha-256=:{base64.b64encode(file.digest).decode('ascii')}:"),
    ]
