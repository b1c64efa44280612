"""Clients that notice every request that a node loses while its processes are replaced.

They do what RFC 9112 (9.3.1, 9.6) asks of clients, and no more: before a connection is used again
they look whether the server has closed it; a request on a connection that was used before, to which
not one byte was answered until its end, is asked again on another. Anything else that is not the
answer they wished for is a loss: a refused connection, a reset, a part of an answer, an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

TIMEOUT_S = 60
SMALL_BYTES, LARGE_BYTES = 2_000, 3 << 20
PIECES = 24
PIECE_PAUSE_S = 0.05
"""A slow upload takes more than a second, so that some are under way whenever something happens."""
PIPELINED = 5
PAUSE_S = 0.01
"""Of each client between two requests: the load is to be constant, not as high as can be."""


def encode_request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class LostError(Exception):
    """A request was lost."""


class EndedError(Exception):
    """A connection that was used before has ended, and nothing was answered on it."""


class Client:
    """One client and its connection.

    Args:
        counts: requests by what became of them.
    """

    def __init__(self, port: int, counts: Counter[str]) -> None:
        self._port = port
        self._counts = counts
        self._sock: socket.socket | None = None
        self._is_used = False
        self._data = b""

    def ask(self, method: str, path: str, body: bytes = b"", *, slowly: bool = False) -> bytes:
        """Return the body of the answer, which must be of a success. Raises LostError."""
        (answer,) = self.ask_all([encode_request(method, path, body)], slowly=slowly)
        return answer

    def ask_all(self, requests: list[bytes], *, slowly: bool = False) -> list[bytes]:
        """Send requests in one piece, and return the bodies of all answers. Raises LostError."""
        wanted = requests
        answers: list[bytes] = []
        while len(answers) < len(requests):
            wanted = requests[len(answers) :]
            try:
                self._send(b"".join(wanted), slowly=slowly)
                for _ in wanted:
                    answers.append(self._receive())
                    if self._sock is None and len(answers) < len(requests):
                        raise LostError("closed though more requests were there")
            except EndedError:
                self._counts["asked again"] += 1
            except OSError as error:
                raise LostError(f"{error!r} with {wanted[0][:60]!r}") from error
        self._counts["answered"] += len(answers)
        return answers

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._is_used, self._data = None, False, b""

    def _send(self, data: bytes, *, slowly: bool) -> None:
        if self._sock is not None and select.select([self._sock], [], [], 0)[0]:
            self.close()  # nothing is owed to us, so that this is its end
        if self._sock is None:
            self._sock = socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
        step = len(data) // PIECES + 1 if slowly else len(data)
        for start in range(0, len(data), step):
            if start:
                threading.Event().wait(PIECE_PAUSE_S)
            self._sock.sendall(data[start : start + step])

    def _receive(self) -> bytes:
        """Return the body of the next answer."""
        while b"\r\n\r\n" not in self._data:
            self._read()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        fields = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = int(fields.get("content-length", 0))
        while len(self._data) < length:
            self._read()
        body, self._data = self._data[:length], self._data[length:]
        self._is_used = True
        if status.split()[1] not in ("200", "201", "204"):
            raise LostError(f"{status}: {body[:300]!r}")
        if fields["connection"] == "close":
            self._counts["told to close"] += 1
            self.close()
        return body

    def _read(self) -> None:
        assert self._sock is not None
        data = self._sock.recv(1 << 20)
        if not data:
            is_ended = self._is_used and not self._data
            self.close()
            raise EndedError if is_ended else LostError("the connection ended without an answer")
        self._data += data


class Load:
    """Many clients at once, until `stop`.

    Attributes:
        lost: what was lost, in words.
        counts: see `Client`.
        stored: digests of what is stored, by the id of the file.
    """

    def __init__(self, port: int) -> None:
        self.lost: list[str] = []
        self.counts: Counter[str] = Counter()
        self.stored: dict[str, str] = {}
        self._port = port
        self._is_over = threading.Event()
        jobs = [self._store, self._store, self._store_and_delete, self._read, self._list_slowly]
        jobs += [self._store_in_one_go, self._pipeline, self._store_large, self._store_slowly]
        self._threads = [threading.Thread(target=self._run, args=(job,)) for job in jobs]

    def start(self) -> None:
        """Start all clients."""
        for thread in self._threads:
            thread.start()

    def wait_for(self, count: int) -> None:
        """Wait until so many more requests were answered, or one was lost."""
        until = self.counts["answered"] + count
        while self.counts["answered"] < until and not self.lost:
            self._is_over.wait(0.02)

    def stop(self) -> None:
        """Stop all clients when their requests are answered."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def check(self) -> None:
        """Fail if a request was lost, or what is stored is not what was acknowledged."""
        assert not self.lost, self.lost
        client = Client(self._port, Counter())
        found: list[str] = []
        path = "/files?limit=1000"
        while path:
            page = json.loads(client.ask("GET", path))
            found += [file["id"] for file in page["files"]]
            path = f"/files?limit=1000&after={page['next']}" if page["next"] else ""
        assert sorted(found) == sorted(self.stored)
        for file_id, digest in random.sample(sorted(self.stored.items()), 20):
            body = client.ask("GET", f"/download/{file_id}")
            assert hashlib.sha256(body).hexdigest() == digest
        client.close()

    def _run(self, job: Callable[[Client], None]) -> None:
        client = Client(self._port, self.counts)
        try:
            while not self._is_over.is_set():
                job(client)
                self._is_over.wait(PAUSE_S)
        except (LostError, AssertionError) as error:
            self.lost.append(f"{job.__name__}: {error}")
        finally:
            client.close()

    def _put(self, client: Client, body: bytes, *, slowly: bool = False) -> str:
        answer = json.loads(client.ask("POST", "/upload?name=f", body, slowly=slowly))
        file_id: str = answer["id"]
        self.stored[file_id] = hashlib.sha256(body).hexdigest()
        assert answer["sha256"] == self.stored[file_id]
        return file_id

    def _store(self, client: Client) -> None:
        self._put(client, os.urandom(SMALL_BYTES))

    def _store_and_delete(self, client: Client) -> None:
        file_id = self._put(client, os.urandom(SMALL_BYTES))
        client.ask("DELETE", f"/files/{file_id}")
        del self.stored[file_id]

    def _read(self, client: Client) -> None:
        file_id = self._put(client, os.urandom(LARGE_BYTES // 4))
        for _ in range(5):
            body = client.ask("GET", f"/download/{file_id}")
            assert hashlib.sha256(body).hexdigest() == self.stored[file_id]

    def _list_slowly(self, client: Client) -> None:
        client.ask("GET", "/files?limit=3")
        self._is_over.wait(random.uniform(0, 3))

    def _store_in_one_go(self, client: Client) -> None:
        self._put(client, os.urandom(SMALL_BYTES))
        client.close()

    def _pipeline(self, client: Client) -> None:
        body = os.urandom(SMALL_BYTES)
        upload = encode_request("POST", "/upload?name=p", body)
        answers = client.ask_all([encode_request("GET", "/health"), upload] * PIPELINED)
        for answer in answers[1::2]:
            self.stored[json.loads(answer)["id"]] = hashlib.sha256(body).hexdigest()

    def _store_large(self, client: Client) -> None:
        self._put(client, os.urandom(LARGE_BYTES))

    def _store_slowly(self, client: Client) -> None:
        self._put(client, os.urandom(LARGE_BYTES), slowly=True)


@contextmanager
def running_load(port: int) -> Iterator[Load]:
    """Have clients at work; stop them whatever happens."""
    load = Load(port)
    load.start()
    try:
        yield load
    finally:
        load.stop()


def is_refused(port: int) -> bool:
    """Tell whether nobody listens there."""
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 5):
        return False
    return True
