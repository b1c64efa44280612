"""The socket of a client, and how long the client may keep a thread waiting on it."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, TypeVar

HOLD_S = 0.05
HOLD_BYTES_PER_S = 1 << 20
"""While other requests wait for a thread, a client may keep one waiting for so long, and for the
time that its bytes took at this rate."""
LENT_WAIT_S = 1.0
"""How long a thread that was lent waits in one call."""
T = TypeVar("T", bytes, int)
_GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


class Threads(Protocol):
    """The threads of which one waits for the client."""

    def step_aside(self) -> None:
        """Let others run: the calling thread is going to wait."""

    def are_short(self) -> bool:
        """Tell whether something waits for a thread."""

    def lend(self) -> bool:
        """Replace the calling thread while it serves this client. False: that cannot be done."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of every client. See the settings.

    Attributes:
        grace_s: how long a client may do nothing at all.
        bytes_per_s_min: how much of that a byte makes up for.
    """

    grace_s: float
    bytes_per_s_min: int


class SlowClientError(TimeoutError):
    """A client did not keep to its terms. The connection is of no use any more.

    It has the number of a connection that was reset: to Gunicorn it is one that went away.
    """

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the client is too slow")


class Wire:
    """A socket that waits for its client only so long. Stands for it in Gunicorn.

    The socket itself waits `HOLD_S` in one call at most (SO_RCVTIMEO, SO_SNDTIMEO, inherited from
    the listener): that costs no system call as a time limit of Python's own would.
    """

    __slots__ = (
        "_hold_s",
        "_is_hurried",
        "_is_lent",
        "_owes_invitation",
        "_patience_s",
        "_sock",
        "_terms",
        "_threads",
        "_unsent",
    )

    def __init__(self, sock: socket.socket, terms: Terms, threads: Threads) -> None:
        self._sock = sock
        self._terms = terms
        self._threads = threads
        self._is_lent = False
        self._unsent = b""
        self.begin()

    def begin(self) -> None:
        """Begin a request: what was before is forgiven."""
        self._patience_s = self._terms.grace_s
        self._hold_s = HOLD_S
        self._is_hurried = False
        self._owes_invitation = False
        if self._is_lent:
            self._is_lent = False
            self._limit_waits(HOLD_S)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._sock.fileno()

    def is_plain(self) -> bool:
        """Tell whether the bytes of the client go through the kernel alone."""
        return not isinstance(self._sock, ssl.SSLSocket)

    def invite_later(self) -> None:
        """Tell the client to go on before it is waited for: it sends no body until it hears that.

        Source: RFC 9110, 10.1.1.
        """
        self._owes_invitation = True

    def owes_invitation(self) -> bool:
        """Tell whether the client still waits for that."""
        return self._owes_invitation

    def recv(self, size: int) -> bytes:
        """Wait for bytes. Raises SlowClientError, OSError."""
        return self._recv(self._sock.recv, size)

    def recv_whole(self, size: int) -> bytes:
        """Wait for so many bytes, and return them; fewer if others do not come for a while.

        Only for a wire that is plain. Raises SlowClientError, OSError.
        """
        return self._recv(self._sock.recv, size, socket.MSG_WAITALL)

    def recv_whole_into(self, room: memoryview) -> int:
        """Wait for as many as `room` holds, and put them there; return how many, as `recv_whole`.

        Only for a wire that is plain. Raises SlowClientError, OSError.
        """
        return self._recv(self._sock.recv_into, room, len(room), socket.MSG_WAITALL)

    def _recv(self, receive: Callable[..., T], *arguments: object) -> T:
        """Return what `receive` does when there is something: bytes, or how many."""
        if self._owes_invitation:
            self._owes_invitation = False
            self.sendall(_GO_ON)
        since_s = monotonic()
        self._threads.step_aside()
        while True:
            try:
                received = receive(*arguments)
            except (BlockingIOError, TimeoutError):
                since_s = self._charge(since_s, 0)
            else:
                self._charge(since_s, received if isinstance(received, int) else len(received))
                return received

    def hurry(self) -> None:
        """Wait for nothing until the next request: what cannot be sent at once is kept."""
        self._is_hurried = True

    def has_unsent(self) -> bool:
        """Tell whether anything is kept that was to be sent in a hurry."""
        return bool(self._unsent)

    def flush(self) -> None:
        """Send what was kept. Raises SlowClientError, OSError."""
        self._is_hurried = False
        data, self._unsent = self._unsent, b""
        self.sendall(data)

    def sendall(self, data: bytes, *, is_more_at_hand: bool = False) -> None:
        """Send all of it, or keep it if in a hurry. Raises SlowClientError, OSError.

        Args:
            is_more_at_hand: the next bytes follow at once, and may leave in the same packet.
        """
        if self._is_hurried:
            self._send_or_keep(data)
            return
        since_s = monotonic()
        sent = self._send(data, socket.MSG_MORE if is_more_at_hand and self.is_plain() else 0)
        since_s = self._charge(since_s, sent)
        if sent < len(data):
            self._threads.step_aside()
            view = memoryview(data)
            while sent < len(view):
                count = self._send(view[sent:])
                since_s = self._charge(since_s, count)
                sent += count

    send = sendall

    def _send_or_keep(self, data: bytes) -> None:
        if not self._unsent:
            with suppress(BlockingIOError):
                data = data[self.send_now(data) :]
        self._unsent += data

    def _send(self, data: bytes | memoryview, flags: int = 0) -> int:
        """Return how much was sent, before the time of the socket was up."""
        try:
            return self._sock.send(data, flags)
        except (BlockingIOError, TimeoutError):
            return 0

    def _charge(self, since_s: float, count: int) -> float:
        """Have the client answer for the time since then, in which so many bytes went."""
        now_s = monotonic()
        waited_s = now_s - since_s
        terms = self._terms
        left_s = self._patience_s - waited_s + count / terms.bytes_per_s_min
        self._patience_s = min(left_s, terms.grace_s)
        if left_s < 0:
            raise SlowClientError
        if not self._is_lent:
            hold_s = self._hold_s - waited_s + count / HOLD_BYTES_PER_S
            self._hold_s = min(hold_s, HOLD_S)
            if hold_s < 0 and self._threads.are_short():
                self._be_lent()
        return now_s

    def _be_lent(self) -> None:
        if not self._threads.lend():
            raise SlowClientError
        self._is_lent = True
        self._limit_waits(LENT_WAIT_S)

    def _limit_waits(self, timeout_s: float) -> None:
        if not self.is_plain():
            self._sock.settimeout(timeout_s)  # TLS takes no notice of SO_RCVTIMEO
        else:
            limit_waits(self._sock, timeout_s)

    def recv_now(self, size: int) -> bytes:
        """Return what is there. Raises BlockingIOError for nothing, OSError."""
        if self.is_plain():
            return self._sock.recv(size, socket.MSG_DONTWAIT)
        received: bytes = self._now(self._sock.recv, size)
        return received

    def send_now(self, data: bytes) -> int:
        """Send what can be sent without waiting, and return how much that was.

        Raises:
            BlockingIOError: it was nothing.
            OSError: the connection is broken.
        """
        if self.is_plain():
            return self._sock.send(data, socket.MSG_DONTWAIT)
        sent: int = self._now(self._sock.send, data)
        return sent

    def secure(self, wrap: Callable[[socket.socket], socket.socket]) -> None:
        """Speak TLS from now on; the handshake is still to come."""
        self._sock = wrap(self._sock)
        self._limit_waits(HOLD_S)

    def shake_hands_now(self) -> None:
        """Go on with the handshake. Raises BlockingIOError until it is done, OSError."""
        self._now(self._sock.do_handshake)  # type: ignore[attr-defined]

    def has_more(self) -> bool:
        """Tell whether TLS holds bytes of which a poll knows nothing."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def is_readable(self) -> bool:
        """Tell whether the kernel has something of the client, or the end of what it sends."""
        look = select.poll()
        look.register(self._sock, select.POLLIN)
        return bool(look.poll(0))

    def _now(self, call: Callable[..., Any], *args: object) -> Any:
        self._sock.settimeout(0)
        try:
            return call(*args)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError(errno.EAGAIN, "TLS waits for the client") from error
        finally:
            self._sock.settimeout(HOLD_S)

    def setblocking(self, flag: bool) -> None:
        """Do nothing: it always blocks, for a while."""

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes. Raises OSError."""
        self._sock.shutdown(how)

    def settimeout(self, timeout_s: float) -> None:
        """Do nothing: see `Terms`."""

    def close(self) -> None:
        """Do nothing: Gunicorn closes in a thread what ended; the main thread still knows it."""

    def let_go(self) -> None:
        """Close the socket. Its descriptor may be another's at once."""
        with suppress(OSError):
            self._sock.close()


def limit_waits(sock: socket.socket, timeout_s: float) -> None:
    """Have a socket, and those accepted from it, wait so long in one call at most."""
    timeval = struct.pack("ll", int(timeout_s), round(timeout_s % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
