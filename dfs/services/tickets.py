"""Changes that wait for their commit, who waits for them, and who leads: commits for all.

Whoever waits either sleeps, or has said what is to be done when it is known what became of his
change. Those that sleep lead: the first that finds nobody leading, then the first of those that
have come meanwhile. If nobody sleeps, the commit is a chore of the crew.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from dfs.core.errors import WalError
from dfs.core.model import Durability
from dfs.db.transaction import IndexTransaction
from dfs.services.command import Command
from dfs.services.crew import Crew, Sleeper

PRESS_S = 0.02
"""How long changes wait at most for a moment in which nothing else arrives."""


@dataclass(frozen=True, slots=True)
class Holders:
    """Replicas that have the blob files of a change.

    Attributes:
        until_s: by the monotonic clock; later they may have removed those that were dropped.
    """

    names: Collection[str] = ()
    until_s: float = math.inf


class Ticket:
    """A change that somebody waits for.

    Args:
        copies: stores that must have the change on disk before it is acknowledged.
        holders: who has its blob files; None if all that have its records do.

    Attributes:
        log_bytes_max: of the command.
        stores: those that had it when it became durable.
        is_settled: it is known what became of it.
        sleeper: the thread that sleeps until then, if any does. is_leader: it is to lead instead.
        on_settled: called then, if anything is to be.
        origin: the span that asks for the change, see `dfs.core.tracing`.
    """

    __slots__ = (
        "command",
        "copies",
        "error",
        "holders",
        "is_durable",
        "is_leader",
        "is_settled",
        "log_bytes_max",
        "lsn",
        "on_settled",
        "origin",
        "sleeper",
        "stores",
    )

    def __init__(
        self,
        command: Command,
        *,
        copies: int = 1,
        holders: Holders | None = None,
        origin: object | None = None,
    ) -> None:
        self.command = command
        self.copies = copies
        self.holders = holders
        self.origin = origin
        self.log_bytes_max = command.log_bytes_max
        self.stores: tuple[str, ...] = ()
        self.lsn = 0
        self.is_durable = False
        self.is_settled = False
        self.error: BaseException | None = None
        self.is_leader = False
        self.sleeper: Sleeper | None = None
        self.on_settled: Callable[[], None] | None = None

    def outcome(self) -> Durability:
        """Return what is guaranteed of the change, once it is settled.

        Raises:
            Whatever went wrong: see `Committer.submit`.
        """
        if not self.is_durable:
            raise self.error or WalError("The change was neither made nor refused.")
        return Durability(lsn=self.lsn, stores=self.stores)

    def whole(self, held: Collection[str]) -> set[str]:
        """Return those of the replicas with the records that have the change's blob files, too."""
        return set(held) if self.holders is None else set(held).intersection(self.holders.names)

    def pay_copies(self, index: IndexTransaction) -> None:
        """Pay what the replicas owe that have its blob files, so that no job need copy them.

        If it is too long ago that they were seen there, they are believed to have none.
        """
        if self.holders is None or not self.holders.names:
            return
        if self.holders.until_s < time.monotonic():
            self.holders = Holders()
        names, digests = self.holders.names, set(self.command.digests)
        index.pay(debt for debt in index.owed() if debt.store in names and debt.unit in digests)


