"""Changes on their way through one group commit: who waits for them, and what is planned."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from dfs.services.command import Command
from dfs.storage.base import StagedBlob


class Ticket:
    """One caller waiting for its command. A bare lock is the cheapest way to sleep and be woken.

    Args:
        copies: stores that must have the change on disk before it is acknowledged.
        holders: replicas that have its blob files; None if all that have its records do.

    Attributes:
        stores: those that had it when it became durable.
        follower: whom this caller wakes when it is woken itself. Callers woken one by one do not
            all come asking for the interpreter at once, which would keep the others from working.
    """

    __slots__ = (
        "_wake",
        "command",
        "copies",
        "error",
        "follower",
        "holders",
        "is_durable",
        "is_leader",
        "lsn",
        "stores",
    )

    def __init__(
        self, command: Command, *, copies: int = 1, holders: Collection[str] | None = None
    ) -> None:
        self.command = command
        self.copies = copies
        self.holders = holders
        self.stores: tuple[str, ...] = ()
        self.lsn = 0
        self.is_durable = False
        self.error: BaseException | None = None
        self.is_leader = False
        self.follower: Ticket | None = None
        self._wake = threading.Lock()
        self._wake.acquire()

    def sleep(self) -> None:
        self._wake.acquire()
        if self.follower is not None:
            self.follower.wake()

    def wake(self) -> None:
        self._wake.release()


@dataclass(slots=True)
class Batch:
    """What the leader has planned."""

    segment_id: int
    offset: int
    lsn: int
    tickets: list[Ticket] = field(default_factory=list)
    frames: list[bytes] = field(default_factory=list)
    staged: list[tuple[StagedBlob, bytes, int]] = field(default_factory=list)
    published: list[bytes] = field(default_factory=list)
    sync_s: float = 0.0


def wake_in_turn(tickets: Sequence[Ticket]) -> None:
    """Wake the first of these callers, which wakes the second, and so on."""
    for ticket, follower in pairwise(tickets):
        ticket.follower = follower
    if tickets:
        tickets[0].wake()
