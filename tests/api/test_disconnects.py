"""Clients that lie, stall in the middle or go away, on raw sockets against a real Gunicorn."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.target import running_target

LARGE = b"x" * 300_000

pytestmark = pytest.mark.integration


class Server:
    """A node served by Gunicorn with one worker, and its store."""

    def __init__(self, port: int, path: Path) -> None:
        self.port = port
        self.path = path

    def send(self, data: bytes, *, end: bool = True) -> socket.socket:
        """Return a connection over which `data` was sent; `end`: and nothing will follow."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(data)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return connection

    def ask(self, data: bytes, *, end: bool = True) -> tuple[int, bytes, bytes]:
        """Send a request and return (status, headers, body) of the answer; 0: none came."""
        with self.send(data, end=end) as connection:
            answer = read_answer(connection)
        if not answer:
            return 0, b"", b""
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), head, body

    def get(self, path: str) -> Any:
        """Return the JSON at a path."""
        status, _, body = self.ask(f"GET {path} HTTP/1.0\r\n\r\n".encode(), end=False)
        assert status == 200
        return json.loads(body)

    def leftovers(self) -> tuple[int, int]:
        """Return (files listed, temporary files left)."""
        left = [path for path in (self.path / "primary" / "tmp").rglob("*") if path.is_file()]
        return len(self.get("/files")["files"]), len(left)


def read_answer(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes, or the declared end of the body."""
    answer = b""
    while True:
        head, separator, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if separator and length and len(body) >= int(length[1]):
            return answer
        try:
            data = connection.recv(1 << 20)
        except ConnectionResetError:
            return answer
        if not data:
            return answer
        answer += data


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A node of its own for this file."""
    path = tmp_path_factory.mktemp("node")
    settings = {"DFS_UPLOAD_BYTES_MAX": "3000000", "WEB_CONCURRENCY": "1", "DFS_THREADS": "4"}
    with running_target(path, **settings) as target:
        yield Server(target.port, path)


@pytest.fixture(autouse=True)
def nothing_stored(request: pytest.FixtureRequest, server: Server) -> Iterator[None]:
    """Whatever a test does to an upload, it leaves as many files as before and nothing in tmp."""
    before, _ = server.leftovers()
    yield
    assert server.leftovers() == (before, 0)


def upload(headers: str, body: bytes = b"") -> bytes:
    """Return a request that uploads."""
    return f"POST /upload?name=a HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode() + body


FORM = (
    b'--bound\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    + LARGE
    + b"\r\n--bound--\r\n"
)
FORM_TYPE = "Content-Type: multipart/form-data; boundary=bound\r\n"


@pytest.mark.parametrize("sent", [0, 1, 5, 299_999])
def test_body_shorter_than_declared_is_400(server: Server, sent: int) -> None:
    """A client that ends before the length it declared is told, and nothing is stored."""
    status, head, body = server.ask(upload("Content-Length: 300000\r\n", LARGE[:sent]))
    assert (status, json.loads(body)["code"]) == (400, "truncated_body")
    if sent < 200_000:
        assert b"connection: close" in head.lower()


@pytest.mark.parametrize("sent", [1, 60, 100, 150_000, len(FORM) - 14])
def test_form_shorter_than_declared_is_400(server: Server, sent: int) -> None:
    """The same in the middle of a form: in its head, in a file, before the closing boundary."""
    request = upload(f"{FORM_TYPE}Content-Length: {len(FORM)}\r\n", FORM[:sent])
    status, _, body = server.ask(request)
    assert (status, json.loads(body)["code"]) == (400, "truncated_body")


@pytest.mark.parametrize("form", [False, True])
def test_client_that_vanishes_leaves_nothing(server: Server, form: bool) -> None:
    """A connection that is reset in the middle of a body is forgotten."""
    headers = (FORM_TYPE if form else "") + "Content-Length: 900000\r\n"
    connection = server.send(upload(headers, FORM[:250_000]), end=False)
    # The worker does all this on its own threads: each question gives it time.
    assert any(server.leftovers()[1] == 1 for _ in range(10_000)), "the upload was not begun"
    linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()
    assert any(server.leftovers()[1] == 0 for _ in range(10_000)), "the upload was not forgotten"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"5\r\nhel",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"493E0\r\n" + LARGE + b"\r\n493E0\r\n" + LARGE[:5],
    ],
    ids=["nothing", "cut", "unfinished", "no end", "no break", "no size", "negative", "large"],
)
def test_chunks_broken_are_400(server: Server, body: bytes) -> None:
    """Chunks that end too soon or are none store nothing."""
    status, head, answer = server.ask(upload("Transfer-Encoding: chunked\r\n", body))
    assert status == 400
    assert json.loads(answer)["code"] == "truncated_body"
    assert b"connection: close" in head.lower()


