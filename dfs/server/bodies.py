"""The body of a request: received in pieces as large as are asked for, without a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from gunicorn.http.body import Body

DIRECT_BYTES_MIN = 64 << 10
"""Less than this is received ahead, as Gunicorn does: a call costs more than a copy."""


T = TypeVar("T")


class SizedBody(Body):  # type: ignore[misc] # gunicorn has no types
    """A body whose length is known, from a `Wire` that is plain.

    Gunicorn receives what there is, again and again, and gathers it in two buffers: each call gives
    the interpreter away, and every byte is copied twice. Here the kernel waits until all that was
    asked for is there, and writes it to where it is handed out.
    """

    failed: bool

    def read(self, size: int | None = None) -> bytes:
        """Return the next bytes; fewer than asked for if they are slow to come, none at the end.

        Raises:
            SlowClientError, OSError.
        """
        wanted = 0 if size is None else min(self.reader.length, self.getsize(size))
        if wanted < DIRECT_BYTES_MIN or self.buf.tell():
            read: bytes = super().read(size)
            return read
        unreader = self.reader.unreader
        held: bytes = unreader.take_buffered()
        if held:
            unreader.unread(held[wanted:])
            data = held[:wanted]
        else:
            data = self._receive(unreader.sock.recv_whole, wanted)
        self.reader.length -= len(data)
        return data

    def readinto(self, room: memoryview) -> int:
        """Put the next bytes into `room`, and return how many; else as `read`."""
        unreader = self.reader.unreader
        wanted: int = min(self.reader.length, len(room))
        if wanted < DIRECT_BYTES_MIN or self.buf.tell() or unreader.buf.getbuffer().nbytes:
            data = self.read(len(room))
            room[: len(data)] = data
            return len(data)
        count: int = self._receive(unreader.sock.recv_whole_into, room[:wanted])
        self.reader.length -= count
        return count

    def _receive(self, receive: Callable[[Any], T], asked: object) -> T:
        try:
            return receive(asked)
        except Exception:
            self.failed = True
            raise
