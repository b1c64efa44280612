"""Damage that somebody met: logged, counted, owed to be mended, and its mending asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import DfsError, MetadataError
from dfs.core.model import Blob, Debt, DebtKind
from dfs.db.repository import IndexRepository
from dfs.services.ledger import Ledger

OnDamage = Callable[[str, DebtKind], None]
OnRescue = Callable[[str | None], None]

logger = structlog.get_logger()


def ignore_damage(store: str, kind: DebtKind) -> None:
    """Do nothing."""


def ignore_rescue(store: str | None) -> None:
    """Do nothing."""


class DamageBook:
    """Takes in what was found damaged or missing, once, however often it is met.

    Args:
        wake: asks for work on stores, see `Hinter.wake`.
        on_damage: told of each unit of a store that was not owed yet.
        on_rescue: told of each read that the primary could not answer: by which store it was, None
            for none.
    """

    def __init__(
        self,
        *,
        index: IndexRepository,
        ledger: Ledger,
        wake: Callable[[Iterable[str]], None],
        on_damage: OnDamage = ignore_damage,
        on_rescue: OnRescue = ignore_rescue,
    ) -> None:
        self._index = index
        self._ledger = ledger
        self._wake = wake
        self._on_damage = on_damage
        self._on_rescue = on_rescue

    def note_blob(self, store: str, blob: Blob, error: DfsError) -> None:
        """Note that a store does not hold a blob file whole. Never raises."""
        self._note(Debt.of_blob(store, blob.digest, blob.size, now_ms()), error)

    def note_segment(self, store: str, segment_id: int, error: DfsError) -> None:
        """Note that a store does not hold a segment whole. Never raises."""
        self._note(Debt.of_segment(store, segment_id, 0, now_ms()), error)

    def note_rescue(self, store: str | None) -> None:
        """Note that a read which the primary could not answer was answered by a store, or none."""
        self._on_rescue(store)

    def _note(self, debt: Debt, error: DfsError) -> None:
        try:
            if self._index.has_debt(debt.store, debt.kind, [debt.unit]):
                return
        except MetadataError as failure:
            logger.warning("debt_not_looked_up", store=debt.store, error=str(failure))
        logger.error(
            "damage_found",
            store=debt.store,
            kind=debt.kind.name.lower(),
            unit=debt.unit.hex(),
            reason=error.message,
            **error.context,
        )
        self._on_damage(debt.store, debt.kind)
        if self._ledger.owe([debt]):
            self._wake([debt.store])
