"""Clients that go away, at every stage of a request."""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from tests.hostile.cases import FORM, chunks, form, part, request, upload
from tests.hostile.target import Target

BODY = b"x" * 300_000
THREADS = 8
Stage = Callable[[socket.socket, str], None]


def _nothing(connection: socket.socket, file_id: str) -> None:
    pass


def _sending(data: bytes) -> Stage:
    def send(connection: socket.socket, file_id: str) -> None:
        connection.sendall(data)

    return send


def _downloading(received: int) -> Stage:
    def download(connection: socket.socket, file_id: str) -> None:
        connection.sendall(request(f"GET /download/{file_id}"))
        if received:
            connection.recv(received)

    return download


def _after_an_answer(connection: socket.socket, file_id: str) -> None:
    connection.sendall(request("GET /health"))
    connection.recv(1 << 16)
    connection.sendall(b"GET /hea")


def _half_closed(connection: socket.socket, file_id: str) -> None:
    connection.sendall(upload("Content-Length: 300000\r\n", BODY[:1000]))
    connection.shutdown(socket.SHUT_WR)


WHOLE = upload("Content-Length: 300000\r\n", BODY, "?name=gone&ttl_s=1")
STAGES: dict[str, Stage] = {
    "connected": _nothing,
    "in the first line": _sending(b"POST /upl"),
    "in the head": _sending(WHOLE[:60]),
    "before the body": _sending(WHOLE[:-300_000]),
    "at the body": _sending(WHOLE[:-299_999]),
    "in the body": _sending(WHOLE[:150_000]),
    "before the last byte": _sending(WHOLE[:-1]),
    "before the answer": _sending(WHOLE),
    "in a small body": _sending(upload("Content-Length: 5\r\n", b"hel")),
    "in a form": _sending(form(part(data=BODY) + b"--bound--\r\n", FORM)[:200_000]),
    "in the head of a part": _sending(form(part() + b"--bound--\r\n", FORM)[:180]),
    "in a chunk": _sending(chunks(b"493e0\r\n" + BODY)[:150_000]),
    "between chunks": _sending(chunks(b"5\r\nhello\r\n")),
    "while waiting to go on": _sending(upload("Content-Length: 5\r\nExpect: 100-continue\r\n")),
    "half": _half_closed,
    "before a download": _downloading(0),
    "in the head of a download": _downloading(10),
    "in a download": _downloading(100_000),
    "after an answer": _after_an_answer,
    "in a list": _sending(request("GET /files?limit=1000")),
}


def disconnect(target: Target, seed: int, count: int) -> dict[str, int]:
    """Go away so many times, half of them with a reset. Returns how often at each stage."""
    body = random.Random(seed).randbytes(9_000_000)
    file_id = json.loads(target.upload(body).body)["id"]
    names = list(STAGES)
    rng = random.Random(seed)
    plan = [(names[number % len(names)], rng.random() < 0.5) for number in range(count)]
    rng.shuffle(plan)

    def go_away(stage: str, resets: bool) -> None:
        with target.connect() as connection:
            with suppress(OSError):  # refused before all was sent
                STAGES[stage](connection, file_id)
            if resets:
                off = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)

    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(go_away, *step) for step in plan]:
            done.result()
    target.ask(request(f"DELETE /files/{file_id}"))
    counts = dict.fromkeys(names, 0)
    for stage, _ in plan:
        counts[stage] += 1
    return counts
