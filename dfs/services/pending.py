"""Changes that were asked for, and what comes of them once they are durable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from dfs.core.model import Durability
from dfs.services.tickets import Ticket, TicketQueue

Result = TypeVar("Result")


class Pending(Generic[Result]):
    """A change on its way.

    Args:
        ticket: it. tickets: where it waits.
        make_result: called when it is durable.
    """

    def __init__(
        self, ticket: Ticket, tickets: TicketQueue, make_result: Callable[[Durability], Result]
    ) -> None:
        self._ticket = ticket
        self._tickets = tickets
        self._make_result = make_result

    def wait(self) -> None:
        """Sleep until it is known what became of the change."""
        self._tickets.wait(self._ticket)

    def when_settled(self, call: Callable[[], None]) -> None:
        """Have that called then; see `TicketQueue.when_settled`."""
        self._tickets.when_settled(self._ticket, call)

    def result(self) -> Result:
        """Return what has come of it, when it is known. Raises as `Committer.submit`."""
        return self._make_result(self._ticket.outcome())
