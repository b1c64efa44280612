"""How answers leave through Gunicorn: what is sent, and in how many pieces."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import InvalidResponseHeader

from dfs.api.responses import CLOSING_KEY, Answer
from dfs.server.answering import JOINED_BYTES_MAX, JoiningResponse


class CountingSocket:
    """Keeps the pieces that were sent, and those of them that wait for more."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.waiting: list[bytes] = []

    def sendall(self, data: bytes, *, is_more_at_hand: bool = False) -> None:
        """Take a piece."""
        self.sent.append(bytes(data))
        if is_more_at_hand:
            self.waiting.append(bytes(data))


def send(answer: Answer, method: str = "GET") -> tuple[list[bytes], JoiningResponse]:
    """Send an answer as the serving threads do; return the pieces, and the server's response."""
    sock = CountingSocket()
    req = SimpleNamespace(method=method, version=(1, 1), headers=[], should_close=lambda: False)
    response = JoiningResponse(req, sock, Config())
    environ = {"REQUEST_METHOD": method, CLOSING_KEY: response.force_close}
    body = answer(environ, response.start_response)
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
    """Only the first piece is joined with the headers, and only if it is short."""
    pieces = iter([b"one", b"two"])
    sent, _ = send(Answer(200, [("Content-Length", "6")], pieces))
    assert [part[-3:] for part in sent] == [b"one", b"two"]
    long = bytes(JOINED_BYTES_MAX + 1)
    sent, response = send(Answer(200, [], long))
    assert sent[0].endswith(b"\r\n\r\n")
    assert sent[1:] == [long]
    assert response.sock.waiting == sent[:1], "the head leaves with the body, but is not copied"


def test_head_without_body_waits_for_nothing() -> None:
    """An answer that ends with its head leaves at once."""
    _, response = send(Answer(200, [("Content-Length", "7")], ()), "HEAD")
    assert response.sock.waiting == []


def test_body_of_unknown_length_is_sent_in_chunks() -> None:
    """The end is marked, so that the connection can be kept."""
    sent, response = send(Answer(200, [], iter([b"one", b"", b"sixteen bytes!!!"])))
    head, _, body = b"".join(sent).partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert body == b"3\r\none\r\n10\r\nsixteen bytes!!!\r\n0\r\n\r\n"
    assert not response.should_close()


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\nb", "a\rb", "a\0b", "\x7f"])
def test_header_that_could_be_several_is_not_sent(value: str) -> None:
    """Whatever finds its way into a header stays in it, or the answer is refused."""
    with pytest.raises(InvalidResponseHeader):
        send(Answer(200, [("DFS-Metadata", value)], b"hello"))


def test_headers_of_the_connection_are_the_servers_own() -> None:
    """An application cannot say of the connection what the server does not do."""
    headers = [("Transfer-Encoding", "chunked"), ("Connection", "upgrade"), ("X-Tab", "a\tb \xe9")]
    sent, _ = send(Answer(200, headers, b"hello"))
    head = sent[0].partition(b"\r\n\r\n")[0]
    assert b"chunked" not in head
    assert b"upgrade" not in head
    assert b"\r\nX-Tab: a\tb \xe9" in head


def test_answer_that_closes_tells_gunicorn() -> None:
    """The connection is closed after an answer that says so."""
    sent, response = send(Answer(413, [], b"too large", close=True))
    assert response.should_close()
    assert b"\r\nConnection: close\r\n" in sent[0]
