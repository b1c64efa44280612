"""Clients that take their time, many at once."""

from __future__ import annotations

import json
import select
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.hostile.target import Target

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
BODY = b"POST /upload?name=slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nx"
DRIBBLE_S = 0.2
FILE_BYTES = 8_000_000


class SlowClients:
    """Connections that were begun and go on a byte at a time, or not at all."""

    def __init__(self, connections: list[socket.socket], *, dribbles: bool) -> None:
        self.connections = connections
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._dribble)
        if dribbles:
            self._thread.start()

    def _dribble(self) -> None:
        while not self._ended.wait(DRIBBLE_S):
            for connection in self.connections:
                with suppress(OSError):
                    connection.send(b"x")

    def end(self) -> None:
        """Go away."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for connection in self.connections:
            connection.close()


@contextmanager
def slow_clients(target: Target, kind: str, count: int) -> Iterator[SlowClients]:
    """Have slow clients: `nothing` sent, `heads` or `bodies` sent slowly, `readers` of answers."""
    request = {"nothing": b"", "heads": HEAD, "bodies": BODY, "readers": b""}[kind]
    if kind == "readers":
        file_id = json.loads(target.upload(b"x" * FILE_BYTES).body)["id"]
        request = f"GET /download/{file_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    connections = []
    for _ in range(count):
        connection = target.connect(receive_bytes=4096 if kind == "readers" else None)
        connection.sendall(request)
        connections.append(connection)
    if kind == "readers":  # each fills the buffers of the kernel first, which is plain work
        for connection in connections:
            select.select([connection], [], [])
    clients = SlowClients(connections, dribbles=kind in ("heads", "bodies"))
    try:
        yield clients
    finally:
        clients.end()


def serve_honest(target: Target, *, clients: int, seconds: float) -> list[float]:
    """Upload small files from honest clients, each on a new connection. Returns seconds taken."""
    taken: list[float] = []
    wrong: list[int] = []
    end_s = time.monotonic() + seconds

    def work() -> None:
        while time.monotonic() < end_s:
            since_s = time.monotonic()
            status = target.upload(b"hello").status
            taken.append(time.monotonic() - since_s)
            if status != 201:
                wrong.append(status)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    return taken


def median_s(taken: list[float]) -> float:
    """Return the median."""
    return statistics.median(taken)
