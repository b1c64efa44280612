"""No worker takes more than its share of the connections."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from dfs.server import shares as module
from dfs.server.shares import INSIST_S, WORKERS_MAX, Shares
from dfs.server.worker import YIELD_S
from tests.hostile.target import Target, running_target
from tests.project.chaos_clients import wait_until

CONNECTIONS = 40
WAIT_S = 30.0


def test_worker_is_ahead_of_those_with_fewer() -> None:
    """Only of workers that take connections, and not of itself."""
    shares = Shares()
    first, second = shares.claim(), shares.claim()
    first.note(1)
    assert not first.is_ahead()
    second.note(0)
    assert first.is_ahead()
    assert not second.is_ahead()
    second.note(1)
    assert not first.is_ahead()
    first.note(2)
    assert first.is_ahead()
    second.close()
    assert not first.is_ahead()


def test_worker_that_ended_is_forgotten() -> None:
    """Whatever it had last, and its place goes to another."""
    shares = Shares()
    first, second = shares.claim(), shares.claim()
    first.note(5)
    second.note(3)
    shares.release(second)
    assert not first.is_ahead()
    places = {shares.claim().place for _ in range(WORKERS_MAX - 1)}
    assert second.place in places
    assert first.place not in places


def test_worker_beyond_the_table_goes_without() -> None:
    """It is never ahead, and nobody is ahead of it."""
    shares = Shares()
    counted = [shares.claim() for _ in range(WORKERS_MAX)]
    beyond = shares.claim()
    beyond.note(1)
    assert not beyond.is_ahead()
    counted[0].note(2)
    assert not counted[0].is_ahead()
    shares.release(beyond)
    assert shares.claim().place is None


def test_worker_that_insists_is_not_ahead_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left to another in vain it does not leave at every connection."""
    now_s = [1000.0]
    monkeypatch.setattr(module, "monotonic", lambda: now_s[0])
    shares = Shares()
    first, second = shares.claim(), shares.claim()
    first.note(1)
    second.note(0)
    first.insist()
    assert not first.is_ahead()
    now_s[0] += INSIST_S
    assert first.is_ahead()


@pytest.mark.integration
def test_worker_that_hangs_does_not_hold_up_connections(tmp_path: Path) -> None:
    """The other, which leaves it some in vain, takes most of them at once."""
    with running_target(tmp_path, WEB_CONCURRENCY="2") as target:
        wait_for_both(target)
        idle = target.footprint().workers[0]
        os.kill(idle, signal.SIGSTOP)
        try:
            with connections(target, CONNECTIONS):
                took_s = []
                for _ in range(CONNECTIONS):
                    since_s = time.monotonic()
                    with connections(target, 1):
                        took_s.append(time.monotonic() - since_s)
                assert min(took_s) < YIELD_S
        finally:
            os.kill(idle, signal.SIGCONT)


@pytest.mark.integration
def test_connections_go_to_the_worker_with_fewer(tmp_path: Path) -> None:
    """What comes while a worker has more than another is left to that one, if it is there in time.

    Without sharing about half of them go to either, in each round.
    """
    with running_target(tmp_path, WEB_CONCURRENCY="2") as target:
        wait_for_both(target)
        idle, busy = target.footprint().workers
        assert wait_until(
            lambda: count_taken_by_busy(target, idle, busy) <= CONNECTIONS // 10,
            timeout_s=WAIT_S,
        )


def count_taken_by_busy(target: Target, idle: int, busy: int) -> int:
    """Return how many of as many connections as it has already come to the worker that has all."""
    assert wait_until(lambda: sockets_of(idle) == sockets_of(busy) == 1, timeout_s=WAIT_S)
    os.kill(idle, signal.SIGSTOP)
    try:
        with connections(target, CONNECTIONS), ExitStack() as stack:
            before = sockets_of(busy)
            os.kill(idle, signal.SIGCONT)
            for _ in range(CONNECTIONS):
                stack.enter_context(connections(target, 1))
            return sockets_of(busy) - before
    finally:
        os.kill(idle, signal.SIGCONT)


@contextmanager
def connections(target: Target, count: int) -> Iterator[None]:
    """Have connections that were all answered once."""
    with ExitStack() as stack:
        opened = [stack.enter_context(target.connect()) for _ in range(count)]
        for connection in opened:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for connection in opened:
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        yield


def wait_for_both(target: Target) -> None:
    """Wait until each of two workers has served, so that both take connections."""
    end_s = time.monotonic() + WAIT_S
    while True:
        with connections(target, CONNECTIONS):
            if all(sockets_of(worker) > 1 for worker in target.footprint().workers):
                return
        assert time.monotonic() < end_s


def sockets_of(worker: int) -> int:
    """Return how many sockets a process has open, the one that listens among them."""
    count = 0
    for entry in Path(f"/proc/{worker}/fd").iterdir():
        try:
            count += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return count
