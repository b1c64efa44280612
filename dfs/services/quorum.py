"""Synchronous writes: acknowledged when several stores have them on disk.

The blob files of a change are copied before its commit; its records go to the replicas within the
commit, while the primary syncs them: one append and one sync on each replica for the whole batch.

Only replicas that can keep up take part: those that have failed lately, or have fallen far behind,
are left to the jobs, which bring them back. A replica that hangs costs one commit its time limit,
and from then on is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace

from dfs.core.clock import now_ms
from dfs.core.errors import DfsError, StoreUnavailableError
from dfs.core.filelock import FileLock
from dfs.core.model import Blob, BlobKind, DebtKind, StoreState
from dfs.core.tracing import NO_SPANS, Spans, in_context
from dfs.db.repository import IndexRepository
from dfs.services.apply import REMOVAL_DELAY_MS
from dfs.services.batch import quorum_error
from dfs.services.copying import BlobCopier
from dfs.services.ledger import Ledger
from dfs.services.shipping import LogShipper, position_of
from dfs.services.stores import ReplicaStore, Stores, copying_gate
from dfs.services.tickets import Holders
from dfs.services.upload import BlobWriter
from dfs.storage.base import BlobReader, StagedBlob
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog

CATCH_UP_BYTES_MAX = 4 << 20
"""A replica that lacks more of the log than about this is left to the jobs."""
GRACE_S = 0.01
"""How long the other replicas are waited for once enough have answered."""
TAKE_BACK_S = 0.2
"""How long the replicas are waited for when a write is taken back from them."""
BUSY_S_MAX = 1.0
"""A replica that writes for longer than this is passed over until it is done."""
BYTES_PER_S_MIN = 16 << 20
"""Copying a large blob may take this much longer for its size."""
COPY_THREADS = 8
HOLD_S = 0.9 * REMOVAL_DELAY_MS / 1000
"""A blob that was found on a replica, or copied there, stays for at least so long."""


@dataclass(frozen=True, slots=True)
class Append:
    """The records of one commit on their way to the replicas.

    Attributes:
        begin: where the log ends without them. end: with them.
    """

    begin: LogPosition
    end: LogPosition
    futures: Mapping[str, Future[None]]
    deadline_s: float

    def wait(self, is_enough: Callable[[set[str]], bool]) -> tuple[set[str], dict[str, DfsError]]:
        """Wait until enough replicas have the records, and a moment for the rest.

        Args:
            is_enough: tells whether these replicas are.

        Returns:
            (names of the replicas that have them, name -> why not, of those that failed).
        """
        return _wait(self.futures, is_enough=is_enough, deadline_s=self.deadline_s)


class Quorum:
    """Copies what is written synchronously to the replicas.

    Args:
        locks: as for `Replication`.
        threads: for short pieces of work that wait for nothing but disks.
        timeout_s: how long a quorum is waited for.
        spans: told of each copy.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexRepository,
        ledger: Ledger,
        stores: Stores,
        locks: Mapping[str, FileLock],
        threads: Executor,
        timeout_s: float,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._spans = spans
        self._log = log
        self._index = index
        self._ledger = ledger
        self._stores = stores
        self._locks = locks
        self._threads = threads
        self._timeout_s = timeout_s
        self._shipper = LogShipper(log=log, spans=spans)
        # One thread a replica: what is appended to it is appended in order.
        self._appenders = {
            name: ThreadPoolExecutor(1, thread_name_prefix=f"append-{name}")
            for name in stores.replicas
        }
        # Each has its own, so that one that hangs does not use up the threads of the others.
        self._copiers = {
            name: ThreadPoolExecutor(COPY_THREADS, thread_name_prefix=f"copy-{name}")
            for name in stores.replicas
        }
        # When each replica was last idle, and its last append.
        self._appending: dict[str, tuple[float, Future[None]]] = {}

    def close(self) -> None:
        """End the threads, but for those that a replica keeps waiting."""
        for threads in (*self._appenders.values(), *self._copiers.values()):
            threads.shutdown(wait=False, cancel_futures=True)

    # Before the commit

    def copy_blobs(self, blobs: Sequence[BlobWriter], *, copies: int) -> Holders | None:
        """Copy the blob files of a change, which has not been committed yet, to the replicas.

        Args:
            blobs: finished. copies: stores that must have them, the primary among them.

        Returns:
            The replicas that have all of them, durable and read back; None for no blob files at
            all, which every replica has.

        Raises:
            QuorumError: too few.
        """
        staged = [(blob.staged, _describe(blob)) for blob in blobs if blob.staged is not None]
        if not staged:
            return None
        until_s = time.monotonic() + HOLD_S
        digests = [blob.digest for _, blob in staged]
        removing = self._keep(digests)
        # What a replica holds of a blob that nobody knows may be put aside at any moment.
        unknown = {digest for digest in digests if self._index.find_blob(digest) is None}
        states = self._index.store_states()
        futures = {
            name: self._copiers[name].submit(in_context(self._copy), store, staged, unknown)
            for name, store in self._stores.replicas.items()
            if _is_fit(states.get(name)) and name not in removing
        }
        size = sum(blob.size for _, blob in staged)
        deadline_s = time.monotonic() + self._timeout_s + size / BYTES_PER_S_MIN
        held, failed = _wait(
            futures, is_enough=lambda held: len(held) + 1 >= copies, deadline_s=deadline_s
        )
        for future in futures.values():
            future.cancel()  # what has not begun yet is left to the jobs
        if len(held) + 1 < copies:
            raise quorum_error(copies, held, failed)
        return Holders(frozenset(held), until_s)

    def _keep(self, digests: Sequence[bytes]) -> set[str]:
        """Put the removal of these blobs off, on replicas that owe it, so that they stay meanwhile.

        Returns:
            Names of the replicas that have begun to remove one, and cannot be counted on.
        """
        if not any(self._index.removals(name, digests) for name in self._stores.replicas):
            return set()
        removing: set[str] = set()
        with self._ledger.begin() as index:
            due_ms = now_ms() + REMOVAL_DELAY_MS
            for name in self._stores.replicas:
                for debt in self._index.removals(name, digests):
                    if debt.kind is DebtKind.REMOVING_BLOB:
                        removing.add(name)
                    else:
                        index.owe([replace(debt, owed_at_ms=due_ms, next_try_at_ms=due_ms)])
        return removing

    def _copy(
        self,
        store: ReplicaStore,
        staged: Sequence[tuple[StagedBlob, Blob]],
        unknown: Collection[bytes],
    ) -> None:
        for source, blob in staged:
            copier = BlobCopier(
                target=store,
                sources=[_StagedSource(source)],
                threads=self._threads,
                on_progress=lambda: None,
                publish_lock=copying_gate(self._log.path, store.name).passing,
                spans=self._spans,
            )
            for error in copier.copy([blob], anew=blob.digest in unknown).failed.values():
                raise error

    # Inside the commit

    def fit_stores(self, states: Mapping[str, StoreState]) -> set[str]:
        """Return the replicas that can be counted on now.

        One that still writes for the last commit, which did not need it, takes part in the next;
        one that has been at it for long does not.
        """
        hanging_since_s = time.monotonic() - BUSY_S_MAX
        return {
            name
            for name in self._stores.replicas
            if _is_fit(states.get(name)) and not self._hangs(name, hanging_since_s)
        }

    def _hangs(self, name: str, since_s: float) -> bool:
        begun_s, last = self._appending.get(name, (0.0, None))
        return last is not None and not last.done() and begun_s < since_s

    def append(self, data: bytes, *, end: LogPosition, states: Mapping[str, StoreState]) -> Append:
        """Begin to append the records of a commit to all replicas that are fit. Under the lock.

        Args:
            data: the records. end: where the log ends with them.
            states: of the stores, as the index has them now.
        """
        begin = self._log.position
        deadline_s = time.monotonic() + self._timeout_s
        futures: dict[str, Future[None]] = {}
        for name in self.fit_stores(states):
            state = states[name]
            known = position_of(state)
            futures[name] = self._appenders[name].submit(
                in_context(self._append),
                self._stores.replicas[name],
                known,
                begin,
                data,
                deadline_s,
            )
            begun_s, last = self._appending.get(name, (0.0, None))
            if last is None or last.done():
                begun_s = time.monotonic()
            self._appending[name] = (begun_s, futures[name])
        return Append(begin, end, futures, deadline_s)

    def take_back(self, append: Append) -> None:
        """Cut what was appended off the replicas again, as well as may be: nobody was told of it.

        What stays is overwritten by the next append, and never believed while the node lives.
        """
        wait(append.futures.values(), timeout=TAKE_BACK_S)
        cuts = [
            self._appenders[name].submit(self._cut, self._stores.replicas[name], append.begin)
            for name, future in append.futures.items()
            if future.done()
        ]
        wait(cuts, timeout=TAKE_BACK_S)

    def _append(
        self,
        store: ReplicaStore,
        known: LogPosition,
        begin: LogPosition,
        data: bytes,
        deadline_s: float,
    ) -> None:
        with self._locks[store.name].hold(timeout_s=deadline_s - time.monotonic()) as held:
            if not held:
                raise StoreUnavailableError("The store is busy.", store=store.name)
            if known != begin:
                shipped = self._shipper.ship(store, known, bytes_max=CATCH_UP_BYTES_MAX)
                if shipped.position != begin:
                    raise StoreUnavailableError("The store is too far behind.", store=store.name)
            store.append_segment(begin.segment_id, begin.offset, data)

    def _cut(self, store: ReplicaStore, begin: LogPosition) -> None:
        with self._locks[store.name].hold(timeout_s=GRACE_S) as held:
            if held:
                store.append_segment(begin.segment_id, begin.offset, b"")


