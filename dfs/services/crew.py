"""The threads of a process that make changes, and which of them run."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from dfs.services.gathering import Gathering


class Sleeper:
    """A thread that sleeps until it is woken. A bare lock is the cheapest way to do so.

    Attributes:
        ident: of the thread that made it, and will sleep.
    """

    __slots__ = ("_lock", "ident")

    def __init__(self) -> None:
        self.ident = threading.get_ident()
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self) -> None:
        """Sleep, unless woken already."""
        self._lock.acquire()

    def wake(self) -> None:
        """Let the thread go on."""
        self._lock.release()


class Chore(Protocol):
    """What the threads of a crew do when nothing else is to be done."""

    def is_due(self) -> bool:
        """Tell whether there is anything to do."""

    def is_pressing(self) -> bool:
        """Tell whether it is to be done before anything else."""

    def do(self) -> None:
        """Do it, if it is still to be done."""


class Crew:
    """Threads each of which runs whenever it likes.

    Args:
        gather_s: how long a change waits at most for others that are on their way.

    Attributes:
        gathering: who is on the way.
        does_chores: some thread will come for a chore.
    """

    does_chores = False

    def __init__(self, *, gather_s: float) -> None:
        self.gathering = Gathering(wait_s=gather_s)

    def take_on(self, chore: Chore) -> None:
        """Have this chore, instead of an earlier one."""

    def call(self) -> None:
        """Have a thread come for the chore, though nothing else has arrived."""

    def step_aside(self) -> None:
        """Let others run: the calling thread is going to wait."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let others run while the calling thread waits inside the block."""
        self.step_aside()
        try:
            yield
        finally:
            self.come_back(at_once=True)

    def give_way(self) -> None:
        """Let others run if any want to: the calling thread is going to wait, not for long."""

    @contextmanager
    def giving_way(self) -> Iterator[None]:
        """Let others run, if any want to, while the calling thread waits inside the block."""
        self.give_way()
        try:
            yield
        finally:
            self.come_back(at_once=True)

    def come_back(self, *, at_once: bool = False) -> None:
        """Wait until the calling thread may run; `at_once`: before all others that wait."""

    def wake(self, sleepers: Iterable[Sleeper]) -> None:
        """Wake threads; each has come back when it awakes."""
        for sleeper in sleepers:
            sleeper.wake()
