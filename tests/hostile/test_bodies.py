"""Bodies of a known length: whole, in few calls, and not a byte of what comes after them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from gunicorn.http.body import LengthReader
from gunicorn.http.unreader import SocketUnreader

from dfs.server.bodies import DIRECT_BYTES_MIN, SizedBody
from dfs.server.wire import HOLD_S, SlowClientError, Terms, Wire, limit_waits
from tests.hostile.test_wire import FakeThreads

CONTENT = os.urandom(1 << 20)


class CountingWire(Wire):
    """A wire that counts how often it was waited on."""

    calls = 0

    def _recv(self, receive: Any, *arguments: object) -> Any:
        self.calls += 1
        return super()._recv(receive, *arguments)


Ends = tuple[CountingWire, socket.socket]


@contextmanager
def connection(hold_s: float) -> Iterator[Ends]:
    """Connect a wire that waits so long in one call, and a client at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit_waits(listener, hold_s)
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    with client, served:
        yield CountingWire(served, Terms(grace_s=0.3, bytes_per_s_min=1000), FakeThreads()), client


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A wire as in a node, and the client at its other end."""
    with connection(HOLD_S) as both:
        yield both


def body_of(wire: Wire, length: int, *, held: bytes = b"") -> tuple[SizedBody, Any]:
    """Return a body, of which so much came with the head, and what it is received through."""
    unreader = SocketUnreader(wire)
    unreader.unread(held)
    return SizedBody(LengthReader(unreader, length)), unreader


Take = Callable[[SizedBody, int], bytes]
"""Takes the next bytes of a body, at most so many."""


def _read_into_memory(body: SizedBody, size: int) -> bytes:
    room = bytearray(size)
    count = body.readinto(memoryview(room))
    assert not any(room[count:])
    return bytes(room[:count])


@pytest.fixture(params=[SizedBody.read, _read_into_memory])
def take(request: pytest.FixtureRequest) -> Take:
    """Either of the two ways to read a body."""
    way: Take = request.param
    return way


def read_to_end(body: SizedBody, take: Take) -> bytes:
    """Read a body as uploads do."""
    return b"".join(iter(lambda: take(body, 1 << 20), b""))


@pytest.mark.parametrize("held", [0, 8000, DIRECT_BYTES_MIN + 1])
def test_body_is_received_by_one_call(held: int, take: Take) -> None:
    """All that did not come with the head is waited for at once, however the client cuts it."""
    with connection(10.0) as (wire, client):

        def send() -> None:
            for start in range(held, len(CONTENT), 100_000):
                client.sendall(CONTENT[start : start + 100_000])

        body, _ = body_of(wire, len(CONTENT), held=CONTENT[:held])
        sender = threading.Thread(target=send)
        sender.start()
        assert read_to_end(body, take) == CONTENT
        sender.join()
        assert wire.calls == 1


def test_body_leaves_what_comes_after_it(ends: Ends, take: Take) -> None:
    """The next request, sent at once, stays where it is looked for."""
    wire, client = ends
    size = DIRECT_BYTES_MIN
    body, unreader = body_of(wire, size, held=CONTENT[:size] + b"GET /next")
    assert read_to_end(body, take) == CONTENT[:size]
    assert unreader.take_buffered() == b"GET /next"

    client.sendall(CONTENT[:size] + b"GET /next")
    body, unreader = body_of(wire, size)
    assert read_to_end(body, take) == CONTENT[:size]
    assert wire.recv(100) == b"GET /next"


def test_body_read_in_small_and_large_pieces_is_in_order(ends: Ends, take: Take) -> None:
    """What was received ahead for a small piece comes before all that follows."""
    wire, client = ends
    client.sendall(CONTENT[:300_000])
    body, _ = body_of(wire, 300_000)
    pieces = [body.read(1000), take(body, 200_000), body.read(10), body.read()]
    assert b"".join(pieces) + read_to_end(body, take) == CONTENT[:300_000]
    assert take(body, 1 << 20) == b""


def test_body_received_ahead_comes_before_what_is_put_into_memory(ends: Ends) -> None:
    """A small piece has more received than it asked for."""
    wire, client = ends
    client.sendall(CONTENT[:1024])
    body, _ = body_of(wire, 300_000)
    assert body.read(500) == CONTENT[:500]
    client.sendall(CONTENT[1024:300_000])

    room = bytearray(200_000)
    count = body.readinto(memoryview(room))
    assert room[:count] == CONTENT[500 : 500 + count]
    assert read_to_end(body, SizedBody.read) == CONTENT[500 + count : 300_000]


def test_body_that_comes_slowly_is_handed_out_as_it_comes(ends: Ends, take: Take) -> None:
    """A client does not keep a thread inside of one call for long."""
    wire, client = ends
    client.sendall(CONTENT[:1000])
    body, _ = body_of(wire, len(CONTENT))
    assert take(body, len(CONTENT)) == CONTENT[:1000]


def test_body_that_breaks_off_has_failed(ends: Ends, take: Take) -> None:
    """The connection of a client that is too slow is not used again."""
    wire, _ = ends
    body, _ = body_of(wire, len(CONTENT))
    with pytest.raises(SlowClientError):
        take(body, len(CONTENT))
    assert body.failed


def test_body_of_a_client_that_left_ends(ends: Ends, take: Take) -> None:
    """What came is handed out, then nothing."""
    wire, client = ends
    client.sendall(CONTENT[:1000])
    client.shutdown(socket.SHUT_WR)
    body, _ = body_of(wire, len(CONTENT))
    assert read_to_end(body, take) == CONTENT[:1000]
