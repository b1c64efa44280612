"""Hostile requests get the answer they deserve, and leave the node as it was."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.hostile.cases import CASES, HEADERS, VALUES, chunks, named, ranges, request
from tests.hostile.fuzz import exchange, judge
from tests.hostile.slow import slow_clients
from tests.hostile.target import Target, read_answer, running_target

pytestmark = pytest.mark.integration

KNOWN_HEADERS = {
    "accept-ranges",
    "cache-control",
    "connection",
    "content-disposition",
    "content-length",
    "content-security-policy",
    "content-type",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "date",
    "etag",
    "last-modified",
    "referrer-policy",
    "repr-digest",
    "server",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A node for this file."""
    with running_target(tmp_path_factory.mktemp("cases"), WEB_CONCURRENCY="1") as node:
        yield node


@pytest.mark.parametrize(
    ("hostile", "status"),
    [(hostile, status) for _, hostile, status in CASES],
    ids=[name for name, _, _ in CASES],
)
def test_hostile_request_is_refused(target: Target, hostile: bytes, status: int) -> None:
    """With a problem, at once, without waiting for what will not come."""
    answer = target.ask(hostile)
    assert answer.status == status, answer
    answer.problem()
    target.check()


@pytest.mark.parametrize("line", ["GET /files", "GET /docs", "GET /ready", "POST /upload?name=a"])
def test_header_of_any_content_is_answered(target: Target, line: str) -> None:
    """Nothing that stands in a header makes the node fail, not even text of no encoding."""
    for header in HEADERS:
        for value in VALUES:
            host = b"" if header == "Host" else b"Host: localhost\r\n"
            head = f"{line} HTTP/1.1\r\n{header}: ".encode() + value + b"\r\n" + host
            body = b"Content-Length: 5\r\n\r\nhello" if line[:4] == "POST" else b"\r\n"
            sent = head + body
            faults = judge(sent, exchange(target.host, target.port, sent), Counter())
            assert not faults, (header, value, faults)
    target.check()


def test_trailers_are_given_up_before_they_cost_much(target: Target) -> None:
    """A few headers' worth is read of them, not what takes seconds to search again and again."""
    before_s = target.cpu_s()
    assert target.ask(chunks(b"0\r\nX: " + b"y" * 4_000_000)).status == 400
    assert target.cpu_s() - before_s < 0.5


def test_absurd_ranges_cost_no_more_than_the_file(target: Target) -> None:
    """Ranges that are too many, overlap or are none are ignored; none is answered twice."""
    body = bytes(300_000)
    file_id = json.loads(target.upload(body).body)["id"]
    for name, hostile, status in ranges(file_id):
        answer = target.ask(hostile)
        assert answer.status == status, name
        assert len(answer.body) < len(body) + 4000
    target.ask(request(f"DELETE /files/{file_id}"))
    target.check()


@pytest.mark.parametrize(
    "name",
    [
        'a"; filename="evil',
        "a\\",
        "../../etc/passwd",
        "..",
        "/",
        "a;b=c",
        "a%0d%0aX-Evil: y",
        "=?utf-8?q?evil?=",
        "\u200d\u200f\ufeff",
        "<script>alert(1)</script>.html",
        "\U0010ffff",
        "CON",
    ],
)
def test_name_injects_no_header(target: Target, name: str) -> None:
    """A name comes back as it was given, and in the headers of a download only as a name."""
    evil = '{"X-Evil": "a\\r\\nX-Evil: y", "Content-Length": "0"}'
    stored = target.ask(named(f"name={quote(name)}", f"DFS-Metadata: {evil}\r\n"))
    file = json.loads(stored.body)
    assert (stored.status, file["name"]) == (201, name)
    answer = target.get(f"/download/{file['id']}")
    lines = answer.head.decode("latin-1").split("\r\n")[1:]
    assert {line.partition(":")[0].lower() for line in lines} <= KNOWN_HEADERS
    assert sum(line.lower().startswith("content-disposition:") for line in lines) == 1
    assert answer.body == b"hello"
    assert target.ask(request(f"DELETE /files/{file['id']}")).status == 204
    target.check()


def test_requests_in_a_row_are_answered_in_order(target: Target) -> None:
    """Many requests sent at once; the last of them closes the connection."""
    with target.connect() as connection:
        connection.sendall(
            request("GET /health") * 50 + request("GET /nowhere", "Connection: close\r\n")
        )
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    assert received.count(b"HTTP/1.1 200 OK") == 50
    assert received.count(b"HTTP/1.1 404 ") == 1
    target.check()


@pytest.mark.parametrize("unread", [(64 << 10) - 1, 64 << 10, (64 << 10) + 1])
def test_connection_of_a_body_that_nobody_reads_is_kept_or_said_to_close(
    target: Target, unread: int
) -> None:
    """What is little is thrown away before the next request; what is much ends the connection."""
    head = request("POST /upload?nothing=1", f"Content-Length: {unread}\r\n")
    with target.connect() as connection:
        connection.sendall(head + bytes(unread))
        answer = read_answer(connection)
        assert answer.status == 422
        is_kept = b"\r\nconnection: close\r\n" not in answer.head.lower()
        assert is_kept == (unread < 64 << 10)
        if is_kept:
            connection.sendall(request("GET /health"))
            assert read_answer(connection).status == 200
    target.check()


def test_smuggled_request_is_not_answered(target: Target) -> None:
    """What follows a request whose length is in doubt is thrown away with the connection."""
    smuggled = request("GET /health")
    body = b"0\r\n\r\n" + smuggled
    headers = f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n"
    with target.connect() as connection:
        connection.sendall(request("POST /upload?name=a", headers, body))
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    assert received.count(b"HTTP/1.1 ") == 1
    assert received.startswith(b"HTTP/1.1 400 ")
    target.check()


def test_uploads_at_a_time_are_limited_for_each_caller(tmp_path: Path) -> None:
    """The next one gets 429, and is taken when there is room again."""
    settings = {"DFS_UPLOADS_PER_CALLER_MAX": "8", "DFS_CLIENT_GRACE_S": "60"}
    with running_target(tmp_path, WEB_CONCURRENCY="1", **settings) as target:
        with ExitStack() as slow:
            answer = target.upload(b"hello")
            while answer.status == 201:  # which may have had the place of a slow one
                slow.enter_context(slow_clients(target, "bodies", 1))
                answer = target.upload(b"hello")
            assert answer.status == 429
            assert answer.problem()["code"] == "too_many_requests"
            assert b"\r\nRetry-After: 1" in answer.head
        target.settle()
        target.check()


def test_head_cut_anywhere_is_answered_when_it_is_whole(target: Target) -> None:
    """However the network cuts a request, it is one request."""
    hostile = named("name=a", "X: y\r\n")
    for at in range(1, len(hostile), 7):
        with target.connect() as connection:
            connection.sendall(hostile[:at])
            target.get("/health")
            connection.sendall(hostile[at:])
            answer = read_answer(connection)
        assert answer.status == 201
        target.ask(request(f"DELETE /files/{json.loads(answer.body)['id']}"))
    target.check()
