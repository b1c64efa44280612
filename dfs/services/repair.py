"""Comparing every store with the index and with the others, and mending what differs, on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dfs.core.clock import now_ms
from dfs.core.errors import MetadataError, StorageError, WalError
from dfs.core.model import DebtKind
from dfs.services.quarantine import Quarantine
from dfs.services.stores import Stores
from dfs.services.survey import OWED_GRACE_MS, Cursor, Extent, Manner, Phase, Step, Survey
from dfs.services.verification import Fault, Finding

PAY_BUDGET_S = 2.0
PAY_ROUNDS = 2
"""A copy that turns out damaged while others are made from it is mended in the second."""


class Turn(Protocol):
    """What a turn of work on a store has come to; see `replication.WorkReport`."""

    @property
    def more(self) -> bool:
        """Whether something is left that can be worked on now."""

    @property
    def error(self) -> str | None:
        """Why it ended early."""


class PaysDebts(Protocol):
    """What the repair needs of `Replication`."""

    def work(self, name: str, *, budget_s: float) -> Turn:
        """Work on what a store is owed."""


@dataclass(slots=True)
class StoreLook:
    """What was seen of one store.

    Attributes:
        looked_at: units gone through, by kind, those owed included.
        owed: units not looked at, since they are owed and on their way.
        bytes: read, or in a quick look: accounted for.
        error: why it could not be told; then nothing here is complete.
    """

    store: str
    looked_at: dict[DebtKind, int] = field(default_factory=lambda: dict.fromkeys(DebtKind, 0))
    owed: int = 0
    bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    error: str | None = None

    def count(self, kind: DebtKind, fault: Fault) -> int:
        """Return how many units of a kind have that fault."""
        return sum(found.kind is kind and found.fault is fault for found in self.findings)


OnLook = Callable[[str, Extent, Extent], None]
"""Told of the store, how much of it was gone through, and how much there is."""


class Repair:
    """Looks at stores at once, at full speed, and mends them.

    Args:
        replication: pays what is owed.
    """

    def __init__(
        self,
        *,
        survey: Survey,
        quarantine: Quarantine,
        replication: PaysDebts,
        stores: Stores,
    ) -> None:
        self._survey = survey
        self._quarantine = quarantine
        self._replication = replication
        self._stores = stores

    def look(
        self, name: str, *, full: bool, on_look: OnLook, owed_before_ms: int | None = None
    ) -> StoreLook:
        """Go through one store. Changes nothing.

        Args:
            full: read every byte; else look for existence and size only.
            owed_before_ms: what is owed since then should be there; None: since a minute ago.

        Returns:
            What was seen; with `error` if the store, or the node, could not tell.

        Raises:
            NoSuchStoreError: there is no such store.
        """
        store = self._stores.get(name)
        look = StoreLook(name)
        if owed_before_ms is None:
            owed_before_ms = now_ms() - OWED_GRACE_MS
        manner = Manner(full=full, owed_before_ms=owed_before_ms)
        done_units = done_bytes = 0
        try:
            self._survey.require_same(store)
            total = self._survey.measure(store)
            for step in self._survey.walk(store, Cursor(), manner):
                _count(look, step)
                done_units += step.units
                done_bytes += step.read_bytes + step.passed_bytes
                on_look(name, Extent(done_units, done_bytes), total)
        except (StorageError, MetadataError, WalError) as error:
            look.error = str(error)
        return look

    def mend(self, looks: Sequence[StoreLook]) -> list[str]:
        """Put aside what is damaged or extra, owe the mends, and pay them at once.

        Returns:
            What could not be done, a sentence each. Whether the stores are whole then, only
            another look can tell.

        Durability: what is mended is durable, what is not is owed.
        """
        failures: list[str] = []
        for look in looks:
            for found in look.findings:
                try:
                    self._take(found)
                except (StorageError, MetadataError) as error:
                    failures.append(f"{found.store}, {found.name}: {error.message}")
        unpaid: list[str] = []
        for _ in range(PAY_ROUNDS):
            reasons = [self._pay(store.name) for store in self._stores.all()]
            unpaid = [reason for reason in reasons if reason is not None]
        return failures + unpaid

    def _take(self, found: Finding) -> None:
        if found.fault is Fault.EXTRA:
            self._quarantine.put_extra_aside(found)
        elif found.fault is not Fault.OWED:
            self._quarantine.take(found, even_owed=True)

    def _pay(self, name: str) -> str | None:
        """Work on a store until nothing is left that can be worked on; return why it failed."""
        while True:
            turn = self._replication.work(name, budget_s=PAY_BUDGET_S)
            if not turn.more:
                return None if turn.error is None else f"{name}: {turn.error}"


def _count(look: StoreLook, step: Step) -> None:
    kind = DebtKind.SEGMENT if step.cursor.phase is Phase.SEGMENTS else DebtKind.BLOB
    look.looked_at[kind] += step.units
    look.owed += step.is_owed
    look.bytes += step.read_bytes
    if step.finding is not None:
        look.findings.append(step.finding)