class _StagedSource:
    """A blob that has no name yet, as a place to copy it from."""

    name = "upload"

    def __init__(self, staged: StagedBlob) -> None:
        self._staged = staged

    def open(self, digest: bytes) -> BlobReader:
        return self._staged.open()


def _describe(blob: BlobWriter) -> Blob:
    return Blob(blob.digest, blob.size, BlobKind.FILE, 0, 0, 0, blob.block_crc32s, 0, 0)


def _is_fit(state: StoreState | None) -> bool:
    return state is not None and not state.failures and state.retry_at_ms <= now_ms()


def _wait(
    futures: Mapping[str, Future[None]],
    *,
    is_enough: Callable[[set[str]], bool],
    deadline_s: float,
) -> tuple[set[str], dict[str, DfsError]]:
    """Wait for enough of these to succeed, and a moment for the rest.

    Returns:
        (names of those that did, name -> why not, of those that failed or were too late).
    """
    names = {future: name for name, future in futures.items()}
    pending = set(names)
    held: set[str] = set()
    failed: dict[str, DfsError] = {}
    while pending:
        left_s = GRACE_S if is_enough(held) else deadline_s - time.monotonic()
        done, pending = wait(pending, timeout=max(0.0, left_s), return_when=FIRST_COMPLETED)
        if not done:
            break
        for future in done:
            error = future.exception()
            if error is None:
                held.add(names[future])
            elif isinstance(error, DfsError):
                failed[names[future]] = error
            else:
                raise error
    if not is_enough(held):
        failed |= {
            names[future]: StoreUnavailableError("The store did not answer in time.")
            for future in pending
        }
    return held, failed
