"""What is owed, written down outside of commits: by jobs, by reads that met damage, by a scrub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import structlog

from dfs.core.errors import DfsError
from dfs.core.model import Debt
from dfs.db.session import IndexDatabase
from dfs.db.transaction import IndexTransaction
from dfs.wal.log import WriteAheadLog

logger = structlog.get_logger()


class Ledger:
    """Writes to the index what is no change of a file, so that no record of the log says it."""

    def __init__(self, *, log: WriteAheadLog, index: IndexDatabase) -> None:
        self._log = log
        self._index = index

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
