"""How long a client may keep a thread waiting."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from dfs.server.wire import HOLD_S, SlowClientError, Terms, Wire, limit_waits

GRACE_S = 0.3


@dataclass
class FakeThreads:
    """Threads that are short, or not."""

    short: bool = False
    can_lend: bool = True
    lent: int = field(default=0)
    asides: int = field(default=0)

    def step_aside(self) -> None:
        """Count."""
        self.asides += 1

    def are_short(self) -> bool:
        """Tell whether something waits."""
        return self.short

    def lend(self) -> bool:
        """Count."""
        self.lent += self.can_lend
        return self.can_lend


Pair = tuple[Wire, socket.socket, FakeThreads]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A wire, and the client at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        limit_waits(listener, HOLD_S)
        client = socket.create_connection(listener.getsockname())
        served, _ = listener.accept()
    threads = FakeThreads()
    yield Wire(served, Terms(grace_s=GRACE_S, bytes_per_s_min=1000), threads), client, threads
    served.close()
    client.close()


def receive(wire: Wire, size: int) -> None:
    """Receive so many bytes."""
    while size > 0:
        size -= len(wire.recv(size))


def test_recv_gives_a_silent_client_up(pair: Pair) -> None:
    """A client that sends nothing is given up after its grace, and counts as one that left."""
    wire, _, threads = pair
    with pytest.raises(SlowClientError) as caught:
        wire.recv(10)
    assert isinstance(caught.value, TimeoutError)
    assert threads.lent == 0


def test_recv_gives_a_dribbling_client_up(pair: Pair) -> None:
    """Bytes, but too few of them, do not save a client."""
    wire, client, _ = pair
    ended = threading.Event()

    def dribble() -> None:
        while not ended.wait(0.01):
            client.send(b"x")

    thread = threading.Thread(target=dribble)
    thread.start()
    try:
        with pytest.raises(SlowClientError):
            receive(wire, 1000)
    finally:
        ended.set()
        thread.join()


def test_recv_waits_for_a_client_that_makes_up_for_it(pair: Pair) -> None:
    """Who sends enough after each pause may make as many as he likes."""
    wire, client, _ = pair
    for _ in range(4):
        timer = threading.Timer(GRACE_S / 2, client.sendall, (b"x" * 1000,))
        timer.start()
        receive(wire, 1000)
        timer.join()


def test_sendall_gives_up_a_client_that_reads_nothing(pair: Pair) -> None:
    """More than the buffers hold is not sent for ever."""
    wire, _, _ = pair
    with pytest.raises(SlowClientError):
        wire.sendall(b"x" * (64 << 20))


def test_sendall_sends_all(pair: Pair) -> None:
    """What goes in pieces arrives whole and in order."""
    wire, client, _ = pair
    data = bytes(range(256)) * 40_000
    received = bytearray()

    def read() -> None:
        while len(received) < len(data):
            received.extend(client.recv(1 << 16))

    thread = threading.Thread(target=read)
    thread.start()
    wire.sendall(data)
    thread.join()
    assert received == data


@pytest.mark.parametrize(("short", "lent"), [(False, 0), (True, 1)])
def test_wait_lends_the_thread_where_others_need_it(pair: Pair, short: bool, lent: int) -> None:
    """Once a request, and only when something waits for a thread."""
    wire, _, threads = pair
    threads.short = short
    with pytest.raises(SlowClientError):
        wire.recv(10)
    assert threads.lent == lent


def test_wait_ends_when_no_thread_can_be_lent(pair: Pair) -> None:
    """Others come before a slow client when there are too many of them; the next is let off."""
    wire, client, threads = pair
    threads.short, threads.can_lend = True, False
    with pytest.raises(SlowClientError):
        wire.recv(10)
    client.sendall(b"x")
    wire.begin()
    assert wire.recv(10) == b"x"


def test_what_cannot_be_sent_in_a_hurry_is_kept(pair: Pair) -> None:
    """Nobody waits for a client that does not read; later it gets all, in its order."""
    wire, client, threads = pair
    pieces = [bytes([number]) * (1 << 20) for number in range(8)]
    wire.hurry()
    for piece in pieces:
        wire.sendall(piece)
    assert wire.has_unsent()
    assert threads.asides == 0
    received = bytearray()

    def read() -> None:
        while len(received) < 8 << 20:
            received.extend(client.recv(1 << 20))

    reader = threading.Thread(target=read)
    reader.start()
    wire.begin()
    wire.flush()
    reader.join(30)
    assert received == b"".join(pieces)
    assert not wire.has_unsent()


def test_short_answer_leaves_in_a_hurry(pair: Pair) -> None:
    """Where there is room nothing is kept."""
    wire, client, _ = pair
    wire.hurry()
    wire.sendall(b"answer")
    assert not wire.has_unsent()
    assert client.recv(100) == b"answer"


def test_sendall_with_more_at_hand_leaves_with_what_follows(pair: Pair) -> None:
    """The client is not woken for a head alone."""
    wire, client, _ = pair
    wire.sendall(b"head ", is_more_at_hand=True)
    with pytest.raises(BlockingIOError):
        client.recv(100, socket.MSG_DONTWAIT)
    wire.sendall(b"body")
    assert client.recv(100) == b"head body"
