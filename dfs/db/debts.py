"""What a transaction does to debts, held in memory until it is written in few statements."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from dfs.core.model import Debt, DebtKind
from dfs.db.rows import debt_row
from dfs.db.statements import Statements
from dfs.db.tables import DEBTS, write_rows

_Unit = tuple[str, DebtKind, bytes]
_Debt = tuple[str, DebtKind, bytes, int]


class PendingDebts:
    """Debts that one transaction owes, postpones and pays.

    They are written in this order: owe, postpone, pay. That is right in whatever order they were
    told, if only what is owed makes forgotten what was said before about the very same debt.
    """

    __slots__ = ("_owed", "_paid", "_postponed")

    def __init__(self) -> None:
        self._owed: dict[_Unit, Debt] = {}
        self._postponed: dict[_Debt, Debt] = {}
        self._paid: dict[_Debt, Debt] = {}

    def owe(self, debts: Iterable[Debt]) -> None:
        """Note that these are owed, instead of older ones of the same store and unit."""
        for debt in debts:
            same = _identity(debt)
            self._postponed.pop(same, None)
            self._paid.pop(same, None)
            self._owed[debt.store, debt.kind, debt.unit] = debt

    def postpone(self, debts: Iterable[Debt]) -> None:
        """Note that attempts at these have failed."""
        self._postponed.update((_identity(debt), debt) for debt in debts)

    def pay(self, debts: Iterable[Debt]) -> None:
        """Note that these are paid."""
        self._paid.update((_identity(debt), debt) for debt in debts)

    def owed(self) -> list[Debt]:
        """Return what is owed and neither written nor paid yet."""
        return [debt for debt in self._owed.values() if _identity(debt) not in self._paid]

    def write(
        self, node_id: str, statements: Statements, run: Callable[[str, Sequence[Any]], Any]
    ) -> None:
        """Write everything and forget it. Runs no statement when there is nothing to write.

        Args:
            run: runs a statement with its parameters.
        """
        if not (self._owed or self._postponed or self._paid):
            return
        owed = _take_rows(node_id, self._owed)
        postponed = [(*row[:4], *row[5:9]) for row in _take_rows(node_id, self._postponed)]
        paid = [(*row[:4], row[5]) for row in _take_rows(node_id, self._paid)]
        write_rows(owed, partial(statements.upsert, DEBTS), run)
        write_rows(postponed, statements.postpone, run)
        write_rows(paid, statements.pay, run)


def _identity(debt: Debt) -> _Debt:
    """Return what tells a debt from a later one of the same unit."""
    return debt.store, debt.kind, debt.unit, debt.owed_at_ms


def _take_rows(node_id: str, debts: dict[Any, Debt]) -> list[tuple[Any, ...]]:
    """Return the rows of these debts, and empty the dictionary."""
    rows = [debt_row(node_id, debt) for debt in debts.values()]
    debts.clear()
    return rows
