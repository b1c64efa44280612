"""Bodies of requests: read to the declared end, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.wsgi import get_input_stream

from dfs.api.digests import DigestCheck, read_digest_headers
from dfs.core.errors import SlowBodyError, TooLargeError, TruncatedBodyError

READ_BYTES = 256 << 10
"""Bytes asked of the server at once, into memory of their own. More costs memory, of each thread
that waits for a client; less costs time."""

BODY_KEY = "dfs.body"
"""Where the environment keeps the body, so that an error answer knows whether it was read."""


A = TypeVar("A")
T = TypeVar("T")


class BodyStream:
    """The body of one request, counted and checked as it is read.

    Attributes:
        length: bytes declared by the client; None when it sends chunks.
        received: bytes read so far.
        complete: the whole body has been read.
    """

    def __init__(
        self,
        *,
        read: Callable[[int], bytes],
        readinto: Callable[[memoryview], int] | None = None,
        length: int | None,
        digests: DigestCheck | None,
    ) -> None:
        self.length = length
        self.received = 0
        self.complete = length == 0
        self._read = read
        self._readinto = readinto or self._copy_into
        self._digests = digests

    def read(self) -> bytes:
        """Return the next bytes, at most `READ_BYTES`; empty at the end.

        Raises:
            TruncatedBodyError: the client went away, declared more than it sent, or sent chunks
                that are none.
            SlowBodyError: the client takes too long.
        """
        if self.complete:
            return b""
        wanted = READ_BYTES if self.length is None else min(READ_BYTES, self._missing(self.length))
        data = self._receive(self._read, wanted)
        self._count(data)
        return data

    def read_into(self, room: memoryview) -> int:
        """Put the next bytes at the beginning of `room`, and return how many; 0 at the end.

        Raises:
            TruncatedBodyError, SlowBodyError: as `read`.
        """
        if self.complete:
            return 0
        if self.length is not None:
            room = room[: self._missing(self.length)]
        data = room[: self._receive(self._readinto, room) or 0]
        self._count(data)
        return len(data)

    def _missing(self, length: int) -> int:
        return length - self.received

    def _copy_into(self, room: memoryview) -> int:
        data = self._read(len(room))
        room[: len(data)] = data
        return len(data)

    def _receive(self, receive: Callable[[A], T], asked: A) -> T:
        try:
            return receive(asked)
        except TimeoutError as error:
            raise SlowBodyError("The body came too slowly.", received=self.received) from error
        except Exception as error:  # every server has its own errors; all mean the same here
            raise TruncatedBodyError("The body ended before it was complete.") from error

    def _count(self, data: bytes | memoryview) -> None:
        length = self.length
        if not data and length is not None:
            raise TruncatedBodyError(
                "The body ended before it was complete.", received=self.received, length=length
            )
        self.received += len(data)
        if not data or self.received == length:
            self.complete = True
        if self._digests is not None:
            self._digests.update(data)

    def verify(self) -> None:
        """Raise DigestMismatchError if the bytes read do not have the checksums sent with them."""
        if self._digests is not None:
            self._digests.verify()


def open_body(environ: dict[str, Any]) -> BodyStream:
    """Return the body of a request.

    Raises:
        UnsupportedMediaType: the body is compressed or otherwise coded.
        InvalidRequestError: a checksum header is malformed.
    """
    if environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower() not in ("identity", ""):
        raise UnsupportedMediaType("A body with a Content-Encoding is not accepted.")
    if "HTTP_TRANSFER_ENCODING" in environ:
        if environ["HTTP_TRANSFER_ENCODING"].strip().lower() != "chunked":
            raise UnsupportedMediaType("The only Transfer-Encoding accepted is chunked.")
        length = None
    else:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    if "wsgi.input_terminated" in environ:
        source = environ["wsgi.input"]
    else:
        source = get_input_stream(environ)
    body = BodyStream(
        read=source.read,
        readinto=getattr(source, "readinto", None),
        length=length,
        digests=read_digest_headers(environ),
    )
    environ[BODY_KEY] = body
    return body


def find_received(environ: Mapping[str, Any]) -> int:
    """Return how many bytes were read of the body of a request."""
    body: BodyStream | None = environ.get(BODY_KEY)
    return 0 if body is None else body.received


def read_small_body(environ: dict[str, Any], bytes_max: int) -> bytes:
    """Return the whole body of a request that is not a file.

    Raises:
        TooLargeError: the body has more than `bytes_max` bytes.
        TruncatedBodyError: see `BodyStream.read`.
    """
    body = open_body(environ)
    parts: list[bytes] = []
    if body.length is not None and body.length > bytes_max:
        raise TooLargeError(f"The body has more than {bytes_max} bytes.")
    while data := body.read():
        if body.received > bytes_max:
            raise TooLargeError(f"The body has more than {bytes_max} bytes.")
        parts.append(data)
    body.verify()
    return b"".join(parts)