class TicketQueue:
    """The changes of one process that wait.

    Args:
        crew: the threads of this process.
        lead: commits a batch; called in one thread at a time. It calls `settle` in any case.
        bytes_max, count_max: bounds of one batch.
    """

    def __init__(
        self, *, crew: Crew, lead: Callable[[], None], bytes_max: int, count_max: int
    ) -> None:
        self._crew = crew
        self._lead = lead
        self._bytes_max = bytes_max
        self._count_max = count_max
        self._mutex = threading.Lock()
        self._tickets: deque[Ticket] = deque()
        self._bytes = 0
        self._since_s = 0.0
        self._led_since_s: float | None = None  # None: nobody leads
        crew.take_on(self)

    # For those who wait

    def add(self, ticket: Ticket) -> None:
        """Let a change wait."""
        with self._mutex:
            if not self._tickets:
                self._since_s = time.monotonic()
            self._tickets.append(ticket)
            self._bytes += ticket.log_bytes_max

    def wait(self, ticket: Ticket) -> None:
        """Sleep until a change is settled; or lead, if nobody does."""
        self._crew.step_aside()
        while (is_leader := self._await_turn(ticket)) is not None:
            if is_leader:
                self._lead()
        self._crew.come_back()

    def when_settled(self, ticket: Ticket, call: Callable[[], None]) -> None:
        """Have a function called when a change is settled, in whichever thread; at once if it is.

        It must not raise anything, nor wait: others are told after it.

        Where no thread comes for chores, and if more bytes wait than one batch takes, the caller
        sleeps until then: the number of threads bounds what can wait beyond.
        """
        if not self._crew.does_chores or self._bytes >= self._bytes_max:
            self.wait(ticket)
        with self._mutex:
            if not ticket.is_settled:
                ticket.on_settled = call
                return
        call()

    def led_s(self) -> float:
        """Return for how many seconds the commit under way has been so; 0 if there is none."""
        since_s = self._led_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def _await_turn(self, ticket: Ticket) -> bool | None:
        """Sleep over a change. Returns whether to lead; None: the change is settled."""
        with self._mutex:
            if ticket.is_settled:
                return None
            if self._led_since_s is None:
                self._led_since_s = time.monotonic()
                return True
            sleeper = ticket.sleeper = Sleeper()
        sleeper.sleep()
        ticket.sleeper = None
        is_leader, ticket.is_leader = ticket.is_leader, False
        return is_leader

    # The chore

    def is_due(self) -> bool:
        """Tell whether changes wait and nobody is about to commit them."""
        return bool(self._tickets) and self._led_since_s is None

    def is_pressing(self) -> bool:
        """Tell whether these are so many, or so old, that no other should come to them."""
        if not self.is_due():
            return False
        return self.is_full() or time.monotonic() - self._since_s > PRESS_S

    def do(self) -> None:
        """Commit some of those that wait, unless somebody is about to."""
        with self._mutex:
            if self._led_since_s is not None or not self._tickets:
                return
            self._led_since_s = time.monotonic()
        self._lead()

    # For the leader

    def is_full(self) -> bool:
        """Tell whether no more can come into the next batch."""
        return len(self._tickets) >= self._count_max or self._bytes >= self._bytes_max

    def take(self) -> list[Ticket]:
        """Take what is committed together: asynchronous changes never wait for a quorum."""
        taken: list[Ticket] = []
        bytes_left = self._bytes_max
        with self._mutex:
            while self._tickets and len(taken) < self._count_max:
                ticket = self._tickets[0]
                bytes_left -= ticket.log_bytes_max
                if taken and (bytes_left < 0 or (ticket.copies > 1) != (taken[0].copies > 1)):
                    break
                taken.append(self._tickets.popleft())
                self._bytes -= ticket.log_bytes_max
            self._since_s = time.monotonic()
        return taken

    def settle(self, tickets: list[Ticket]) -> None:
        """Hand the lead over, and tell who waits for these changes what became of them."""
        with self._mutex:
            for ticket in tickets:
                ticket.is_settled = True
            successor = next((ticket for ticket in self._tickets if ticket.sleeper), None)
            self._led_since_s = None if successor is None else time.monotonic()
        if successor is not None and successor.sleeper is not None:
            successor.is_leader = True
            successor.sleeper.wake()
        elif self._tickets:
            self._crew.call()
        self._crew.wake(ticket.sleeper for ticket in tickets if ticket.sleeper is not None)
        for ticket in tickets:
            if ticket.on_settled is not None:
                ticket.on_settled()
