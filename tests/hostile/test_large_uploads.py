"""Files that are received into the memory they are written from: from the socket to the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.storage.local_writer import BUFFER_BYTES, CACHED_BYTES, PAIRS_MAX
from tests.hostile.cases import request, upload
from tests.hostile.target import Target, running_target

pytestmark = pytest.mark.integration

SIZE = CACHED_BYTES + 3 * BUFFER_BYTES + 5
CHUNK_BYTES = 300_007
CLIENTS = 2 * PAIRS_MAX + 2


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A node of one process, which all clients share."""
    with running_target(tmp_path_factory.mktemp("large"), WEB_CONCURRENCY="1") as node:
        yield node


def send_whole(body: bytes) -> bytes:
    """Return an upload of a length that is told before."""
    return upload(f"Content-Length: {len(body)}\r\n", body)


def send_chunks(body: bytes) -> bytes:
    """Return an upload of a length that is not."""
    pieces = [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)]
    chunks = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b"")]
    return upload("Transfer-Encoding: chunked\r\n", b"".join(chunks))


def give_back(target: Target, body: bytes, sent: bytes) -> None:
    """Upload, download and delete; fails if the bytes are not those that were sent."""
    stored = target.ask(sent)
    assert stored.status == 201
    file_id = json.loads(stored.body)["id"]
    assert target.get(f"/download/{file_id}").body == body
    assert target.ask(request(f"DELETE /files/{file_id}")).status == 204


@pytest.mark.parametrize("send", [send_whole, send_chunks])
@pytest.mark.parametrize("size", [CACHED_BYTES, CACHED_BYTES + BUFFER_BYTES, SIZE])
def test_large_file_comes_back_as_it_was_sent(
    target: Target, send: Callable[[bytes], bytes], size: int
) -> None:
    """Where the cache ends, where a buffer ends, and with a rest that is no block."""
    body = os.urandom(size)
    give_back(target, body, send(body))
    target.check()


def test_clients_with_large_files_share_no_byte(target: Target) -> None:
    """More than there are buffers for, and every second one goes away in the middle."""

    def do(number: int) -> None:
        body = os.urandom(SIZE + number)
        if number % 2:
            give_back(target, body, send_whole(body))
            return
        with target.connect() as client:
            client.sendall(send_whole(body)[:-BUFFER_BYTES])

    with ThreadPoolExecutor(CLIENTS) as clients:
        assert list(clients.map(do, range(2 * CLIENTS))) == [None] * (2 * CLIENTS)
    target.check()
