"""Uploads that wait for their commit keep neither a thread nor each other."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
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
PAUSE_S = 0.02
FLOOD = 4000
FILES = 100
FORMS = 6
STORED = b"HTTP/1.1 201 CREATED"
PIPELINED = 16
RESET = struct.pack("ii", 1, 0)
"""To linger for no time: the connection is reset when it is closed."""


@contextmanager
def node_lock(directory: Path) -> Iterator[None]:
    """Hold the lock without which nobody commits."""
    with (directory / "wal" / "control").open("rb") as control:
        fcntl.flock(control.fileno(), fcntl.LOCK_EX)
        yield


def send_upload(connection: socket.socket, name: str, body: bytes, *, behind: bytes = b"") -> None:
    """Send one upload, with a request behind it if need be, and do not wait for the answer."""
    head = f"POST /upload?name={name} HTTP/1.1\r\nHost: localhost\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + behind)


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
        deaf.settimeout(WAIT_S)
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
        flood = Flood(deaf, request)
        flood.wait_until_stuck()
        is_over.set()
        for thread in threads:
            thread.join(WAIT_S)
        assert len(taken_s) > HONEST
        assert max(taken_s) < 6
        widen(deaf)
        assert count_stored(deaf) == FLOOD
        assert flood.sent == FLOOD
        deaf.close()
        target.settle()


class Flood:
    """Sends a request many times, in a thread, and reads no answer."""

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self.sent = 0
        self._connection = connection
        self._request = request
        threading.Thread(target=self._send, daemon=True).start()

    def wait_until_stuck(self) -> None:
        """Wait until nothing is read for a while of what is sent."""
        sent = -1
        while self.sent != sent:
            sent = self.sent
            wait_until(lambda: self.sent != sent, timeout_s=3)  # noqa: B023
        assert self.sent < FLOOD

    def _send(self) -> None:
        for _ in range(FLOOD):
            self._connection.sendall(self._request)
            self.sent += 1


def widen(connection: socket.socket) -> None:
    """Have it take more at a time than a little, which costs a change of processes each."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)


def count_stored(connection: socket.socket) -> int:
    """Read answers until all have come, or none comes any more; return how many are as wished."""
    found, tail = 0, b""
    while found < FLOOD and (data := connection.recv(1 << 20)):
        found += (tail + data).count(STORED)
        tail = (tail + data)[1 - len(STORED) :]
    return found


def test_answers_too_long_to_be_sent_at_once_come_whole(tmp_path: Path) -> None:
    """What was kept of them leaves when their client reads, though it sends nothing more."""
    with running_target(tmp_path, WEB_CONCURRENCY="1") as target:
        part = '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n'
        body = f"{part * FILES}--b--\r\n"
        metadata = json.dumps({"m": "x" * 8000})
        head = (
            "POST /upload HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nDFS-Metadata: {metadata}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        with target.connect(receive_bytes=1024) as client:
            client.sendall(f"{head}{body}".encode() * FORMS)
            assert target.upload(b"other").status == 201
            widen(client)
            received = b""
            while received.count(b'"durability"') < FORMS and (data := client.recv(1 << 20)):
                received += data
            assert received.count(STORED) == FORMS
            assert received.count(b'"name":"f"') == FORMS * FILES
        target.check()


def upload_again(
    target: Target, number: int, is_over: threading.Event, taken_s: list[float]
) -> None:
    """Upload over and over, with short pauses; note how long each took."""
    while not is_over.wait(PAUSE_S):
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


def test_upload_of_a_thread_that_was_lent_is_committed(tmp_path: Path) -> None:
    """The thread ends when it has received it; nothing else need arrive for another to commit."""
    with running_target(tmp_path, WEB_CONCURRENCY="1", DFS_THREADS="1") as target:
        with target.connect() as slow, target.connect() as other:
            for _ in range(3):
                send_half(slow)
                other.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert read_answer(other).status == 200
                slow.sendall(b"x")
                assert read_answer(slow).status == 201
        target.check()


def test_upload_is_committed_though_all_threads_wait_for_clients(tmp_path: Path) -> None:
    """The thread that received it went on to a client that sends half of a body."""
    with running_target(tmp_path, WEB_CONCURRENCY="1", DFS_THREADS="1") as target:
        (worker,) = target.footprint().workers
        with target.connect() as client, target.connect() as slow:
            for connection in (client, slow):  # so that both wait in the list of the threads
                send_upload(connection, "first", b"x")
                assert read_answer(connection).status == 201
            os.kill(worker, signal.SIGSTOP)
            send_upload(client, "second", b"x")
            send_half(slow)
            os.kill(worker, signal.SIGCONT)
            assert read_answer(client).status == 201
            slow.sendall(b"x")
            assert read_answer(slow).status == 201
        target.check()


def send_half(connection: socket.socket) -> None:
    """Begin an upload, of which one byte is missing."""
    connection.sendall(
        b"POST /upload?name=half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx"
    )


def test_upload_is_committed_though_something_else_always_waits(tmp_path: Path) -> None:
    """Clients that only read, and leave no thread without work, keep nobody from writing."""
    with running_target(tmp_path, WEB_CONCURRENCY="1", DFS_AUTH="off") as target:
        is_over = threading.Event()
        readers = [threading.Thread(target=read_again, args=(target, is_over)) for _ in range(8)]
        for reader in readers:
            reader.start()
        taken_s = []
        for number in range(5):
            started_s = time.monotonic()
            assert target.upload(b"%d" % number).status == 201
            taken_s.append(time.monotonic() - started_s)
        is_over.set()
        for reader in readers:
            reader.join(WAIT_S)
        assert max(taken_s) < 2
        target.settle()


def read_again(target: Target, is_over: threading.Event) -> None:
    """Ask for the same thing over and over, many times before the first answer is read."""
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with target.connect() as connection:
        connection.sendall(request * PIPELINED)
        while not is_over.is_set():
            answers = connection.recv(1 << 16).count(b"HTTP/1.1 200")
            connection.sendall(request * answers)


def test_delete_whose_body_does_not_come_is_answered_at_once(tmp_path: Path) -> None:
    """Nobody needs the body; if its client goes away instead, nothing of the request is left."""
    with running_target(tmp_path, WEB_CONCURRENCY="1") as target:
        for is_read in (True, False):
            file_id = json.loads(target.upload(b"x").body)["id"]
            with target.connect() as client:
                head = f"DELETE /files/{file_id} HTTP/1.1\r\nHost: localhost\r\n"
                client.sendall(f"{head}Content-Length: 9\r\n\r\nx".encode())
                if is_read:
                    client.settimeout(4)
                    assert read_answer(client).status == 204
                else:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            path = f"/files/{file_id}"
            assert wait_until(lambda: target.get(path).status == 404, timeout_s=WAIT_S)  # noqa: B023
        target.check()
