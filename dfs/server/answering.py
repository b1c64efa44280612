"""Sending answers: as Gunicorn does, but in one piece where that is possible.

A send costs as much of the processor as half of Flask does, and after it the thread has to wait for
the interpreter again.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import Any

from gunicorn.http.errors import InvalidResponseHeader
from gunicorn.http.wsgi import Response
from gunicorn.util import hop_headers, http_date

_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
JOINED_BYTES_MAX = 64 << 10
"""Copying more than this costs more than a second send."""


class JoiningResponse(Response):  # type: ignore[misc] # gunicorn has no types
    """An answer whose head leaves together with the first piece of its body."""

    headers_sent: bool

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._head = b""

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Take the application's headers, except those that belong to the connection.

        Raises:
            InvalidResponseHeader: one could be taken for several.
        """
        for name, value in headers:
            lowered = name.lower()
            if lowered == "content-length":
                self.response_length = int(value)
            elif lowered in hop_headers:
                continue
            if not value.isprintable() and _CONTROL.search(value):
                raise InvalidResponseHeader(repr(name))
            self.headers.append((name, value))

    def request_id(self) -> str | None:
        """Return the id of the request, once the headers are here."""
        return next((value for name, value in self.headers if name == "X-Request-ID"), None)

    def send_headers(self) -> None:
        """Have the head ready; it waits for the first piece of the body, or the end."""
        if self.headers_sent:
            return
        self.headers_sent = True
        major, minor = self.req.version
        lines = [
            f"HTTP/{major}.{minor} {self.status}\r\nServer: {self.version}\r\n"
            f"Date: {_format_date(int(time.time()))}\r\n"
            f"Connection: {'close' if self.should_close() else 'keep-alive'}\r\n"
        ]
        if self.chunked:
            lines.append("Transfer-Encoding: chunked\r\n")
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        self._head = "".join(lines).encode("latin-1")

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            data = b"%X\r\n%b\r\n" % (len(data), data)
        if self._head and len(data) > JOINED_BYTES_MAX:
            self._send_head(is_more_at_hand=True)
        head, self._head = self._head, b""
        self.sock.sendall(head + data if head else data)

    def close(self) -> None:
        """End the answer."""
        self.send_headers()
        self._send_head()
        super().close()

    def _send_head(self, *, is_more_at_hand: bool = False) -> None:
        head, self._head = self._head, b""
        if head:
            self.sock.sendall(head, is_more_at_hand=is_more_at_hand)


@lru_cache(maxsize=2)
def _format_date(seconds: int) -> str:
    return str(http_date(seconds))
