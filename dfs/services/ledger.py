"""What is owed, written down outside of commits: by jobs, by reads that met damage, by a scrub."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import DfsError
from dfs.core.model import Debt
from dfs.db.session import IndexDatabase
from dfs.db.transaction import IndexTransaction
from dfs.services.breaker import find_pause_ms
from dfs.wal.log import WriteAheadLog

OnAttempt = Callable[[Debt, bool], None]

logger = structlog.get_logger()


def ignore_attempt(debt: Debt, is_paid: bool) -> None:
    """Do nothing."""


class Ledger:
    """Writes to the index what is no change of a file, so that no record of the log says it.

    Args:
        on_attempt: told of each debt that was tried, and whether it is paid now.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexDatabase,
        on_attempt: OnAttempt = ignore_attempt,
    ) -> None:
        self._log = log
        self._index = index
        self._on_attempt = on_attempt

    @contextlib.contextmanager
    def begin(self) -> Iterator[IndexTransaction]:
        """Write to the index; committed at the end of the block, undone if it raises.

        Under the node's lock: otherwise commits would wait for this transaction by polling.

        Raises:
            NoSpaceError, MetadataError.
        """
        with self._log.lock(), self._index.begin() as transaction:
            yield transaction
            transaction.commit()

    def is_current(self, index: IndexTransaction) -> bool:
        """Tell whether the index has followed all of the log. It may not have, after a crash.

        Args:
            index: begun here.
        """
        control, state = self._log.control, index.node_state
        return (
            state is not None
            and control.position is not None
            and not control.is_dirty
            and control.position.lsn == state.applied_lsn
        )

    def settle(self, paid: Collection[Debt], failed: Collection[tuple[Debt, DfsError]]) -> None:
        """Note what became of attempts: those that failed are tried again, later each time.

        Raises:
            NoSpaceError, MetadataError.
        """
        moment = now_ms()
        with self.begin() as index:
            index.pay(paid)
            index.postpone(
                replace(
                    debt,
                    attempts=debt.attempts + 1,
                    next_try_at_ms=moment + find_pause_ms(debt.attempts + 1, random.random()),  # noqa: S311
                    error=error.message,
                )
                for debt, error in failed
            )
        for debt in paid:
            self._on_attempt(debt, True)
        for debt, _ in failed:
            self._on_attempt(debt, False)

    def owe(self, debts: Iterable[Debt]) -> bool:
        """Note debts as well as may be: whoever found them has something better to do than fail.

        Returns:
            Whether they are noted. If not, the log of the program has them, and a scrub finds
            them again.
        """
        listed = list(debts)
        try:
            with self.begin() as transaction:
                transaction.owe(listed)
        except DfsError as error:
            units = [f"{debt.store}/{debt.kind.name}/{debt.unit.hex()}" for debt in listed]
            logger.error("debt_not_noted", units=units, error=str(error))
            return False
        return True


def take_batch(debts: Sequence[Debt], *, count_max: int, bytes_max: int) -> list[Debt]:
    """Return the first debts, within these bounds, at least one if there is any."""
    batch: list[Debt] = []
    bytes_left = bytes_max
    for debt in debts[:count_max]:
        bytes_left -= debt.size
        if batch and bytes_left < 0:
            break
        batch.append(debt)
    return batch
