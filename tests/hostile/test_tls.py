"""A node that speaks TLS is no easier to stop than one that does not."""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.hostile.cases import request
from tests.hostile.disconnects import disconnect
from tests.hostile.slow import serve_honest, slow_clients
from tests.hostile.target import ROOT, Target, read_answer, running_target

pytestmark = pytest.mark.integration

CERTIFICATE = ROOT / "tests/data/tls/cert.pem"
CLIENT_HELLO = bytes.fromhex("16030100a5010000a10303")
SLOW = 60  # more than there are threads


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A node with little patience."""
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    context.check_hostname = False
    settings = {
        "DFS_TLS_CERT_PATH": str(CERTIFICATE),
        "DFS_TLS_KEY_PATH": str(CERTIFICATE.with_name("key.pem")),
        "DFS_CLIENT_GRACE_S": "2",
        "DFS_HEAD_TIMEOUT_S": "2",
        "WEB_CONCURRENCY": "1",
    }
    with running_target(tmp_path_factory.mktemp("tls"), tls=context, **settings) as node:
        yield node


def test_tls_serves_large_files_and_many_requests_on_one_connection(target: Target) -> None:
    """What comes in records of TLS is put together as it was, and nothing waits in between."""
    body = os.urandom((7 << 20) + 5)
    stored = target.upload(body)
    file_id = json.loads(stored.body)["id"]
    assert target.get(f"/download/{file_id}").body == body
    with target.connect() as connection:
        connection.sendall(request("GET /health") * 30 + request("GET /ready")[:20])
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 30:
            received += connection.recv(1 << 16)
        connection.sendall(request("GET /ready")[20:])
        assert read_answer(connection).status == 200
    assert target.ask(request(f"DELETE /files/{file_id}")).status == 204
    target.check()


@pytest.mark.parametrize("sent", [b"", CLIENT_HELLO])
def test_handshakes_that_do_not_end_stop_nobody(target: Target, sent: bytes) -> None:
    """They wait without a thread, and are given up."""
    with ExitStack() as stack:
        connections = [stack.enter_context(target.connect_plainly()) for _ in range(SLOW)]
        for connection in connections:
            connection.sendall(sent)
        assert max(serve_honest(target, clients=4, seconds=0.5)) < 2.5
        assert {connection.recv(1) for connection in connections[::20]} == {b""}
    target.check()


@pytest.mark.parametrize("kind", ["heads", "bodies", "readers"])
def test_slow_clients_over_tls_stop_nobody(target: Target, kind: str) -> None:
    """The same as without TLS."""
    with slow_clients(target, kind, SLOW) as slow:
        assert max(serve_honest(target, clients=4, seconds=0.5)) < 2.5
        answer = read_answer(slow.connections[0])
    assert answer.status == (200 if kind == "readers" else 408)
    target.check()


def test_tls_broken_off_or_damaged_leaves_nothing(target: Target) -> None:
    """At whatever stage a client goes away, and whatever it sends for records of TLS."""
    disconnect(target, seed=20261126, count=100)
    rng = random.Random(20261126)
    for _ in range(100):
        with target.connect() as connection, socket.socket(fileno=connection.detach()) as plain:
            plain.sendall(rng.choice((b"\x17\x03\x03\x01\x00", b"\x15\x03\x03", b"")))
            plain.sendall(rng.randbytes(300))
    target.check()


def test_clients_without_tls_are_sent_away(target: Target) -> None:
    """Quietly: there is no answer that they would understand."""
    with target.connect_plainly() as connection:
        connection.sendall(request("GET /health"))
        assert read_answer(connection).status == 0
    target.check()
