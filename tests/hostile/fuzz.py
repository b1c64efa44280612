"""Real requests, damaged at random and sent over raw sockets.

    python -m tests.hostile.fuzz --host 127.0.0.1 --port 8000 --seed 1 --rounds 10000

Each round follows from the seed and its number alone. It stores files of its own, whose names
mostly begin with `fuzz`, and touches no others.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.hostile.cases import CASES, FORM, chunks, form, named, part, ranges, request

ANSWER_S = 30.0
ALLOWED_5XX = (501, 503, 507)
"""No such transfer coding; not ready or no quorum; no space. A client gets no others."""
FAULTS_MAX = 20
Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


@dataclass(slots=True)
class Report:
    """What came of it.

    Attributes:
        statuses: how often each status was answered; 0 for nothing at all.
        faults: what must not be, each with the number of its round.
    """

    seed: int
    rounds: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{status}: {count}" for status, count in sorted(self.statuses.items()))
        lines = [
            f"fuzz: seed {self.seed}, {self.rounds} rounds in {self.seconds:.0f} s; {counts}",
            f"faults: {len(self.faults)}",
            *self.faults,
        ]
        return "\n".join(lines)


def fuzz(host: str, port: int, seed: int, rounds: int, *, headers: str = "") -> Report:
    """Send so many damaged requests to a node.

    Args:
        headers: sent with what is not damaged too much, such as `Authorization: ...\\r\\n`.
    """
    report = Report(seed)
    since_s = time.monotonic()
    corpus = make_corpus(host, port, headers)
    for number in range(rounds):
        report.rounds += 1
        try:
            sent, received = play(host, port, random.Random(f"{seed} {number}"), corpus)
        except OSError as error:
            report.faults.append(f"round {number}: {error!r}")
        else:
            found = judge(sent, received, report.statuses)
            report.faults += [f"round {number}: {fault}" for fault in found]
        if len(report.faults) >= FAULTS_MAX:
            break
    report.seconds = time.monotonic() - since_s
    return report


def make_corpus(host: str, port: int, headers: str) -> list[bytes]:
    """Return requests, most of which are well-formed."""
    body = b"fuzz" * 75_000
    head = f"{headers}Content-Length: {len(body)}\r\n"
    stored = exchange(host, port, request("POST /upload?name=fuzz", head, body))
    file_id = json.loads(stored.partition(b"\r\n\r\n")[2])["id"]
    name = '{"name": "fuzz two", "metadata": {"a": "b"}}'
    change = f"Content-Type: application/json\r\nContent-Length: {len(name)}\r\n"
    honest = [
        request("GET /health"),
        request("GET /ready"),
        request("GET /openapi.json"),
        request("GET /files?limit=5&prefix=fuzz"),
        request("GET /files?limit=5&deleted=true"),
        request(f"GET /files/{file_id}"),
        request(f"GET /download/{file_id}"),
        request(f"GET /download/{file_id}", "Range: bytes=5-9,100-200\r\nIf-Range: x\r\n"),
        request(f"PATCH /files/{file_id}", change, name.encode()),
        named("name=fuzz", 'DFS-Metadata: {"a": "b"}\r\nContent-MD5: XUFAKrxLKna5cZ2REBfFkg==\r\n'),
        named("name=fuzz&ttl_s=60", "If-None-Match: *\r\nContent-Type: text/plain\r\n"),
        form(part() + part(b'name="metadata"', data=b'{"a": "b"}') + b"--bound--\r\n"),
        form(part(data=b"\r\n--boun" * 20_000) + b"--bound--\r\n", FORM),
        chunks(b"5\r\nhello\r\n1000\r\n" + b"x" * 4096 + b"\r\n0\r\nX: y\r\n\r\n"),
        request("POST /admin/replicas/sync?wait=1", "Content-Length: 0\r\n"),
        request("GET /admin/wal/entries?after=3&limit=5"),
        request("GET /admin/usage"),
    ]
    hostile = [case for _, case, _ in [*CASES, *ranges(file_id)] if len(case) < 20_000]
    everything = [*honest * 8, *hostile]
    line = headers.encode()
    return [
        case.replace(b"Host: localhost\r\n", b"Host: localhost\r\n" + line) for case in everything
    ]


def cut(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """Leave the end away."""
    return data[: rng.randrange(len(data) + 1)]


def flip(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """Turn some bits over, most of them in the head."""
    damaged = bytearray(data)
    for _number in range(rng.choice((1, 1, 2, 8, 64))):
        end = len(data) if rng.random() < 0.3 else min(len(data), 400)
        damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def splice(rng: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """Go on with the end of another request."""
    other = rng.choice(corpus)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def insert(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """Put bytes in between that mean something to a parser, or nothing."""
    pieces = (
        *(
            b"\r\n",
            b"\n",
            b"\r",
            b"\0",
            b": ",
            b"%00",
            b"%ff",
            b"\r\n\r\n",
            b"0\r\n\r\n",
            b"--bound",
        ),
        *(b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"\xff" * 9, b"9" * 40),
        rng.randbytes(rng.randrange(1, 300)),
    )
    at = rng.randrange(min(len(data), 600) + 1)
    return data[:at] + rng.choice(pieces) + data[at:]


def repeat(rng: random.Random, data: bytes, _: list[bytes]) -> bytes:
    """Say a part of it several times."""
    first = rng.randrange(min(len(data), 600) + 1)
    last = first + rng.randrange(200)
    return data[:first] + data[first:last] * rng.choice((2, 3, 50)) + data[last:]


def pipeline(rng: random.Random, data: bytes, corpus: list[bytes]) -> bytes:
    """Send others before and behind it."""
    return b"".join(rng.choice(corpus) for _number in range(rng.randrange(4))) + data


def replace_all(rng: random.Random, _: bytes, __: list[bytes]) -> bytes:
    """Send anything at all."""
    return rng.randbytes(rng.choice((1, 20, 400, 9000, 70_000)))


MUTATIONS: tuple[Mutation, ...] = (
    *(cut, flip, flip, flip, splice, splice, insert, insert, repeat, pipeline),
    replace_all,
)


def play(host: str, port: int, rng: random.Random, corpus: list[bytes]) -> tuple[bytes, bytes]:
    """Play one round. Returns what was sent and what came back."""
    data = rng.choice(corpus)
    for mutation in rng.choices(MUTATIONS, k=rng.choice((1, 1, 1, 2, 3))):
        data = mutation(rng, data or b"x", corpus)
    if rng.random() < 0.1:  # and not wait for an answer
        with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
            connection.sendall(data[:100_000])
        return data, b""
    return data, exchange(host, port, data, piece=rng.choice((0, 0, 0, 1, 100)))


def exchange(host: str, port: int, data: bytes, *, piece: int = 0) -> bytes:
    """Send bytes, say that nothing more follows, and return all that comes back.

    Args:
        piece: length of a first piece that is sent by itself; 0: none is.
    """
    received = bytearray()
    with socket.create_connection((host, port), timeout=ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.sendall(data[:piece])
            connection.sendall(data[piece:])
            connection.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise
        except OSError:
            pass  # refused before all was sent
        try:
            while more := connection.recv(1 << 18):
                received += more
        except ConnectionResetError:
            pass
    return bytes(received)


def judge(sent: bytes, received: bytes, statuses: Counter[int]) -> list[str]:
    """Count the answers, and return what is wrong with them."""
    if not received:
        statuses[0] += 1
        return []
    faults: list[str] = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        if match is None:
            return [*faults, f"no answer: {received[:100]!r} to {sent[:300]!r}"]
        status = int(match[1])
        statuses[status] += 1
        if status == 100:
            received = rest
            continue
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        size = 0 if status in (204, 304) or length is None else int(length[1])
        if status >= 500 and status not in ALLOWED_5XX:
            faults.append(f"{status} to {sent[:2000]!r}")
        if status >= 400 and b"application/problem+json" not in head and b"HEAD" not in sent:
            faults.append(f"{status} without a problem to {sent[:300]!r}")
        received = b"" if b"HEAD " in sent else rest[size:]
    return faults


def main() -> int:
    """Fuzz a node that runs. Returns 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10_000)
    given = parser.parse_args()
    report = fuzz(given.host, given.port, given.seed, given.rounds)
    print(report)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
