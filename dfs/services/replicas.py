"""The stores of a node as operators see them, and having the workers work on them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from dfs.core.clock import now_ms
from dfs.core.errors import DfsError, QueueError, StorageError, StoreUnavailableError
from dfs.core.model import DebtSummary, StoreState
from dfs.core.tracing import NO_SPANS, Spans
from dfs.db.repository import IndexRepository
from dfs.queue.base import JobQueue
from dfs.services.breaker import find_breaker
from dfs.services.hints import (
    REPLICATE,
    SCRUB,
)
from dfs.services.lag import Lag, find_begin, measure_lag
from dfs.services.ledger import Ledger
from dfs.services.reports import (
    Owed,
    OwedKind,
    StoreReport,
    describe_debts,
    describe_location,
    describe_scrub,
)
from dfs.services.shipping import position_of
from dfs.services.stores import Stores
from dfs.services.turn import Turn
from dfs.storage.base import BlobStore
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog

RECALL_S = 5.0
"""What was looked up is good for so long, where it need not be exact."""
PROBE_TIMEOUT_S = 2.0
"""So long the stores may take to say that they are there."""
SCRUB_TIMEOUT_S = 10.0
"""So long the stores may take to let a scrub of them begin."""
POLL_S_MIN = 0.05
POLL_SHARE_MAX = 0.1
"""Whoever waits spends at most this share of the time on looking."""
WAITERS_MAX = 4
"""So many callers of a process may wait at once: each keeps a thread that serves requests."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What came of asking for work.

    Attributes:
        jobs: their ids, in the order of the stores.
        is_done: nothing is owed any more of what could be paid when it was asked for.
        stores: what they owe now.
    """

    jobs: tuple[str, ...]
    is_done: bool
    stores: tuple[StoreReport, ...]


@dataclass(frozen=True, slots=True)
class ScrubStart:
    """What came of asking for scrubs.

    Attributes:
        jobs: their ids, in the order of the stores.
        faults: name of each store that cannot be scrubbed now -> why.
        running: names of the stores whose scrub was under way already.
    """

    jobs: tuple[str, ...]
    faults: Mapping[str, str]
    running: tuple[str, ...]


class Replicas:
    """Knows how the stores of a node are.

    Args:
        locations: by name of the store: its path or URL, as it was set.
        queue: None if there is none, and so nobody who works in the background.
        start_scrub: see `Scrub.start`.
        spans: the jobs belong to the one in which they are asked for.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexRepository,
        ledger: Ledger,
        stores: Stores,
        locations: Mapping[str, str],
        queue: JobQueue | None,
        start_scrub: Callable[[str], bool],
        spans: Spans = NO_SPANS,
    ) -> None:
        self._spans = spans
        self._log = log
        self._index = index
        self._ledger = ledger
        self._stores = stores
        self._locations = locations
        self._queue = queue
        self._start_scrub = start_scrub
        self._probes: dict[str, Turn[None]] = {}
        self._recalled: list[StoreReport] = []
        self._looked_s = -math.inf
        self._lock = threading.Lock()
        self._waiters = threading.BoundedSemaphore(WAITERS_MAX)

    # Looking

    def look(self) -> list[StoreReport]:
        """Return what is known of each store, the primary first. None of them is touched.

        Raises:
            WalError: the log has not been recovered.
            MetadataError: the index does not answer.
        """
        end = self._log.position  # first: so no store seems to be ahead of it
        states = self._index.store_states()
        sums = self._index.summarize_debts()
        return [
            self._describe(states.get(store.name) or StoreState(store.name, b""), end, sums)
            for store in self._stores.all()
        ]

    def recall(self) -> list[StoreReport]:
        """Return what `look` returned lately: for those who ask often, or for nothing much.

        Raises as `look`.
        """
        with self._lock:
            if time.monotonic() - self._looked_s > RECALL_S:
                self._recalled = self.look()
                self._looked_s = time.monotonic()
            return self._recalled

    def ask(self) -> list[StoreReport]:
        """Return the same, each store asked whether it answers. Takes `PROBE_TIMEOUT_S` at most.

        Raises as `look`.
        """
        reports = self.look()
        for report in reports:
            self._begin_probe(self._stores.get(report.name), report.state)
        return [replace(report, fault=self._fault(report.name)) for report in reports]

    def _describe(
        self, state: StoreState, end: LogPosition, sums: Sequence[DebtSummary]
    ) -> StoreReport:
        moment = now_ms()
        kind, location = describe_location(self._locations[state.name])
        is_replica = state.name in self._stores.replicas
        lag = Lag()
        if is_replica:
            lag = measure_lag(state, log=self._log, index=self._index, end=end)
        owed = describe_debts(state, lag, sums)
        if is_replica and not state.store_id:  # it has not been taken in, and owes everything
            owed[OwedKind.BLOB] = Owed(*self._index.blob_file_totals())
        return StoreReport(
            at_ms=moment,
            state=state,
            kind=kind,
            location=location,
            breaker=find_breaker(state, moment),
            position=position_of(state) if is_replica else None,
            owed=owed,
            scrub=describe_scrub(state.scrub, moment),
        )

    def _begin_probe(self, store: BlobStore, state: StoreState) -> None:
        """Ask a store whether it is there, unless it has not answered the last time yet."""
        probe = self._probes.get(store.name)
        if probe is None or not probe.is_running():
            self._probes[store.name] = Turn(lambda _: _probe(store, state))

    def _fault(self, name: str) -> str | None:
        """Return why a store does not answer, or None if it does."""
        probe = self._probes[name]
        try:
            probe.wait(patience_s=PROBE_TIMEOUT_S)  # from its begin on, so all wait for as long
        except DfsError as error:
            return error.message
        return "The store does not answer." if probe.is_running() else None

    # Asking for work

    def sync(self, name: str | None, *, wait_s: float = 0) -> SyncReport:
        """Have what a store is owed paid now, or what all of them are.

        A store that is left alone after failures is tried at once.

        Args:
            name: None for all.
            wait_s: return when everything is paid that can be now, or after so long. Removals that
                have to wait are not waited for; see `Owed.newest_at_ms`. When too many callers
                wait already, it returns at once.

        Raises:
            NoSuchStoreError: there is no such store.
            QueueError: the queue does not answer, or there is none.
            WalError, MetadataError: as `look`. NoSpaceError.
        """
        names = self._names(name)
        queue = self._require_queue()
        asked_at_ms, end = now_ms(), self._log.position
        self._end_pauses(names)
        for store in names:
            REPLICATE.enqueue(queue, store, carried=self._spans.carry())
        return SyncReport(
            jobs=tuple(map(REPLICATE.id_of, names)),
            is_done=self._await(lambda: self._is_paid(names, asked_at_ms, end), wait_s),
            stores=tuple(report for report in self.look() if report.name in names),
        )

    def scrub(self, name: str | None) -> ScrubStart:
        """Begin a scrub of a store now, or of all of them, whenever the last one was.

        Args:
            name: None for all; those of them that cannot be scrubbed now are told, and passed.

        Raises:
            NoSuchStoreError: there is no such store.
            InvalidRequestError: the settings say that no store is ever scrubbed.
            QueueError: the queue does not answer, or there is none. Nothing was begun.
            StoreUnavailableError, StoreIdentityError: the one store named is not there.
            MetadataError, NoSpaceError: the index does not take it.

        Durability: a scrub that was begun goes on after a restart.
        """
        names = self._names(name)
        queue = self._require_queue()
        queue.check()
        begun: dict[str, bool] = {}
        faults: dict[str, str] = {}
        turns = {store: self._begin_scrub(store) for store in names}
        for store, turn in turns.items():
            try:
                is_new = turn.wait(patience_s=SCRUB_TIMEOUT_S)
                if is_new is None:
                    raise StoreUnavailableError("The store does not answer.", store=store)
                begun[store] = is_new
            except StorageError as error:
                if name is not None:
                    raise
                faults[store] = error.message
        for store in begun:
            SCRUB.enqueue(queue, store, carried=self._spans.carry())
        return ScrubStart(
            jobs=tuple(map(SCRUB.id_of, begun)),
            faults=faults,
            running=tuple(store for store, is_new in begun.items() if not is_new),
        )

    def _begin_scrub(self, name: str) -> Turn[bool]:
        return Turn(lambda _: self._start_scrub(name))

    def _names(self, name: str | None) -> list[str]:
        if name is not None:
            return [self._stores.get(name).name]
        return [store.name for store in self._stores.all()]

    def _require_queue(self) -> JobQueue:
        if self._queue is None:
            raise QueueError("There is no queue for background work.", hint="Set REDIS_URL.")
        return self._queue

    def _end_pauses(self, names: Sequence[str]) -> None:
        """Let stores be tried that would be left alone for a while longer."""
        states = self._index.store_states()
        if not any(name in states and states[name].retry_at_ms for name in names):
            return
        with self._ledger.begin() as index:
            for name, state in index.store_states().items():
                if name in names and state.retry_at_ms:
                    index.put_store_state(replace(state, retry_at_ms=0))

    def _is_paid(self, names: Sequence[str], asked_at_ms: int, end: LogPosition) -> bool:
        """Tell whether these stores owe nothing any more that could be paid at a moment.

        Args:
            end: of the log, at that moment.
        """
        states = self._index.store_states()
        for name in names:
            state = states.get(name)
            if state is None or not state.store_id:
                return False  # it has not even been taken in
            if (
                name in self._stores.replicas
                and find_begin(state, self._log.position).lsn < end.lsn
            ):
                return False
        return not any(
            row.store in names and row.oldest_at_ms <= asked_at_ms
            for row in self._index.summarize_debts()
        )

    def _await(self, is_true: Callable[[], bool], wait_s: float) -> bool:
        """Return whether it is true, as soon as it is, or after so long."""
        if not wait_s or not self._waiters.acquire(blocking=False):
            return is_true()
        try:
            deadline_s = time.monotonic() + wait_s
            while True:
                begun_s = time.monotonic()
                if is_true():
                    return True
                if begun_s >= deadline_s:
                    return False
                cost_s = time.monotonic() - begun_s
                pause_s = max(POLL_S_MIN, cost_s / POLL_SHARE_MAX)
                time.sleep(max(0.0, min(pause_s, deadline_s - time.monotonic())))
        finally:
            self._waiters.release()


def _probe(store: BlobStore, state: StoreState) -> None:
    """Return if a store is there and is the one it should be. Raises StorageError."""
    if state.was_mounted and not store.is_mount():
        raise StoreUnavailableError("The disk of the store is not mounted.", store=store.name)
    identity = store.read_identity()
    if state.store_id and (identity is None or identity.store_id != state.store_id):
        raise StoreUnavailableError("Another store is in its place.", store=store.name)
