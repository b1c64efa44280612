"""A node with two replicas for the tests of scrub and repair, and ways to damage its stores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfs.core.filelock import FileLock
from dfs.core.model import DebtKind, StoreState
from dfs.db.repository import IndexRepository
from dfs.services.quarantine import Quarantine
from dfs.services.replication import store_lock_path
from dfs.services.scrub import Scrub, ScrubReport
from dfs.services.survey import Survey
from dfs.storage.local_store import LocalStore
from dfs.wiring import Services
from tests.services.conftest import store_bytes

REPLICAS = ("replica1", "replica2")
BLOB_BYTES = 3 << 20
FAST = 1 << 40
ORPHAN_AGE_S = 7 * 86400


@dataclass
class Rig:
    """The node and what works on its stores."""

    node: Services
    index: IndexRepository
    survey: Survey
    quarantine: Quarantine

    def scrub(self, *, bytes_per_s: int = FAST, interval_s: float = 0.0) -> Scrub:
        """Return a scrub of its own, as another process would have."""
        return Scrub(
            survey=self.survey,
            quarantine=self.quarantine,
            index=self.index,
            ledger=self.node.ledger,
            stores=self.node.stores,
            bytes_per_s=bytes_per_s,
            interval_s=interval_s,
        )

    def scrub_all(self, name: str) -> StoreState:
        """Read one store through, from beginning to end; return its state then."""
        run_to_end(self.scrub(), name)
        return self.state(name)

    def replicate(self) -> None:
        """Pay everything that is owed."""
        for store in self.node.stores.all() * 2:  # what is owed may turn out to be the log
            while self.node.replication.work(store.name, budget_s=5).more:
                pass

    def state(self, name: str) -> StoreState:
        """Return what the index knows of a store."""
        return self.index.store_states()[name]

    def owed(self, name: str) -> set[tuple[DebtKind, bytes]]:
        """Return (kind, unit) of all that a store owes."""
        debts = self.index.due_debts(name, now_ms=1 << 60, limit=1000)
        return {(debt.kind, debt.unit) for debt in debts}

    def store(self, name: str) -> LocalStore:
        """Return a store, which is a directory."""
        store = self.node.stores.get(name)
        assert isinstance(store, LocalStore)
        return store

    def blob_path(self, name: str, digest: bytes) -> Path:
        """Return where a blob lies in a store."""
        return self.store(name).blob_path(digest)

    def segment_path(self, name: str, segment_id: int) -> Path:
        """Return where a sealed segment lies in a store; that of the primary is the log's own."""
        directory = self.node.log.path if name == "primary" else self.store(name).path
        return directory / "segments" / f"{segment_id:010d}.wal"

    def put_aside(self, name: str) -> list[str]:
        """Return the names of what was put aside in a store, without their times."""
        damaged = self.store(name).path / "damaged"
        return sorted(path.name.rpartition("-")[0] for path in damaged.iterdir())


def build_rig(node: Services) -> Rig:
    """Return the rig of an open node."""
    index = IndexRepository(node.index)
    survey = Survey(
        log=node.log,
        index=index,
        stores=node.stores,
        cluster_id=node.recovered.cluster_id,
        orphan_age_s=ORPHAN_AGE_S,
    )
    locks = {
        name: FileLock(store_lock_path(node.config.wal_path, name)) for name in node.stores.replicas
    }
    quarantine = Quarantine(
        survey=survey,
        log=node.log,
        index=index,
        ledger=node.ledger,
        stores=node.stores,
        locks=locks,
    )
    return Rig(node, index, survey, quarantine)


def fill(rig: Rig, *, blobs: int = 3, segments: int = 2) -> list[bytes]:
    """Store blob files, and inline ones until the log has sealed segments; replicate everything.

    Returns:
        The digests of the blob files, sorted.
    """
    digests: list[bytes] = []
    for number in range(blobs):
        data = bytes([number + 1]) * BLOB_BYTES
        digests.append(store_bytes(rig.node, f"large-{number}", data).files[0].digest)
    number = 0
    while rig.node.log.position.segment_id <= segments:
        number += 1
        store_bytes(rig.node, f"small-{number}", number.to_bytes(4, "big") * 15_000)
    rig.replicate()
    return sorted(digests)


def run_to_end(scrub: Scrub, name: str, *, budget_s: float = 60.0) -> list[ScrubReport]:
    """Work until the scrub of a store is over; return what each slice said."""
    reports = [scrub.work(name, budget_s=budget_s)]
    while reports[-1].is_running:
        assert len(reports) < 10_000
        reports.append(scrub.work(name, budget_s=budget_s))
    return reports


def flip_byte(path: Path, offset: int) -> None:
    """Damage one byte of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def cut_end(path: Path, count: int) -> None:
    """Take the last bytes off a file."""
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - count)


Damage = Callable[[Path], None]
