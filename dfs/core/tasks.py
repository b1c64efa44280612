"""Work that is handed to other threads, and done once whether they can be had or not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")


def start_task(threads: Executor, work: Callable[..., T], *arguments: object) -> Future[T]:
    """Have one of `threads` do a piece of work; without a thread it is done before this returns.

    `Executor.submit` queues the work before it starts a thread (`concurrent/futures/thread.py` of
    CPython 3.11). Where the system gives none, it raises, and whichever thread comes later does the
    work all the same: with a descriptor, say, that is that of another file by then.

    Returns:
        What becomes of it. It is not cancelled.
    """
    task: Future[T] = Future()
    claim = threading.Lock()

    def do() -> None:
        if not claim.acquire(blocking=False):
            return
        try:
            task.set_result(work(*arguments))
        except BaseException as error:
            task.set_exception(error)

    try:
        threads.submit(do)
    except (RuntimeError, MemoryError):
        do()
    return task
