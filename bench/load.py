"""The clients: wrk for many requests, plain sockets for large bodies.

Both must cost little, since they share the cores with the server.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bench.errors import BenchError
from bench.processes import Use, watch_use
from bench.servers import HOST, Server, get
from scripts.load_report import percentile

LUA = Path(__file__).parent / "lua"
RECEIVE_BYTES = 1 << 20
SOCKET_TIMEOUT_S = 120.0
PAGE_FILES = 1000


@dataclass(frozen=True, slots=True)
class Rate:
    """What the clients and the kernel have measured of one load.

    Attributes:
        per_s: requests answered a second.
        requests: answered in all.
        p50_ms, p99_ms: of the time until the answer was complete.
        cpu_us: processor time of all processes of the server for one request, microseconds.
        rss_peak_bytes: sum of the highest resident memory of each of them.
    """

    per_s: float
    requests: int
    p50_ms: float
    p99_ms: float
    cpu_us: float
    rss_peak_bytes: int


@dataclass(frozen=True, slots=True)
class Destination:
    """Where new files are sent.

    Attributes:
        prefix: the path up to the name.
    """

    method: str
    prefix: str


def post_small(
    server: Server, path: str, *, clients: int, size: int, seconds: float, word: str = ""
) -> Rate:
    """POST bodies of `size` bytes, each different from all others ever sent.

    Args:
        word: what their names begin with; 16 characters that no other load uses.
    """
    there = Destination("POST", f"{path}?name=")
    return upload_small(server, there, clients=clients, size=size, seconds=seconds, word=word)


def upload_small(
    server: Server,
    destination: Destination,
    *,
    clients: int,
    size: int,
    seconds: float,
    word: str = "",
) -> Rate:
    """Do what `post_small` does, to any server."""
    arguments = [destination.method, destination.prefix, str(size), word or secrets.token_hex(8)]
    return _run_wrk(server, "upload.lua", arguments, clients=clients, seconds=seconds)


def get_small(server: Server, paths: Path, *, clients: int, seconds: float) -> Rate:
    """GET the paths listed in a file, one a line, in shuffled order."""
    return _run_wrk(server, "get.lua", [str(paths)], clients=clients, seconds=seconds)


def delete_listed(server: Server, paths: Path, *, clients: int, seconds: float) -> Rate:
    """DELETE the paths listed in a file, each once, until all are done or the time is over."""
    return _run_wrk(server, "delete.lua", [str(paths)], clients=clients, seconds=seconds)


def list_ids(server: Server, *, limit: int = 1 << 30, prefix: str = "") -> list[str]:
    """Return the ids of up to `limit` files of a node with such names, by pages."""
    ids: list[str] = []
    after = ""
    while len(ids) < limit:
        page = _get_json(server, f"/files?limit={PAGE_FILES}&prefix={quote(prefix)}{after}")
        ids.extend(file["id"] for file in page["files"])
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    return ids[:limit]


def write_downloads(node: Server, paths: Path, *, count: int, size: int) -> None:
    """Store so many files, and list where they are downloaded from, one a line."""
    stored = 0
    while stored < count:
        stored += post_small(node, "/upload", clients=16, size=size, seconds=1).requests
    ids = list_ids(node, limit=count)
    paths.write_text("".join(f"/download/{file_id}\n" for file_id in ids))


class Client:
    """One connection for large bodies. For one thread."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection((HOST, server.port), SOCKET_TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def post(self, path: str, filler: bytes, *, size: int) -> bytes:
        """POST a body of `size` bytes that is like no other; return the body of the answer.

        Args:
            filler: what the body repeats.
        """
        return self.send("POST", path, filler, size=size)

    def send(self, method: str, path: str, filler: bytes, *, size: int) -> bytes:
        """Do what `post` does, by any method."""
        word = secrets.token_bytes(16)
        head = f"{method} {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {size}\r\n\r\n"
        self._socket.sendall(head.encode("ascii") + word)
        left = size - len(word)
        view = memoryview(filler)
        while left:
            piece = view[:left]
            self._socket.sendall(piece)
            left -= len(piece)
        status, length, start = self._read_head()
        body = start + b"".join(bytes(piece) for piece in self._pieces(length - len(start)))
        if status not in {200, 201, 204}:
            raise BenchError(f"{method} {path}: {status} {body[:300]!r}")
        return body

    def get(self, path: str) -> int:
        """Receive a body, and return how many bytes it had."""
        length, start = self._ask(path)
        return len(start) + sum(map(len, self._pieces(length - len(start))))

    def fetch(self, path: str) -> bytes:
        """Receive a body, and return it."""
        length, start = self._ask(path)
        return start + b"".join(bytes(piece) for piece in self._pieces(length - len(start)))

    def delete(self, path: str) -> None:
        """Delete something, and wait until it is."""
        self._socket.sendall(f"DELETE {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode("ascii"))
        status, _, _ = self._read_head()
        if status != 204:
            raise BenchError(f"DELETE {path}: {status}")

    def _ask(self, path: str) -> tuple[int, bytes]:
        """Return the length of the body and what was received of it already."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode("ascii"))
        status, length, start = self._read_head()
        if status != 200:
            raise BenchError(f"GET {path}: {status}")
        return length, start

    def _read_head(self) -> tuple[int, int, bytes]:
        """Return status, Content-Length, and what was received of the body already."""
        received = b""
        while b"\r\n\r\n" not in received:
            data = self._socket.recv(65536)
            if not data:
                raise BenchError("the server closed the connection")
            received += data
        head, _, start = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), int(headers.get("content-length", 0)), start

    def _pieces(self, length: int) -> Iterable[memoryview]:
        while length > 0:
            count = self._socket.recv_into(self._buffer, min(length, RECEIVE_BYTES))
            if not count:
                raise BenchError("the server closed the connection inside a body")
            length -= count
            yield self._buffer[:count]


def repeat(
    server: Server, work: Callable[[Client], object], *, clients: int, seconds: float
) -> Rate:
    """Have some clients do a piece of work over and over."""
    timings: list[list[float]] = [[] for _ in range(clients)]
    ready = threading.Barrier(clients + 1)
    faults: list[Exception] = []

    def run(number: int) -> None:
        try:
            with Client(server) as client:
                ready.wait()
                began = time.perf_counter()
                deadline = began + seconds
                while began < deadline:
                    work(client)
                    ended = time.perf_counter()
                    timings[number].append(ended - began)
                    began = ended
        except (OSError, BenchError) as error:
            faults.append(error)
            ready.abort()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    with watch_use(server.process.pid) as use:
        for thread in threads:
            thread.start()
        with contextlib.suppress(threading.BrokenBarrierError):
            ready.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        elapsed_s = time.perf_counter() - started
    if faults:
        raise BenchError(f"a client failed: {faults[0]}") from faults[0]
    return _rate_of(list(itertools.chain.from_iterable(timings)), elapsed_s, use)


def _rate_of(timings_s: list[float], elapsed_s: float, use: Use) -> Rate:
    ordered = sorted(timings_s)
    return Rate(
        per_s=len(timings_s) / elapsed_s,
        requests=len(timings_s),
        p50_ms=1e3 * percentile(ordered, 50),
        p99_ms=1e3 * percentile(ordered, 99),
        cpu_us=1e6 * use.cpu_s / len(timings_s),
        rss_peak_bytes=use.rss_peak_bytes,
    )


def _get_json(server: Server, path: str) -> dict[str, Any]:
    status, body = get(server, path)
    if status != 200:
        raise BenchError(f"GET {path}: {status} {body[:300]!r}")
    answer: dict[str, Any] = json.loads(body)
    return answer


def _run_wrk(
    server: Server, script: str, arguments: list[str], *, clients: int, seconds: float
) -> Rate:
    options = ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"]
    command = ["wrk", *options, "-s", str(LUA / script), server.url, "--", *arguments]
    environ = {"LUA_PATH": f"{LUA}/?.lua;;"}
    with watch_use(server.process.pid) as use:
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if done.returncode or result is None:
        raise BenchError(f"wrk failed: {done.stdout} {done.stderr}")
    counts = json.loads(result.removeprefix("RESULT "))
    if counts["bad_status"] or counts["failed"] or not counts["requests"]:
        raise BenchError(f"requests failed under wrk ({script}): {counts}")
    return Rate(
        per_s=counts["requests"] / (counts["duration_us"] / 1e6),
        requests=counts["requests"],
        p50_ms=counts["p50_us"] / 1e3,
        p99_ms=counts["p99_us"] / 1e3,
        cpu_us=use.cpu_s * 1e6 / counts["requests"],
        rss_peak_bytes=use.rss_peak_bytes,
    )
