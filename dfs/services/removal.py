"""Removing blob files that were dropped, from every store, without ever taking one that is wanted.

A blob that is put again after it was dropped has a row in the index, which makes void what the
stores owe of its removal. Whether it has one is looked up under the node's lock, which every commit
holds:

- The primary removes it under that lock: a commit that wants it has named its own copy before, or
  does so afterwards.
- A replica cannot be waited for under the lock. There the removal is noted as begun under it; from
  then on nobody takes a copy that is found there for one that stays. The copies that are owed since
  are made when the removal has ended.

A replica removes nothing before it has the log up to the record that dropped the blob: with less of
the log it would be restored to files that refer to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from dfs.core.clock import now_ms
from dfs.core.filelock import FileLock
from dfs.core.model import BlobKind, Debt, DebtKind
from dfs.core.steps import OnStep, ignore_step
from dfs.core.tracing import in_context
from dfs.db.transaction import IndexTransaction
from dfs.services.ledger import Ledger
from dfs.services.stores import Stores
from dfs.storage.base import BlobStore, RemovesBlobs

LOCKED_COUNT_MAX = 8
"""So many are removed from the primary while commits wait."""
LOG_WAIT_MS = 2000
"""When a replica that lacks a part of the log is looked at again."""


class BlobRemover:
    """Pays what stores owe of removals.

    Args:
        locks: by name of the replica; held while blobs are removed from it, so that whoever takes
            up a removal that was begun knows that nobody is still at it.
        on_step: see `dfs.core.steps`.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        stores: Stores,
        locks: Mapping[str, FileLock],
        on_step: OnStep = ignore_step,
    ) -> None:
        self._ledger = ledger
        self._stores = stores
        self._locks = locks
        self._on_step = on_step

    def pay(
        self,
        store: BlobStore,
        debts: Sequence[Debt],
        *,
        threads: Executor,
        on_progress: Callable[[], None],
    ) -> None:
        """Remove from a store what is not wanted any more. What has to wait stays owed.

        Args:
            debts: of `REMOVALS`.
            threads: several are removed at once. on_progress: called after each.

        Raises:
            StorageError: the store failed; what is not known to be removed is still owed.
            NoSpaceError, MetadataError: the index failed, likewise.

        Durability: what was removed stays away after a power cut.
        """
        if not debts or not isinstance(store, RemovesBlobs):
            return
        if store.name not in self._stores.replicas:
            for start in range(0, len(debts), LOCKED_COUNT_MAX):
                self._remove_locked(store, debts[start : start + LOCKED_COUNT_MAX])
                on_progress()
            return
        with self._locks[store.name].hold(timeout_s=0) as held:
            begun = self._begin(store.name, debts) if held else []
            self._on_step("removal.begun")
            for _ in threads.map(in_context(store.remove), [debt.unit for debt in begun]):
                on_progress()
            self._on_step("removal.removed")
            if begun:
                with self._ledger.begin() as index:
                    index.pay(begun)

    def close(self) -> None:
        """Close the files of the locks."""
        for lock in self._locks.values():
            lock.close()

    def _remove_locked(self, store: RemovesBlobs, debts: Sequence[Debt]) -> None:
        with self._ledger.begin() as index:
            if not self._ledger.is_current(index):
                return
            for debt in debts:
                if not _is_wanted(debt, index):
                    store.remove(debt.unit)
            self._on_step("removal.unlinked")
            index.pay(debts)

    def _begin(self, name: str, debts: Sequence[Debt]) -> list[Debt]:
        """Note that these removals begin, and return them and those that had begun before."""
        begun = [debt for debt in debts if debt.kind is DebtKind.REMOVING_BLOB]
        waiting = [debt for debt in debts if debt.kind is DebtKind.REMOVE_BLOB]
        with self._ledger.begin() as index:
            if not self._ledger.is_current(index):
                return begun
            lsn = index.store_states()[name].lsn
            for debt in waiting:
                if _is_wanted(debt, index):
                    index.pay([debt])
                elif debt.lsn > lsn:
                    index.postpone([replace(debt, next_try_at_ms=now_ms() + LOG_WAIT_MS)])
                else:
                    index.pay([debt])
                    begun.append(replace(debt, kind=DebtKind.REMOVING_BLOB))
            index.owe(begun)
        return begun


def _is_wanted(debt: Debt, index: IndexTransaction) -> bool:
    blob = index.blob(debt.unit)
    return blob is not None and blob.kind is BlobKind.FILE
