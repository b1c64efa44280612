"""Requests that wait for their change without a thread.

A view that is a generator yields the change that it waits for, and is gone on with when that is
settled. On a server that can leave a request and come back to it, the thread serves others
meanwhile; on any other it sleeps.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from dfs.services.pending import Pending

PARKING_KEY = "dfs.can_park"
"""The environment has it if the server understands `Parked`."""

Answered = TypeVar("Answered")
Course = Generator[Pending[Any], None, Answered]
"""Work that yields what it waits for, and returns its result."""


class Parked:
    """A request that is left. The server gets it in the place of the answer's body."""

    def __init__(
        self,
        course: Course[Iterable[bytes]],
        pending: Pending[Any],
        context: contextvars.Context,
    ) -> None:
        self._course = course
        self._pending = pending
        self._context = context

    def when_ready(self, call: Callable[[], None]) -> None:
        """Have a function called, in any thread, when the request can be gone on with.

        It must not raise anything, nor wait.
        """
        self._pending.when_settled(call)

    def wait(self) -> Iterable[bytes]:
        """Sleep until the request can be gone on with, and do so."""
        self._pending.wait()
        return self.go_on()

    def go_on(self) -> Iterable[bytes]:
        """Return the body of the answer, which has begun. For a request that is ready.

        Should it wait once more, the thread sleeps.
        """
        return self._context.run(finish_course, self._course)


def begin_course(course: Course[Iterable[bytes]]) -> Iterable[bytes] | Parked:
    """Return the body of the answer; or the request, if it waits."""
    context = contextvars.copy_context()
    try:
        pending = context.run(next, course)
    except StopIteration as end:
        body: Iterable[bytes] = end.value
        return body
    return Parked(course, pending, context)


def finish_course(course: Course[Answered]) -> Answered:
    """Return the result, however long it takes."""
    while True:
        try:
            pending = next(course)
        except StopIteration as end:
            result: Answered = end.value
            return result
        pending.wait()
