"""The threads that serve: as many work as should, however many wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

import pytest

from dfs.server.crew import ServingCrew
from dfs.server.threads import ServingThreads


class Jobs:
    """Work for threads, one job at a time."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._jobs: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self.push = self._jobs.put
        self.take = self._jobs.get
        self.crew = ServingCrew(
            has_arrivals=lambda: not self._jobs.empty(), call=lambda: None, gather_s=0
        )

    def close(self) -> None:
        """Have each thread end."""
        for _ in range(self._threads):
            self._jobs.put(None)


def start_threads(jobs: Jobs, *, count: int, lent_max: int) -> ServingThreads[Callable[[], object]]:
    """Have so many threads do these jobs."""
    return ServingThreads(
        jobs, crew=jobs.crew, serve=lambda job: job(), count=count, lent_max=lent_max
    )


def lend_many(
    threads: ServingThreads[Callable[[], object]], jobs: Jobs, count: int
) -> tuple[list[bool], Callable[[], None]]:
    """Lend so many threads; return whether each could be, and what ends their jobs."""
    lent: list[bool] = []
    told = threading.Semaphore(0)
    end = threading.Event()

    def wait_for_client() -> None:
        lent.append(threads.lend())
        told.release()
        end.wait(30)

    for _ in range(count):
        jobs.push(wait_for_client)
    for _ in range(count):
        assert told.acquire(timeout=30)
    return lent, end.set


def test_threads_lent_are_replaced_and_end() -> None:
    """Work goes on beside more slow clients than there are threads; afterwards all is as before."""
    before = set(threading.enumerate())
    jobs = Jobs(2)
    threads = start_threads(jobs, count=2, lent_max=10)
    ours = set(threading.enumerate()) - before
    lent, end = lend_many(threads, jobs, 10)
    assert lent == [True] * 10
    done = threading.Event()
    jobs.push(done.set)
    assert done.wait(30)
    assert len(set(threading.enumerate()) - before) == 12
    end()
    for thread in ours:
        thread.join(30)
    assert len(set(threading.enumerate()) - before) <= 12
    threads.shutdown()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_threads_lent_have_a_bound() -> None:
    """Beyond it the client has to go; when one is back, the next may be lent."""
    jobs = Jobs(4)
    threads = start_threads(jobs, count=4, lent_max=2)
    lent, end = lend_many(threads, jobs, 3)
    assert sorted(lent) == [False, True, True]
    end()
    ended = threading.Event()
    jobs.push(ended.set)
    assert ended.wait(30)
    while threads.count_lent():
        pass
    again, end_again = lend_many(threads, jobs, 2)
    assert again == [True, True]
    end_again()
    threads.shutdown()


def test_thread_that_cannot_be_replaced_is_not_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine has no more threads, the slow client has to go, and all threads stay."""
    jobs = Jobs(2)
    threads = start_threads(jobs, count=2, lent_max=10)

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        lent, end = lend_many(threads, jobs, 2)
        end()
    assert lent == [False, False]
    again, end_again = lend_many(threads, jobs, 3)
    assert again == [True, True, True]
    end_again()
    threads.shutdown()
