"""How answers leave through Gunicorn: what is sent, and in how many pieces."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.wsgi import Response as GunicornResponse

from dfs.api.responses import Answer


class CountingSocket:
    """Keeps the pieces that were sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        """Take a piece."""
        self.sent.append(bytes(data))


def send(answer: Answer, method: str = "GET") -> tuple[list[bytes], GunicornResponse]:
    """Send an answer as Gunicorn's threads do; return the pieces, and Gunicorn's response."""
    sock = CountingSocket()
    req = SimpleNamespace(method=method, version=(1, 1), headers=[], should_close=lambda: False)
    response = GunicornResponse(req, sock, Config())
    body = answer({"REQUEST_METHOD": method}, response.start_response)
    for piece in body:
        response.write(piece)
    response.close()
    return sock.sent, response


def test_answer_with_short_body_is_one_piece() -> None:
    """Headers and body leave by one send."""
    sent, _ = send(Answer(200, [("DFS-LSN", "7")], b"hello"))
    assert len(sent) == 1
    head, _, body = sent[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nDFS-LSN: 7" in head
    assert b"\r\nContent-Length: 5" in head
    assert body == b"hello"


@pytest.mark.parametrize(
    ("answer", "method"),
    [
        (Answer(200, [], b"hello"), "HEAD"),
        (Answer(200, [], b""), "GET"),
        (Answer(204, [], b""), "DELETE"),
        (Answer(304, [], b"ignored"), "GET"),
    ],
)
def test_answer_without_body_sends_its_headers(answer: Answer, method: str) -> None:
    """Headers that no body follows are not kept back."""
    sent, _ = send(answer, method)
    assert b"".join(sent).startswith(f"HTTP/1.1 {answer.status}\r\n".encode())
    assert b"".join(sent).endswith(b"\r\n\r\n")


def test_answer_in_pieces_is_sent_as_they_come() -> None:
    """A long body is not held back to be joined."""
    pieces = iter([b"one", b"two"])
    sent, _ = send(Answer(200, [("Content-Length", "6")], pieces))
    assert sent[1:] == [b"one", b"two"]


def test_answer_that_closes_tells_gunicorn() -> None:
    """The connection is closed after an answer that says so."""
    sent, response = send(Answer(413, [], b"too large", close=True))
    assert response.should_close()
    assert b"\r\nConnection: close\r\n" in sent[0]
