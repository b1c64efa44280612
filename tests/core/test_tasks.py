"""Work for other threads, where there may be none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.core.tasks import start_task


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


def refuse_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_task_is_done_by_another_thread(threads: ThreadPoolExecutor) -> None:
    """The caller goes on meanwhile, and gets what comes of it."""
    go_on = threading.Event()

    def work(number: int) -> tuple[int, int]:
        assert go_on.wait(10)
        return number, threading.get_ident()

    task = start_task(threads, work, 7)
    assert not task.done()
    go_on.set()
    number, thread = task.result(10)
    assert number == 7
    assert thread != threading.get_ident()


def test_fault_of_a_task_is_that_of_whoever_waits(threads: ThreadPoolExecutor) -> None:
    """As if he had done the work himself."""
    task = start_task(threads, int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        task.result(10)


def test_task_is_done_once_where_no_thread_can_be_started(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool has it in its queue all the same, and the next thread finds it there."""
    done: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse_thread)
        task = start_task(threads, done.append, 1)
        assert (task.done(), done) == (True, [1])

    threads.submit(done.append, 2).result(10)

    assert done == [1, 2]
