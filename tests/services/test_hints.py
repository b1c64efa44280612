"""Hints must reach the queue soon, each store once, with the span that asked first."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dfs.core.errors import QueueError
from dfs.core.tracing import Attribute
from dfs.queue.base import JobArguments
from dfs.services.hints import Hinter

WAIT_S = 30


class AskedQueue:
    """Knows what it was asked for. Does not answer until it may."""

    def __init__(self) -> None:
        self.asked: queue.Queue[tuple[JobArguments | None, str | None]] = queue.Queue()
        self.is_down = False

    def enqueue(
        self,
        job: str,
        arguments: JobArguments | None = None,
        *,
        job_id: str,
        timeout_s: int = 600,
        carried: str | None = None,
    ) -> bool:
        """Note it."""
        self.asked.put((arguments, carried))
        if self.is_down:
            raise QueueError("down")
        return True

    def check(self) -> None:
        """Answer."""

    def close(self) -> None:
        """Do nothing."""


class NamedSpans:
    """Spans that are known by their names."""

    def __init__(self) -> None:
        self.current: str | None = None

    def here(self) -> object | None:
        """Return the name."""
        return self.current

    def carry(self) -> str | None:
        """Return the name."""
        return self.current

    @contextmanager
    def span(
        self,
        name: str,
        *,
        origins: object = None,
        carried: str | None = None,
        **attributes: Attribute,
    ) -> Iterator[NamedSpans]:
        """Have a span below another one."""
        before, self.current = self.current, f"{carried}/{name}"
        try:
            yield self
        finally:
            self.current = before

    def note(self, **attributes: Attribute) -> None:
        """Note nothing."""


@pytest.fixture
def asked() -> AskedQueue:
    """The queue."""
    return AskedQueue()


@pytest.fixture
def hinter(asked: AskedQueue) -> Iterator[Hinter]:
    """The hinter before it."""
    made = Hinter(queue=asked, spans=NamedSpans())
    yield made
    made.stop()


def test_job_belongs_to_the_first_span_that_asked(hinter: Hinter, asked: AskedQueue) -> None:
    """Those who ask while a hint waits share its job, which can have one parent only."""
    with hinter._condition:  # so that the thread takes them together
        hinter.wake(["replica1"])
        hinter.wake(["replica1", "replica2"], carried="first")
        hinter.wake(["replica1"], carried="second")
    found = [asked.asked.get(timeout=WAIT_S) for _ in range(2)]
    assert found == [
        ({"store": "replica1"}, "first/enqueue"),
        ({"store": "replica2"}, "first/enqueue"),
    ]


def test_job_of_no_span_has_none(hinter: Hinter, asked: AskedQueue) -> None:
    """What nobody traces is asked for without a span, and a queue that is down is no fault."""
    asked.is_down = True
    hinter.wake(["replica1"])
    assert asked.asked.get(timeout=WAIT_S) == ({"store": "replica1"}, None)
