"""A connection of a client, and the head of its next request."""

from __future__ import annotations

import socket
from typing import Any

from gunicorn import http
from gunicorn.http.body import LengthReader
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.message import Request
from gunicorn.sock import ssl_wrap_socket
from gunicorn.workers.gthread import TConn

from dfs.server.bodies import SizedBody
from dfs.server.wire import Terms, Threads, Wire

RECV_BYTES = 8192
DRAIN_BYTES_MAX = 1 << 20
_HEAD_END = b"\r\n\r\n"


class _Request(Request):  # type: ignore[misc] # gunicorn has no types
    """A request whose trailers, after a body in chunks, are as short as a header must be.

    Whatever the client speaks of HTTP/1, it is answered in 1.1 or 1.0.
    """

    version: tuple[int, int]
    body: Any
    _expected_100_continue: bool

    def parse_request_line(self, line_bytes: bytes) -> None:
        super().parse_request_line(line_bytes)
        self.version = min(self.version, (1, 1))

    def _peer_is_trusted_proxy(self) -> bool:
        """Tell whether the client may name a scheme; found out once for each connection."""
        connection = self.unreader
        if not hasattr(connection, "is_trusted"):
            connection.is_trusted = super()._peer_is_trusted_proxy()
        is_trusted: bool = connection.is_trusted
        return is_trusted

    def set_body_reader(self) -> None:
        self.max_buffer_headers = self.limit_request_field_size
        super().set_body_reader()
        if isinstance(self.body.reader, LengthReader) and self.unreader.sock.is_plain():
            self.body = SizedBody(self.body.reader)
        if self._expected_100_continue:
            self._expected_100_continue = False  # Gunicorn would ask for what may be refused
            self.unreader.sock.invite_later()


class Connection(TConn):  # type: ignore[misc] # gunicorn has no types
    """A connection. Its attributes are those that Gunicorn's worker uses.

    Args:
        cfg: Gunicorn's configuration.
        client, server: addresses.
        head_bytes_max: how long the head of a request may be.
    """

    sock: Wire

    def __init__(
        self,
        cfg: Any,
        sock: socket.socket,
        client: Any,
        server: Any,
        *,
        terms: Terms,
        threads: Threads,
        head_bytes_max: int,
    ) -> None:
        self.cfg = cfg
        self.sock = Wire(sock, terms, threads)
        self.client = client
        self.server = server
        self.parser: Any = None
        self.initialized = False
        self.is_http2 = False
        self.data_ready = True
        self.has_begun = False
        self.is_kept = False
        self._head_bytes_max = head_bytes_max
        self._is_shaking_hands = False
        self._drained = 0

    def init(self) -> None:
        """Prepare for the first request. Raises OSError."""
        if self.initialized:
            return
        self.initialized = True
        if self.cfg.is_ssl:
            self.sock.secure(lambda sock: ssl_wrap_socket(sock, self.cfg))
            self._is_shaking_hands = True
        self.parser = http.get_parser(self.cfg, self.sock, self.client)
        self.parser.mesg_class = _Request

    def collect(self) -> bool:
        """Receive what is there of the head of a request, without waiting for more.

        Returns:
            Whether it is there, or there is nothing to wait for: it is malformed, or the client
            has gone.

        Raises:
            OSError: the connection is broken.
            LimitRequestHeaders: the head is too long.
        """
        self.init()
        unreader = self.parser.unreader
        data = unreader.take_buffered()
        try:
            if self._is_shaking_hands:
                self.sock.shake_hands_now()
                self._is_shaking_hands = False
            while not _needs_no_more(data):
                if len(data) > self._head_bytes_max:
                    raise LimitRequestHeaders("the head is too long")
                more = self.sock.recv_now(RECV_BYTES)
                if not more:
                    break
                data += more
        except BlockingIOError:
            self.has_begun = self._is_shaking_hands or bool(data)
            return False
        finally:
            unreader.unread(data)
        self.has_begun = False
        return True

    def holds_more(self) -> bool:
        """Tell whether something of the next request was received already."""
        if self.parser is None:
            return False
        return bool(self.parser.unreader.buf.getbuffer().nbytes) or self.sock.has_more()

    def has_more(self) -> bool:
        """Tell whether something of the next request has come, received or not, or its end."""
        return self.holds_more() or self.sock.is_readable()

    def has_body_left(self) -> bool:
        """Tell whether something of the request's body was not read, and may be still to come."""
        reader = self.parser.mesg.body.reader
        if isinstance(reader, LengthReader):
            return bool(reader.length)
        return reader.parser is not None

    def waits_to_go_on(self) -> bool:
        """Tell whether the client has kept back a body that nobody asked for: it may still come."""
        return self.sock.owes_invitation() and self.has_body_left()

    def end(self) -> bool:
        """Say that nothing more comes. False if the client is not there any more."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return True

    def close(self, graceful: bool = False) -> None:
        """Close the connection; `graceful` is Gunicorn's, ignored: see `end`."""
        self.sock.let_go()

    def drain(self) -> bool:
        """Throw away what the client still sends. False at its end, or when it is too much."""
        try:
            data = self.sock.recv_now(1 << 16)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._drained += len(data)
        return bool(data) and self._drained < DRAIN_BYTES_MAX


def _needs_no_more(data: bytes) -> bool:
    """Tell whether a head is whole, or has a line that does not end as it must."""
    return _HEAD_END in data or data.count(b"\n") != data.count(b"\r\n")
