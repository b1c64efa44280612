"""The body of a request: received in pieces as large as are asked for, without a copy."""

from __future__ import annotations

from gunicorn.http.body import Body

DIRECT_BYTES_MIN = 64 << 10
"""Less than this is received ahead, as Gunicorn does: a call costs more than a copy."""


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
        data: bytes
        try:
            held = unreader.take_buffered()
            if held:
                unreader.unread(held[wanted:])
                data = held[:wanted]
            else:
                data = unreader.sock.recv_whole(wanted)
        except Exception:
            self.failed = True
            raise
        self.reader.length -= len(data)
        return data
