"""Paying what the stores are owed: their copy of the log, blob files, mends, and removals.

What is owed stands in the index. A job only says "look": it may be lost, come twice, or be killed
at any point, and the next one goes on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import (
    BlobMissingError,
    DfsError,
    StorageError,
    StoreUnavailableError,
    WalCorruptError,
    WalGapError,
    WalReadOnlyError,
)
from dfs.core.filelock import FileLock
from dfs.core.model import REMOVALS, BlobKind, Debt, DebtKind, StoreState
from dfs.core.tracing import NO_SPANS, Spans
from dfs.db.repository import IndexRepository
from dfs.services.adoption import adopt
from dfs.services.breaker import note_failure, note_success
from dfs.services.copying import BlobCopier
from dfs.services.damage import DamageBook
from dfs.services.dropping import SegmentDropper
from dfs.services.ledger import Ledger, take_batch
from dfs.services.removal import BlobRemover
from dfs.services.shipping import NOWHERE, LogShipper, advance, position_of
from dfs.services.stores import ReplicaStore, Stores, copying_gate
from dfs.services.turn import Turn, Turns
from dfs.storage.base import BlobStore
from dfs.storage.local_store import LocalStore
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog

BATCH_COUNT_MAX = 64
BATCH_BYTES_MAX = 128 << 20
"""Several times what the threads have in hand, so that few of them idle at the end of a batch.
Memory holds only the blocks in hand, one or two of 1 MiB a thread."""
SHIP_BYTES_MAX = 16 << 20
"""So much is copied of one kind before the other gets its turn."""
COPY_THREADS = 8
LOCK_WAIT_S = 10.0

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WorkReport:
    """What one turn of work on a store did.

    Attributes:
        more: something is still owed, and can be worked on now.
        log_bytes, blobs: copied.
        error: why the turn ended early.
    """

    more: bool
    log_bytes: int = 0
    blobs: int = 0
    error: str | None = None


def store_lock_path(wal_path: Path, store: str) -> Path:
    """Return the file that whoever writes the segments of a store locks."""
    return wal_path / f"{store}.lock"


class Replication:
    """Works on the stores of a node, one turn for one store at a time.

    Args:
        damage: told of copies that turn out damaged on the way.
        mend_segment: has a segment of this node's own log whole again, or raises DfsError.
        locks: by name of the replica; held while its segments are changed.
        turns: gives up a store that hangs.
        spans: told of what is shipped and copied.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexRepository,
        ledger: Ledger,
        stores: Stores,
        cluster_id: bytes,
        damage: DamageBook,
        mend_segment: Callable[[int], None],
        remover: BlobRemover,
        dropper: SegmentDropper,
        locks: dict[str, FileLock],
        turns: Turns,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._log = log
        self._index = index
        self._ledger = ledger
        self._stores = stores
        self._cluster_id = cluster_id
        self._damage = damage
        self._mend_segment = mend_segment
        self._remover = remover
        self._dropper = dropper
        self._locks = locks
        self._shipper = LogShipper(log=log, spans=spans)
        self._turns = turns
        self._spans = spans

    def adopt_new(self) -> None:
        """Take in stores that the index does not know yet; forget those no longer in the settings.

        So a node can count on its replicas from its first request on. One that cannot be taken in
        is noted as failing; a job tries again. Stores that must not be touched before a fork are
        left to it, too.
        """
        states = self._index.store_states()
        named = {store.name for store in self._stores.all()}
        forgotten = [name for name in states if name not in named]
        if forgotten:
            with self._ledger.begin() as index:
                for name in forgotten:
                    index.forget_store(name)
        for store in self._stores.all():
            if store.name not in states and isinstance(store, LocalStore):
                self._run_turn(store, lambda store, _: self._take_in(store))

    def close(self) -> None:
        """Close the files of the locks."""
        self._remover.close()
        for lock in self._locks.values():
            lock.close()

    def work(self, name: str, *, budget_s: float) -> WorkReport:
        """Work on what a store is owed for about so long, or until nothing is left.

        Args:
            name: a replica; or the primary, which is owed mends.

        Returns:
            What was done. A store that fails is no error here: it is noted, and left alone for a
            while.

        Raises:
            NoSuchStoreError: there is no such store.
            MetadataError: the index does not answer.
        """
        store = self._stores.get(name)
        if self._turns.is_hanging(name):
            return WorkReport(more=False, error="the store has not answered yet")
        state = self._index.store_states().get(name)
        if state is not None and state.retry_at_ms > now_ms():
            return WorkReport(more=False, error=state.error)
        return self._run_turn(store, lambda store, turn: self._work(store, budget_s, turn))

    def _run_turn(
        self, store: BlobStore, work: Callable[[BlobStore, Turn[WorkReport]], WorkReport]
    ) -> WorkReport:
        report = self._turns.run(store.name, lambda turn: work(store, turn))
        if report is None:
            error = StoreUnavailableError("The store does not answer.", store=store.name)
            self._note_failure(store.name, error)
            return WorkReport(more=False, error=error.message)
        return report

    def _take_in(self, store: BlobStore) -> WorkReport:
        try:
            self._adopt(store)
        except StorageError as error:
            self._note_failure(store.name, error)
        return WorkReport(more=True)

    def _work(self, store: BlobStore, budget_s: float, turn: Turn[WorkReport]) -> WorkReport:
        deadline_s = time.monotonic() + budget_s
        log_bytes = blobs = 0
        try:
            state = self._adopt(store)
            with ThreadPoolExecutor(COPY_THREADS, thread_name_prefix=store.name) as threads:
                while True:
                    self._log.control.require_in_place()
                    log_bytes += self._ship(store)
                    turn.note_progress()
                    paid, is_owed = self._pay(store, threads, turn)
                    turn.note_progress()
                    blobs += paid
                    more = is_owed or self._is_behind(store)
                    if not more or time.monotonic() >= deadline_s:
                        break
        except (StorageError, WalCorruptError, WalGapError) as error:
            self._note_failure(store.name, error)
            return WorkReport(False, log_bytes, blobs, error.message)
        except WalReadOnlyError as error:  # of a log that is gone; there is nowhere to note it
            return WorkReport(False, log_bytes, blobs, error.message)
        if state.failures:
            self._change_state(store.name, note_success)
            logger.info("store_works_again", store=store.name)
        return WorkReport(more, log_bytes, blobs)

    def _adopt(self, store: BlobStore) -> StoreState:
        known = self._index.store_states().get(store.name)
        state, is_new = adopt(store, known, cluster_id=self._cluster_id)
        if is_new:
            logger.info("store_adopted", store=store.name, store_id=state.store_id.hex())
            with self._ledger.begin() as index:
                index.put_store_state(state)
                if known is not None or store is not self._stores.primary:
                    index.owe_all_blobs(store.name, now_ms())
        return state

    # The log

    def _is_behind(self, store: BlobStore) -> bool:
        """Tell whether a replica lacks a part of the log."""
        return (
            store is not self._stores.primary and self._position(store.name) != self._log.position
        )

    def _ship(self, store: BlobStore) -> int:
        """Ship the next part of the log. Returns how many bytes."""
        replica = self._stores.replicas.get(store.name)
        if replica is None:
            return 0
        with self._locks[store.name].hold(timeout_s=LOCK_WAIT_S) as held:
            before = self._position(store.name)
            if not held or before == self._log.position:
                return 0
            try:
                shipped = self._shipper.ship(replica, before, bytes_max=SHIP_BYTES_MAX)
            except (WalCorruptError, WalGapError) as error:
                self._owe_mend(error)
                raise
            except BlobMissingError as error:
                raise StoreUnavailableError(
                    f"The store has lost a part of the log: {error.message}", store=store.name
                ) from error
            except StoreUnavailableError:
                self._forget_position_if_lost(replica, before)
                raise
        self._advance(store.name, before, shipped.position)
        if shipped.has_excess:
            self._trim(replica, shipped.position)
        return shipped.bytes

    def _position(self, name: str) -> LogPosition:
        return position_of(self._index.store_states()[name])

    def _advance(self, name: str, before: LogPosition, after: LogPosition) -> None:
        """Note up to where a store has the log, unless another process has come further."""

        def note(state: StoreState) -> StoreState:
            known = position_of(state)
            if known != before and known.lsn >= after.lsn:
                return state
            return advance(state, after)

        self._change_state(name, note)

    def _trim(self, store: ReplicaStore, position: LogPosition) -> None:
        """Let nothing stay behind the end of the log. No commit may be under way meanwhile."""
        with self._log.lock(), self._locks[store.name].hold(timeout_s=0) as held:
            if held and self._shipper.trim(store, position):
                logger.warning("store_trimmed", store=store.name, segment_id=position.segment_id)

    def _forget_position_if_lost(self, store: ReplicaStore, position: LogPosition) -> None:
        """Begin anew with a store that has less of the log than it had."""
        held = dict(store.list_segments())
        if held.get(position.segment_id, 0) < position.offset:
            self._change_state(store.name, lambda state: advance(state, NOWHERE))

    # Debts

    def _pay(
        self, store: BlobStore, threads: ThreadPoolExecutor, turn: Turn[WorkReport]
    ) -> tuple[int, bool]:
        """Work on the oldest debts.

        Returns:
            (debts paid, whether any is left that can be worked on at once).
        """
        due = self._index.due_debts(store.name, now_ms=now_ms(), limit=BATCH_COUNT_MAX + 1)
        batch = take_batch(due, count_max=BATCH_COUNT_MAX, bytes_max=BATCH_BYTES_MAX)
        if not batch:
            return 0, False
        removals = [debt for debt in batch if debt.kind in REMOVALS]
        self._remover.pay(store, removals, threads=threads, on_progress=turn.note_progress)
        paid = self._pay_blobs(store, [d for d in batch if d.kind is DebtKind.BLOB], threads, turn)
        for debt in batch:
            if debt.kind in (DebtKind.SEGMENT, DebtKind.DROP_SEGMENT):
                paid += self._pay_segment(store, debt)
        return paid, len(due) > len(batch)

    def _pay_blobs(
        self,
        store: BlobStore,
        debts: Sequence[Debt],
        threads: ThreadPoolExecutor,
        turn: Turn[WorkReport],
    ) -> int:
        blobs = {
            blob.digest: blob
            for debt in debts
            if (blob := self._index.find_blob(debt.unit)) and blob.kind is BlobKind.FILE
        }
        going = {debt.unit for debt in self._index.removals(store.name, list(blobs), begun=True)}
        copier = BlobCopier(
            target=store,
            sources=self._stores.others(store.name),
            threads=threads,
            on_progress=turn.note_progress,
            publish_lock=self._log.lock if store is self._stores.primary else nullcontext,
            spans=self._spans,
        )
        with copying_gate(self._log.path, store.name).passing():
            copied = copier.copy([blob for blob in blobs.values() if blob.digest not in going])
        copied.failed.update(dict.fromkeys(going, StoreUnavailableError("It is being removed.")))
        for name, blob, error in copied.damaged:
            self._damage.note_blob(name, blob, error)
        # A blob that nobody knows any more is owed to nobody.
        done = [debt for debt in debts if debt.unit in copied.whole or debt.unit not in blobs]
        self._ledger.settle(
            done,
            [(debt, copied.failed[debt.unit]) for debt in debts if debt.unit in copied.failed],
        )
        return len(done)

    def _pay_segment(self, store: BlobStore, debt: Debt) -> int:
        try:
            replica = self._stores.replicas.get(store.name)
            if debt.kind is DebtKind.DROP_SEGMENT:
                self._dropper.pay(debt)
            elif replica is None:
                self._mend_segment(debt.segment_id)
            else:
                self._copy_segment(replica, debt.segment_id)
        except StoreUnavailableError:
            raise
        except DfsError as error:
            self._ledger.settle([], [(debt, error)])
            return 0
        self._ledger.settle([debt], [])
        return 1

    def _copy_segment(self, store: ReplicaStore, segment_id: int) -> None:
        """Let shipping begin anew at a segment that is damaged on a store: it compares as it goes.

        Segments behind it are the same still, so they are only read.
        """
        start = self._shipper.find_start(segment_id)

        def rewind(state: StoreState) -> StoreState:
            return state if state.segment_id < segment_id else advance(state, start)

        self._change_state(store.name, rewind)

    def _owe_mend(self, error: WalCorruptError | WalGapError) -> None:
        segment_id = error.context.get("segment_id")
        if isinstance(segment_id, int):
            self._damage.note_segment(self._stores.primary.name, segment_id, error)

    # The state of a store

    def _note_failure(self, name: str, error: DfsError) -> None:
        logger.warning("store_failed", store=name, error=str(error))
        self._change_state(
            name,
            lambda state: note_failure(
                state,
                error,
                now_ms=now_ms(),
                fraction=random.random(),  # noqa: S311
            ),
        )

    def _change_state(self, name: str, change: Callable[[StoreState], StoreState]) -> None:
        with self._ledger.begin() as index:
            known = index.store_states().get(name, StoreState(name, b""))
            changed = change(known)
            if changed != known:
                index.put_store_state(changed)