def test_body_declared_over_the_limit_is_refused_before_it_is_sent(server: Server) -> None:
    """413 comes at once, without a byte of the body, and the connection is closed."""
    status, head, body = server.ask(upload("Content-Length: 3000001\r\n"), end=False)
    assert (status, json.loads(body)["code"]) == (413, "too_large")
    assert b"connection: close" in head.lower()


def test_chunks_over_the_limit_are_413(server: Server) -> None:
    """A body of unknown length is cut off at the limit."""
    chunks = (b"493E0\r\n" + LARGE + b"\r\n") * 11
    status, _, body = server.ask(upload("Transfer-Encoding: chunked\r\n", chunks))
    assert (status, json.loads(body)["code"]) == (413, "too_large")


def test_checksum_wrong_keeps_the_connection(server: Server) -> None:
    """A body that was read whole leaves the connection usable for the next request."""
    wrong = upload("Content-Length: 5\r\nContent-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\n", b"hello")
    with server.send(wrong + b"GET /health HTTP/1.0\r\n\r\n", end=False) as connection:
        answers = b""
        while data := connection.recv(1 << 16):
            answers += data
    assert re.findall(rb"HTTP/1.. (\d+)", answers) == [b"422", b"200"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("Content-Length: 3000001\r\n", 413),
        ("Content-Length: 5\r\nContent-Encoding: br\r\n", 415),
        ("Transfer-Encoding: chunked\r\nContent-Encoding: br\r\n", 415),
    ],
)
def test_body_that_is_refused_is_not_asked_for(server: Server, headers: str, status: int) -> None:
    """The client hears the answer instead of 100. What it sends all the same is no request."""
    with server.send(upload(f"{headers}Expect: 100-continue\r\n"), end=False) as connection:
        answer = read_answer(connection)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert read_answer(connection) == b""
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert b"connection: close" in answer.lower()


class TestStored:
    """Uploads that succeed; each deletes what it stored."""

    @pytest.mark.parametrize("size", [0, 1, 5, 70_000, 300_000])
    def test_chunks_well_formed_are_stored(self, server: Server, size: int) -> None:
        """Chunks of any size make up the file."""
        body = b"".join(
            b"%x\r\n%b\r\n" % (len(chunk), chunk)
            for chunk in (LARGE[at : min(at + 7001, size)] for at in range(0, size, 7001))
        )
        status, _, answer = server.ask(
            upload("Transfer-Encoding: chunked\r\n", body + b"0\r\n\r\n"), end=False
        )
        file = json.loads(answer)
        assert status == 201
        assert file["sha256"] == hashlib.sha256(LARGE[:size]).hexdigest()
        self.delete(server, file["id"])

    def test_bytes_after_the_body_are_the_next_request(self, server: Server) -> None:
        """More than was declared is not part of the file."""
        status, _, answer = server.ask(upload("Content-Length: 5\r\n", b"helloWHAT"), end=False)
        file = json.loads(answer)
        assert (status, file["size"]) == (201, 5)
        self.delete(server, file["id"])

    def test_expectation_is_answered_before_the_body(self, server: Server) -> None:
        """A client that waits for 100 gets it, then sends."""
        request = upload("Content-Length: 5\r\nExpect: 100-continue\r\n")
        with server.send(request, end=False) as connection:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 100")
            connection.sendall(b"hello")
            answer = read_answer(connection)
        assert answer.startswith(b"HTTP/1.1 201")
        self.delete(server, json.loads(answer.partition(b"\r\n\r\n")[2])["id"])

    def test_client_that_does_not_wait_to_be_asked_keeps_its_connection(
        self, server: Server
    ) -> None:
        """A body that came with its head needs no 100, and the next request is answered."""
        headers = "Content-Length: 5\r\nExpect: 100-continue\r\n"
        with server.send(upload(headers, b"hello"), end=False) as connection:
            answer = read_answer(connection)
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection).startswith(b"HTTP/1.1 200")
        assert answer.startswith(b"HTTP/1.1 201")
        self.delete(server, json.loads(answer.partition(b"\r\n\r\n")[2])["id"])

    def test_download_damaged_is_cut_and_the_server_lives(self, server: Server) -> None:
        """A client of a file damaged further on gets a short body, never a wrong byte."""
        body = os.urandom(2_500_000)
        status, _, answer = server.ask(upload("Content-Length: 2500000\r\n", body), end=False)
        file = json.loads(answer)
        assert status == 201
        path = server.path / "primary/blobs" / file["sha256"][:2] / file["sha256"][2:4]
        (path / file["sha256"]).chmod(0o600)
        (path / file["sha256"]).write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
        request = f"GET /download/{file['id']} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        status, head, received = server.ask(request, end=False)
        assert status == 200
        assert b"Content-Length: 2500000" in head
        assert received == body[: 2 << 20]
        self.delete(server, file["id"])

    @staticmethod
    def delete(server: Server, file_id: str) -> None:
        """Delete a file."""
        request = f"DELETE /files/{file_id} HTTP/1.0\r\n\r\n".encode()
        assert server.ask(request, end=False)[0] == 204
