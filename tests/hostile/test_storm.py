"""Damaged requests and clients that go away, in great numbers; see `siege` for greater ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.hostile.disconnects import STAGES, disconnect
from tests.hostile.fuzz import fuzz, judge
from tests.hostile.target import Target, running_target

pytestmark = pytest.mark.integration

ROUNDS = 1500
DISCONNECTS = 600
PROBLEM = b"Content-Type: application/problem+json\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A node for this file."""
    with running_target(tmp_path_factory.mktemp("storm"), WEB_CONCURRENCY="2") as node:
        yield node


def test_fuzz_finds_nothing(target: Target) -> None:
    """Whatever is sent, the answer is one, never a 500, and the node is as well as before."""
    report = fuzz(target.host, target.port, seed=20261126, rounds=ROUNDS)
    assert not report.faults, report
    assert report.rounds == ROUNDS
    assert {200, 201, 400, 404, 422} <= set(report.statuses)
    target.check()


def test_disconnects_leave_nothing(target: Target) -> None:
    """At whatever stage a client goes away: no file, no thread, no descriptor."""
    counts = disconnect(target, seed=20261126, count=DISCONNECTS)
    assert set(counts) == set(STAGES)
    assert min(counts.values()) >= DISCONNECTS // len(STAGES)
    target.check()


@pytest.mark.parametrize(
    ("received", "faults"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\n" + PROBLEM, 1),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", 1),
        (b"HTTP/1.1 400 Bad Request\r\n" + PROBLEM, 0),
        (b"HTTP/1.1 503 Service Unavailable\r\n" + PROBLEM, 0),
        (b"Traceback (most recent call last)", 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 502 Bad\r\n" + PROBLEM, 1),
        (b"", 0),
    ],
)
def test_judge_finds_what_must_not_be(received: bytes, faults: int) -> None:
    """The check of the fuzz can fail."""
    assert len(judge(b"GET / HTTP/1.1", received, Counter())) == faults
