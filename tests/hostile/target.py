"""A node under attack: a real Gunicorn, raw sockets to it, and whether it is as well as before."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfs.storage.local_writer import PAIRS_MAX

ROOT = Path(__file__).resolve().parents[2]
SETTLE_S = 30.0
LATE_THREADS = 2 + min(32, (os.cpu_count() or 1) + 4) + PAIRS_MAX
"""Threads that a process starts when it first needs them: the hinter, the checkpointer, those that
hash, and those that write large files."""
LATE_DESCRIPTORS = 80
"""Those of the index, which each thread opens when it first needs it, and of a new segment."""
ALARMS = ("Traceback", "request_crashed", '"level": "error"', '"level": "critical"')


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `status` is 0 when nothing did."""

    status: int
    head: bytes
    body: bytes

    def problem(self) -> dict[str, Any]:
        """Return the body, which must be a problem."""
        assert b"\r\ncontent-type: application/problem+json\r\n" in self.head.lower() + b"\r\n"
        problem: dict[str, Any] = json.loads(self.body)
        for name in (b"x-content-type-options: nosniff", b"content-security-policy: "):
            assert b"\r\n" + name in self.head.lower()
        assert problem["status"] == self.status
        assert problem["code"]
        return problem


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the worker processes of a node hold."""

    threads: int
    descriptors: int
    sockets: int
    store_files: int
    temporary: int
    workers: tuple[int, ...]

    def is_within(self, other: Footprint) -> bool:
        """Tell whether nothing is more than there."""
        return (
            self.threads <= other.threads + LATE_THREADS * len(self.workers)
            and self.descriptors <= other.descriptors + LATE_DESCRIPTORS * len(self.workers)
            and self.sockets <= other.sockets
            and self.store_files <= other.store_files
            and self.temporary <= other.temporary
        )


class Target:
    """A running node.

    Args:
        pid: Gunicorn's master.
        store: its primary store. log: where its output goes.
        tls: that its clients use; None for plain HTTP.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        pid: int,
        store: Path,
        log: Path,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.host = host
        self.port = port
        self._pid = pid
        self._store = store
        self._log = log
        self._tls = tls
        self._log_read = 0
        self._sound = self.footprint()

    def connect(self, *, receive_bytes: int | None = None) -> socket.socket:
        """Return a connection; `receive_bytes`: with so small a buffer."""
        connection = self.connect_plainly(receive_bytes=receive_bytes)
        if self._tls is None:
            return connection
        return self._tls.wrap_socket(connection)

    def connect_plainly(self, *, receive_bytes: int | None = None) -> socket.socket:
        """Return a connection without TLS, whatever the node speaks."""
        connection = socket.socket()
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(SETTLE_S)
        connection.connect((self.host, self.port))
        return connection

    def ask(self, request: bytes, *, end: bool = False) -> Answer:
        """Send bytes and return the first answer; `end`: and say that nothing more follows."""
        with self.connect() as connection:
            try:
                connection.sendall(request)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before it was sent whole; the answer may be there
            return read_answer(connection)

    def upload(self, body: bytes, name: str = "honest") -> Answer:
        """Upload."""
        head = f"POST /upload?name={name} HTTP/1.1\r\nHost: localhost\r\n"
        return self.ask(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def get(self, path: str) -> Answer:
        """Get a path."""
        return self.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def footprint(self) -> Footprint:
        """Look at what the workers hold."""
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        threads = descriptors = sockets = files = 0
        for child in children:
            threads += sum(1 for _ in Path(f"/proc/{child}/task").iterdir())
            for entry in Path(f"/proc/{child}/fd").iterdir():
                try:
                    place = str(entry.readlink())
                except FileNotFoundError:
                    continue
                descriptors += 1
                sockets += place.startswith("socket:")
                files += place.startswith(str(self._store))
        left = sum(path.is_file() for path in (self._store / "tmp").rglob("*"))
        return Footprint(threads, descriptors, sockets, files, left, tuple(map(int, children)))

    def cpu_s(self) -> float:
        """Return how much of a processor the workers have used."""
        ticks = 0
        for child in self.footprint().workers:
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def check(self) -> None:
        """Fail unless the node is as well as it was at the beginning.

        It lives and is ready, takes a file and gives it back, has no more threads, connections,
        open or temporary files than before, and has logged nothing that an operator has to look at.
        """
        for path in ("/health", "/ready"):
            assert self.get(path).status == 200, path
        body = os.urandom(100_000)
        stored = self.upload(body)
        assert stored.status == 201
        file_id = json.loads(stored.body)["id"]
        assert self.get(f"/download/{file_id}").body == body
        delete = f"DELETE /files/{file_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        assert self.ask(delete).status == 204
        self.settle()
        self.check_log()

    def settle(self) -> None:
        """Wait until nothing is left of what others did. Fails if something stays."""
        end_s = time.monotonic() + SETTLE_S
        sound = self._sound
        while True:
            found = self.footprint()
            if found.workers == sound.workers and found.is_within(sound):
                return
            assert time.monotonic() < end_s, f"{found} instead of {sound}"
            time.sleep(0.02)

    def check_log(self) -> None:
        """Fail if the log has a traceback or an error that was not there before."""
        with self._log.open() as log:
            log.seek(self._log_read)
            new = log.read()
            self._log_read = log.tell()
        alarming = [line for line in new.splitlines() if any(word in line for word in ALARMS)]
        assert not alarming, alarming[0][:2000]


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer, to its declared end or that of the connection."""
    data = b""
    while True:
        head, separator, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if separator and head.startswith(b"HTTP/1.1 100"):
            data = body
            continue
        if separator and head[9:12] in (b"204", b"304"):
            break
        if separator and length and len(body) >= int(length[1]):
            break
        try:
            received = connection.recv(1 << 20)
        except OSError:
            received = b""
        if not received:
            break
        data += received
    words = head.split(b" ", 2)
    return Answer(int(words[1]) if len(words) > 1 else 0, head, body)


@contextmanager
def running_target(
    directory: Path, *, tls: ssl.SSLContext | None = None, **settings: str
) -> Iterator[Target]:
    """Run a node without replicas and queue; end it whatever happens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environ = {
        **os.environ,
        "PORT": str(port),
        "DATABASE_URL": f"sqlite:///{directory}/dfs.db",
        "STORAGE_PATH": str(directory / "primary"),
        "WAL_PATH": str(directory / "wal"),
        "DFS_RUN_PATH": str(directory / "run"),
        "REPLICA1_PATH": "",
        "REPLICA2_PATH": "",
        "REDIS_URL": "",
        **settings,
    }
    log = directory / "node.log"
    command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=output)
    try:
        wait_until_ready(port, process, tls)
        wait_for_workers(process.pid, environ)
        yield Target(
            host="127.0.0.1",
            port=port,
            pid=process.pid,
            store=directory / "primary",
            log=log,
            tls=tls,
        )
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def wait_for_workers(master: int, environ: Mapping[str, str]) -> None:
    """Wait until all workers have all their threads, of which one was enough to answer."""
    workers = int(environ.get("WEB_CONCURRENCY", "2"))
    threads = int(environ.get("DFS_THREADS", "16"))
    children = Path(f"/proc/{master}/task/{master}/children")
    while True:
        pids = children.read_text().split()
        if len(pids) == workers and all(
            sum(1 for _ in Path(f"/proc/{pid}/task").iterdir()) > threads for pid in pids
        ):
            return
        time.sleep(0.02)


def wait_until_ready(
    port: int, process: subprocess.Popen[bytes], tls: ssl.SSLContext | None
) -> None:
    """Wait until a node answers."""
    while True:
        assert process.poll() is None
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            with connection if tls is None else tls.wrap_socket(connection) as connection:
                connection.sendall(b"GET /ready HTTP/1.0\r\n\r\n")
                if read_answer(connection).status == 200:
                    return
        except OSError:
            time.sleep(0.02)
