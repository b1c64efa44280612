"""The scrub: every store is read through again and again, slowly, to find damage before it spreads.

It works in slices that never sleep. Where it has come to stands in the store's row of the index,
after each slice: a process that is killed loses a second of reading. Time that has gone by is what
it may spend: at a limit of 16 MiB a second, a slice two seconds after the last reads 32 MiB.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import InvalidRequestError, StorageError
from dfs.core.model import BLOCK_BYTES, DebtKind, ScrubState, StoreState
from dfs.core.tracing import NO_SPANS, Spans
from dfs.db.repository import IndexRepository
from dfs.db.transaction import IndexTransaction
from dfs.services.breaker import Breaker, find_breaker
from dfs.services.ledger import Ledger
from dfs.services.quarantine import Quarantine
from dfs.services.stores import Stores
from dfs.services.survey import Cursor, Manner, Step, Survey
from dfs.services.verification import Fault, Finding
from dfs.storage.base import BlobStore

SPENDING_MS_MAX = 10_000
"""Time that was not used for reading, by a node that was stopped, is not made up for."""
TRIES_MAX = 3
"""So often a store may fail at one place before it is passed."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What one slice did.

    Attributes:
        is_running: whether the scrub goes on with the next slice.
        read_bytes: in this slice.
        damaged: units found missing or damaged in this slice.
        error: why the slice ended early; the next one tries again.
    """

    is_running: bool
    read_bytes: int = 0
    damaged: int = 0
    error: str | None = None


@dataclass(slots=True)
class _Slice:
    """What a slice has done so far.

    Attributes:
        paid_until_ms: up to then the time that has gone by is spent.
    """

    cursor: Cursor
    paid_until_ms: float
    read_bytes: int = 0
    passed_bytes: int = 0
    damaged: int = 0
    is_finished: bool = False

    def position(self) -> str:
        """Return where to go on, as it stands in the index."""
        return f"{int(self.paid_until_ms)}/{self.cursor}"


@dataclass(slots=True)
class _Walk:
    """A walk between two slices: it knows the SHA-256 of a blob that is half read.

    Attributes:
        position: where it stands. If the index says otherwise, another process has gone on.
    """

    position: str
    steps: Iterator[Step] = field(default_factory=lambda: iter(()))


def ignore_progress() -> None:
    """Do nothing."""


class Scrub:
    """Reads the stores of a node through. One caller at a time for each store.

    Args:
        bytes_per_s: for each store; 0: none is ever read.
        interval_s: from the beginning of one run to that of the next.
        spans: told of each slice.
    """

    def __init__(
        self,
        *,
        survey: Survey,
        quarantine: Quarantine,
        index: IndexRepository,
        ledger: Ledger,
        stores: Stores,
        bytes_per_s: int,
        interval_s: float,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._spans = spans
        self._survey = survey
        self._quarantine = quarantine
        self._index = index
        self._ledger = ledger
        self._stores = stores
        self._bytes_per_s = bytes_per_s
        self._interval_s = interval_s
        self._walks: dict[str, _Walk] = {}

    def close(self) -> None:
        """Close the files that a slice has left open."""
        self._walks.clear()

    def start(self, name: str) -> bool:
        """Begin a run with the next slice, whenever the last one was.

        Returns:
            Whether it was begun; not, if one is running.

        Raises:
            NoSuchStoreError: there is no such store.
            InvalidRequestError: the settings say that no store is ever read.
            StoreUnavailableError, StoreIdentityError: the store is not there.
            NoSpaceError, MetadataError: the index does not answer.
        """
        store = self._stores.get(name)
        if not self._bytes_per_s:
            raise InvalidRequestError(
                "Scrubbing is switched off.", hint="Set DFS_SCRUB_BYTES_PER_S to more than 0."
            )
        if self._survey.require_same(store).scrub.position:
            return False
        self._begin(store)
        return True

    def work(
        self, name: str, *, budget_s: float, on_progress: Callable[[], None] = ignore_progress
    ) -> ScrubReport:
        """Read the next slice of a store, if it is time for it. Never sleeps.

        Args:
            budget_s: how long the slice may take, about.
            on_progress: called whenever the store has answered.

        Returns:
            What was done. A store that fails is no error here: the next slice tries again.

        Raises:
            NoSuchStoreError: there is no such store.
            MetadataError, WalError: the node does not do its part.

        Durability: as that of the index: what is forgotten is read again.
        """
        store = self._stores.get(name)
        state = self._index.store_states().get(name)
        if not self._bytes_per_s or state is None or not state.store_id:
            return ScrubReport(is_running=False)
        if find_breaker(state, now_ms()) is Breaker.OPEN:
            return ScrubReport(bool(state.scrub.position), error=state.error)
        try:
            if not state.scrub.position:
                if not self._is_due(state.scrub):
                    return ScrubReport(is_running=False)
                state = self._begin(store)
            return self._work(store, state.scrub.position, budget_s, on_progress)
        except StorageError as error:
            logger.warning("scrub_interrupted", store=name, error=str(error))
            return ScrubReport(is_running=True, error=error.message)

    def _is_due(self, scrub: ScrubState) -> bool:
        if scrub.started_at_ms is None:
            return True
        elapsed_ms = now_ms() - scrub.started_at_ms
        return elapsed_ms >= self._interval_s * 1000 or elapsed_ms < 0  # the clock was set back

    def _begin(self, store: BlobStore) -> StoreState:
        self._survey.require_same(store)
        moment = now_ms()
        total_bytes = self._survey.measure(store).bytes
        logger.info("scrub_started", store=store.name, total_bytes=total_bytes)
        begun = _Slice(Cursor(), moment - 1000)  # the first second is given in advance
        return self._change_scrub(
            store.name,
            lambda scrub: replace(
                scrub,
                position=begun.position(),
                started_at_ms=moment,
                bytes_read=0,
                bytes_total=total_bytes,
                damaged=0,
            ),
        )

    def _work(
        self, store: BlobStore, position: str, budget_s: float, on_progress: Callable[[], None]
    ) -> ScrubReport:
        """Read a slice and note how far it has come, whatever it met."""
        paid_until, _, cursor = position.partition("/")
        since_ms = int(paid_until) if paid_until.isdecimal() else 0
        moment = now_ms()
        part = _Slice(Cursor.parse(cursor), min(moment, max(since_ms, moment - SPENDING_MS_MAX)))
        ahead_ms = since_ms - moment
        if 0 <= ahead_ms <= SPENDING_MS_MAX + 1000 * BLOCK_BYTES / self._bytes_per_s:
            return ScrubReport(is_running=True)  # else the clock was set back
        walk = self._walks.pop(store.name, None)
        if walk is None or walk.position != position:
            steps = self._survey.walk(store, part.cursor, Manner(patience=TRIES_MAX))
        else:
            steps = walk.steps
        try:
            with self._spans.span("replication.scrub", store=store.name) as span:
                self._read(steps, part, budget_s, on_progress)
                span.note(bytes=part.read_bytes, damaged=part.damaged)
        except StorageError:
            with suppress(StorageError):
                self._survey.require_same(store)  # else the place is not to blame
                part.cursor = replace(part.cursor, tries=part.cursor.tries + 1)
            self._save(store.name, part)
            raise
        self._save(store.name, part)
        if part.is_finished:
            self._quarantine.sweep(store.name)
        else:
            self._walks[store.name] = _Walk(part.position(), steps)
        return ScrubReport(not part.is_finished, part.read_bytes, part.damaged)

    def _read(
        self, steps: Iterator[Step], part: _Slice, budget_s: float, on_progress: Callable[[], None]
    ) -> None:
        deadline_s = time.monotonic() + budget_s
        while part.paid_until_ms < now_ms() and time.monotonic() < deadline_s:
            step = next(steps, None)
            on_progress()
            if step is None:
                part.is_finished = True
                return
            finding = step.finding
            if finding is not None and finding.fault is Fault.EXTRA:
                self._take_extra(finding)
            elif finding is not None:
                counter = self._counter(finding.store)
                part.damaged += self._quarantine.take(finding, on_taken=counter)
            part.cursor = step.cursor
            part.read_bytes += step.read_bytes
            part.passed_bytes += step.passed_bytes
            # Of what is damaged, another copy was read as well.
            spent_bytes = step.read_bytes + (finding.size if finding is not None else 0)
            part.paid_until_ms += spent_bytes * 1000 / self._bytes_per_s

    def _take_extra(self, finding: Finding) -> None:
        """Put an orphan aside. A segment is left alone: it may be of a log that was lost here."""
        if finding.kind is DebtKind.BLOB:
            self._quarantine.put_extra_aside(finding)
        else:
            logger.warning("extra_found", store=finding.store, unit=finding.name)

    def _counter(self, name: str) -> Callable[[IndexTransaction], None]:
        """Return what counts a damaged unit in the transaction that owes its mend."""

        def count(index: IndexTransaction) -> None:
            state = index.store_states()[name]
            scrub = replace(state.scrub, damaged=state.scrub.damaged + 1)
            index.put_store_state(replace(state, scrub=scrub))

        return count

    def _save(self, name: str, part: _Slice) -> None:
        def advance(scrub: ScrubState) -> ScrubState:
            bytes_read = scrub.bytes_read + part.read_bytes
            if part.is_finished:
                return ScrubState(
                    started_at_ms=scrub.started_at_ms,
                    finished_at_ms=now_ms(),
                    last_damaged=scrub.damaged,
                    last_bytes=bytes_read,
                )
            return replace(
                scrub,
                position=part.position(),
                bytes_read=bytes_read,
                # Files come and go while a run lasts.
                bytes_total=max(scrub.bytes_total - part.passed_bytes, bytes_read),
            )

        scrub = self._change_scrub(name, advance).scrub
        if part.is_finished:
            logger.info(
                "scrub_finished",
                store=name,
                read_bytes=scrub.last_bytes,
                damaged=scrub.last_damaged,
            )

    def _change_scrub(self, name: str, change: Callable[[ScrubState], ScrubState]) -> StoreState:
        """Change the state of the scrub, and nothing else of the store's row."""
        with self._ledger.begin() as index:
            state = index.store_states()[name]
            state = replace(state, scrub=change(state.scrub))
            index.put_store_state(state)
        return state
