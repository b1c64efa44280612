"""The threads that serve: as many work as should, however many wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

from dfs.server.threads import ServingThreads


def lend_many(threads: ServingThreads, count: int) -> tuple[list[bool], Callable[[], None]]:
    """Lend so many threads; return whether each could be, and what ends their jobs."""
    lent: list[bool] = []
    told = threading.Semaphore(0)
    end = threading.Event()

    def wait_for_client() -> None:
        lent.append(threads.lend())
        told.release()
        end.wait(30)

    for _ in range(count):
        threads.submit(wait_for_client)
    for _ in range(count):
        assert told.acquire(timeout=30)
    return lent, end.set


def test_threads_lent_are_replaced_and_end() -> None:
    """Work goes on beside more slow clients than there are threads; afterwards all is as before."""
    let_go: list[str] = []
    before = set(threading.enumerate())
    threads = ServingThreads(count=2, lent_max=10, let_go=lambda: let_go.append("gone"))
    ours = set(threading.enumerate()) - before
    lent, end = lend_many(threads, 10)
    assert lent == [True] * 10
    done = threading.Event()
    threads.submit(done.set)
    assert done.wait(30)
    assert len(set(threading.enumerate()) - before) == 12
    end()
    for thread in ours:
        thread.join(30)
    assert len(set(threading.enumerate()) - before) <= 12
    assert len(let_go) >= 12  # ten were lent, and two of them have ended
    threads.shutdown()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_threads_lent_have_a_bound() -> None:
    """Beyond it the client has to go; when one is back, the next may be lent."""
    threads = ServingThreads(count=4, lent_max=2, let_go=lambda: None)
    lent, end = lend_many(threads, 3)
    assert sorted(lent) == [False, True, True]
    end()
    ended = threading.Event()
    threads.submit(ended.set)
    assert ended.wait(30)
    while threads.count_lent():
        pass
    again, end_again = lend_many(threads, 2)
    assert again == [True, True]
    end_again()
    threads.shutdown()
