"""Uploads that wait for their commit keep neither a thread nor each other."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hostile.target import Answer, Target, read_answer, running_target
from tests.project.chaos_clients import wait_until

pytestmark = pytest.mark.integration

WAIT_S = 30.0
UPLOADS = 24
HONEST = 6
STORED = b"HTTP/1.1 201 CREATED"


@contextmanager
def node_lock(directory: Path) -> Iterator[None]:
    """Hold the lock without which nobody commits."""
    with (directory / "wal" / "control").open("rb") as control:
        fcntl.flock(control.fileno(), fcntl.LOCK_EX)
        yield


def send_upload(connection: socket.socket, name: str, body: bytes) -> None:
    """Send one upload, and do not wait for the answer."""
    head = f"POST /upload?name={name} HTTP/1.1\r\nHost: localhost\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def test_uploads_that_wait_for_the_lock_leave_the_threads_to_others(tmp_path: Path) -> None:
    """With more of them than threads, everything else is still answered; then they are, too."""
    with running_target(tmp_path, WEB_CONCURRENCY="1", DFS_THREADS="3") as target:
        stored = target.upload(b"before")
        path = f"/download/{json.loads(stored.body)['id']}"
        connections = [target.connect() for _ in range(UPLOADS)]
        with node_lock(tmp_path):
            for number, connection in enumerate(connections):
                send_upload(connection, f"n{number}", b"%d" % number)
            for _ in range(5):
                assert target.get("/health").status == 200
                assert target.get(path).body == b"before"
        answers = [read_answer(connection) for connection in connections]
        assert [answer.status for answer in answers] == [201] * UPLOADS
        assert [json.loads(answer.body)["name"] for answer in answers] == [
            f"n{number}" for number in range(UPLOADS)
        ]
        for connection in connections:
            connection.close()
        target.check()


def test_client_that_reads_no_answer_keeps_nobody_from_his(tmp_path: Path) -> None:
    """Its answers are kept for it; those of others leave, though they were of the same commits."""
    settings = {"WEB_CONCURRENCY": "1", "DFS_CLIENT_GRACE_S": "10", "DFS_AUTH": "off"}
    with running_target(tmp_path, **settings) as target:
        deaf = target.connect(receive_bytes=1024)
        deaf.settimeout(3)
        metadata = json.dumps({"m": "x" * 3000})  # so that the answers are long
        head = "POST /upload?name=deaf HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        request = f"{head}DFS-Metadata: {metadata}\r\n\r\nx".encode()
        taken_s: list[float] = []
        is_over = threading.Event()
        threads = [
            threading.Thread(target=upload_again, args=(target, number, is_over, taken_s))
            for number in range(HONEST)
        ]
        for thread in threads:
            thread.start()
        sent = send_until_stuck(deaf, request)
        is_over.set()
        for thread in threads:
            thread.join(WAIT_S)
        assert len(taken_s) > HONEST
        assert max(taken_s) < 6
        assert count_stored(deaf, sent) == sent
        deaf.close()
        target.settle()


def send_until_stuck(connection: socket.socket, request: bytes) -> int:
    """Send a request over and over and read no answer, until nothing is read from here, either.

    Returns:
        How many were sent whole.
    """
    sent = 0
    while True:
        try:
            connection.sendall(request)
        except TimeoutError:
            return sent
        sent += 1


def count_stored(connection: socket.socket, wanted: int) -> int:
    """Read answers until so many say that a file was stored, or none comes any more."""
    connection.settimeout(WAIT_S)
    received = bytearray()
    found = 0
    while found < wanted and (data := connection.recv(1 << 20)):
        received += data
        found += received.count(STORED)
        del received[: max(received.rfind(STORED) + len(STORED), len(received) - len(STORED))]
    return found


def upload_again(
    target: Target, number: int, is_over: threading.Event, taken_s: list[float]
) -> None:
    """Upload over and over; note how long each took."""
    while not is_over.is_set():
        started_s = time.monotonic()
        assert target.upload(b"%d" % number).status == 201
        taken_s.append(time.monotonic() - started_s)


def test_worker_that_is_stopped_answers_what_waits_for_its_commit(tmp_path: Path) -> None:
    """A stop in good order loses no request that was left."""
    answers: list[Answer] = []
    with running_target(tmp_path, WEB_CONCURRENCY="1") as target:
        (worker,) = target.footprint().workers
        connection = target.connect()
        with node_lock(tmp_path):
            send_upload(connection, "last", b"body")
            reader = threading.Thread(target=lambda: answers.append(read_answer(connection)))
            reader.start()
            assert wait_until(lambda: is_received(target.port), timeout_s=WAIT_S, pause_s=0.01)
            os.kill(worker, signal.SIGTERM)
            reader.join(0.5)
            assert not answers
        reader.join(WAIT_S)
        assert answers[0].status == 201
        connection.close()


def is_received(port: int) -> bool:
    """Tell whether the server has read all that was sent to it: Linux says how much waits."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    served = [line.split() for line in lines if line.split()[1].endswith(f":{port:04X}")]
    established = [fields for fields in served if fields[3] == "01"]
    return bool(established) and all(fields[4].endswith(":00000000") for fields in established)
