"""Group commit: the one path of every change, across threads and processes.

    submit(command)   the caller's thread sleeps until its change is durable, or gets its own error
    enqueue(command)  it does not, and is told later

In one process one of those who wait leads, see `tickets`. Across processes the node lock decides.
One commit, in the order that makes an acknowledgement mean something:

    1. gather     wait, briefly and only if others are on their way, so that they share the sync
    2. lock       the node lock; then take the whole queue, within the bounds of a batch
    3. catch up   if the last holder died inside a commit: recover the tail, as at start
    4. plan       each command in order, inside one index transaction: check its precondition,
                  deduplicate, make records, apply them. One that fails, fails alone
    5. publish    blob files get their names, durably
    6. append     all records by one write, then one sync; while the disk begins, the index is
                  written to; where a change must be on several stores, the replicas append and sync
                  them at the same time
    7. index      commit its transaction
    8. release    tell all processes where the log ends; unlock; wake everybody

A process that dies between any two of these leaves a log that says what happened: records that are
whole are rolled forward by the next commit or the next start, anything else is cut off.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from dfs.core.clock import now_ms
from dfs.core.errors import (
    IndexUnavailableError,
    NoSpaceError,
    QuorumError,
    RequestError,
)
from dfs.core.model import Durability, NodeState, StoreState
from dfs.core.steps import OnStep, ignore_step
from dfs.core.tracing import NO_SPANS, Spans
from dfs.db.session import IndexDatabase
from dfs.db.transaction import IndexTransaction
from dfs.services.apply import apply
from dfs.services.batch import Batch, CommitReport, OnCommit, ignore_report
from dfs.services.breaker import note_failure
from dfs.services.command import Command, Draft
from dfs.services.crew import Crew
from dfs.services.quorum import Append, Quorum
from dfs.services.recovery import roll_forward
from dfs.services.shipping import advance
from dfs.services.tickets import Holders, Ticket, TicketQueue
from dfs.storage.base import BlobStore
from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag
from dfs.wal.log import WriteAheadLog
from dfs.wal.record import SealSegment

_CONTINUES, _COMMIT_START = int(Flag.CONTINUES), int(Flag.COMMIT_START)
"""As plain numbers: an enum's own operators cost more than all else about a record."""


class Committer:
    """Commits the changes of one process of a node.

    Args:
        log, index, store: open and recovered.
        quorum: takes changes to the replicas that must be there before they are acknowledged.
        batch_bytes_max, batch_count_max: bounds of one commit.
        crew: the threads of this process.
        on_step: see `dfs.core.steps`.
        on_commit: told of every commit, after it and before those who wait for it; what it raises
            is its leader's own.
        spans: told of the parts of each commit.

    Attributes:
        tickets: the changes that wait.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexDatabase,
        store: BlobStore,
        quorum: Quorum,
        node_id: str,
        batch_bytes_max: int,
        batch_count_max: int,
        crew: Crew,
        on_step: OnStep = ignore_step,
        on_commit: OnCommit = ignore_report,
        spans: Spans = NO_SPANS,
    ) -> None:
        self._log = log
        self._index = index
        self._store = store
        self._quorum = quorum
        self._node_id = node_id
        self._crew = crew
        self._on_step = on_step
        self._on_commit = on_commit
        self._spans = spans
        self.tickets = TicketQueue(
            crew=crew, lead=self._lead, bytes_max=batch_bytes_max, count_max=batch_count_max
        )

    # In the caller's thread

    def announce(self) -> AbstractContextManager[None]:
        """Say that this thread will submit a command very soon: a leader may wait for it."""
        return self._crew.gathering

    def submit(
        self, command: Command, *, copies: int = 1, holders: Holders | None = None
    ) -> Durability:
        """Make a change.

        Args:
            copies: stores that must have it on disk, the primary among them.
            holders: who has its blob files already; None if it has none.

        Returns:
            What is guaranteed of it: its last record's LSN and the stores that have it.

        Raises:
            RequestError: from the command's own plan.
            NoSpaceError: the disk is full; nothing of the batch happened.
            QuorumError: too few stores could take it in time; it did not happen.
            WalReadOnlyError: the log cannot be written; nothing was acknowledged.
            MetadataError, StorageError: likewise. The change may or may not have happened if the
                index failed after the log was synced; it then appears with the next commit.

        Durability: on return the records of the change, and the blob files it names, are synced on
            all stores returned.
        """
        ticket = self.enqueue(command, copies=copies, holders=holders)
        self.tickets.wait(ticket)
        return ticket.outcome()

    def enqueue(
        self, command: Command, *, copies: int = 1, holders: Holders | None = None
    ) -> Ticket:
        """Ask for a change, as `submit` does; `tickets` knows how to wait for it.

        Durability: nothing yet.
        """
        origin = self._spans.here()
        ticket = Ticket(command, copies=copies, holders=holders, origin=origin)
        self.tickets.add(ticket)
        self._crew.gathering.arrive()
        return ticket

    # In the leader's thread

    def _lead(self) -> None:
        """Commit one batch, and tell everybody."""
        tickets: list[Ticket] = []
        report: CommitReport | None = None
        try:
            if self._crew.gathering.expects() and not self.tickets.is_full():
                self._crew.step_aside()  # who is on the way may wait for his turn
                self._crew.gathering.wait()
            self._crew.give_way()
            asked_s = time.perf_counter()
            with self._log.lock():
                lock_wait_s = time.perf_counter() - asked_s
                self._crew.come_back(at_once=True)
                tickets = self.tickets.take()
                report = self._trace_commit(tickets, lock_wait_s)
        except BaseException as error:
            tickets = tickets or self.tickets.take()
            for ticket in tickets:
                if not ticket.is_durable:
                    ticket.error = ticket.error or error
        try:
            if report is not None:
                self._on_commit(report)
        finally:
            self.tickets.settle(tickets)

    def _trace_commit(self, tickets: list[Ticket], lock_wait_s: float) -> CommitReport | None:
        """Commit, as a part of what the first request does, of which the others are told."""
        origins = [ticket.origin for ticket in tickets if ticket.origin is not None]
        lock_wait_ms = 1000 * lock_wait_s
        with self._spans.span("commit", origins=origins, lock_wait_ms=lock_wait_ms) as span:
            report = self._commit(tickets, lock_wait_s)
            if report is not None:
                span.note(**report.facts())
            return report

    def _commit(self, tickets: list[Ticket], lock_wait_s: float) -> CommitReport | None:
        """Make the changes of these tickets durable, or tell each why not. Under the node lock.

        Returns:
            What was done; None if no change was to be made.
        """
        locked_at_s = time.perf_counter()
        self._log.require_writable()
        self._on_step("commit.locked")
        self._catch_up()
        self._rotate_if_full(sum(ticket.log_bytes_max for ticket in tickets))
        with self._begin() as index:
            batch = self._plan(tickets, index)
            if not batch.frames:
                index.commit()  # what needs no record, such as that nobody wants some bytes
                batch.note_durable()
                return None
            self._on_step("commit.planned")
            append = self._write(batch, index)
            with self._spans.span("commit.index"):
                self._commit_index(index, batch, append)
            self._on_step("commit.indexed")
        self._log.publish()
        batch.note_durable()
        locked_s = time.perf_counter() - locked_at_s
        carried = self._spans.carry()
        return batch.report(lock_wait_s=lock_wait_s, locked_s=locked_s, carried=carried)

    def _catch_up(self) -> None:
        """Recover the tail if the last holder of the lock died inside a commit."""
        control = self._log.control
        if control.position is None or control.is_dirty:
            roll_forward(self._log, self._index, node_id=self._node_id)

    def _begin(self) -> IndexTransaction:
        """Begin an index transaction that knows every record of the log.

        It may lag if the database lost its newest transactions, which it does not sync.
        """
        for _ in range(2):
            index = self._index.begin()
            state = index.node_state
            if state is not None and state.applied_lsn == self._log.position.lsn:
                return index
            index.rollback()
            roll_forward(self._log, self._index, node_id=self._node_id)
        raise IndexUnavailableError("The index does not follow the log.")

    def _plan(self, tickets: list[Ticket], index: IndexTransaction) -> Batch:
        batch = Batch.behind(self._log.position)
        index.preload(
            file_ids=[file_id for ticket in tickets for file_id in ticket.command.file_ids],
            digests=[digest for ticket in tickets for digest in ticket.command.digests],
        )
        for ticket in tickets:
            index.expect_new(ticket.command.new_file_ids)
        for ticket in tickets:
            try:
                drafts = ticket.command.plan(index)
            except RequestError as error:
                ticket.error = error
                continue
            self._draw_up(drafts, batch, index)
            ticket.command.read_back(index)
            ticket.lsn = batch.lsn
            batch.staged.extend(ticket.command.staged())
            batch.tickets.append(ticket)
            ticket.pay_copies(index)
        self._set_applied(index, batch.lsn)
        return batch

    def _draw_up(self, drafts: Sequence[Draft], batch: Batch, index: IndexTransaction) -> None:
        """Give the records of one change their LSNs and places, and apply them to the index."""
        last = drafts[-1] if drafts else None
        for draft in drafts:
            flags = 0 if draft is last else _CONTINUES
            if not batch.frames:
                flags |= _COMMIT_START
            apply(batch.add(draft, flags), draft.meta, index)

    def _set_applied(self, index: IndexTransaction, lsn: int) -> None:
        if index.node_state is None:
            raise IndexUnavailableError("The index does not follow the log.")
        index.set_node_state(NodeState(self._node_id, index.node_state.cluster_id, lsn))

    def _write(self, batch: Batch, index: IndexTransaction) -> Append | None:
        """Blob files first, then the records, then the sync; on all stores that must have them.

        Returns what was appended to the replicas. What is raised was taken back from them.

        Raises:
            QuorumError: those are too few.
        """
        is_synchronous = batch.tickets[0].copies > 1
        states = index.store_states() if is_synchronous else {}
        held = self._quorum.fit_stores(states) if is_synchronous else ()
        batch.require_stores(self._store.name, held, {})
        if batch.staged:
            with self._crew.aside():
                batch.published = self._store.publish(batch.staged)
        self._on_step("commit.published")
        data = b"".join(batch.frames)
        end = LogPosition(batch.segment_id, batch.offset, batch.lsn)
        append = self._quorum.append(data, end=end, states=states) if is_synchronous else None
        with self._withdrawing(batch, append):
            self._log.append(data, last_lsn=batch.lsn)
        self._flush(index, batch, append)
        span = self._spans.span("commit.sync", log_bytes=len(data))
        with self._withdrawing(batch, append), self._crew.giving_way(), span:
            started = time.perf_counter()
            self._log.sync()
            batch.sync_s = time.perf_counter() - started
        if append is not None:
            self._await_quorum(batch, index, append, states)
        return append

    def _flush(self, index: IndexTransaction, batch: Batch, append: Append | None) -> None:
        """Write to the index while the disk is busy; if it fails, however, take the records back.

        Nothing of it is committed then: records that stay would make the refused change happen.
        """
        try:
            index.flush()
        except BaseException:
            self._take_back(batch, append)
            raise

    def _await_quorum(
        self,
        batch: Batch,
        index: IndexTransaction,
        append: Append,
        states: Mapping[str, StoreState],
    ) -> None:
        """Wait for the replicas, and note what became of them.

        Raises:
            QuorumError: too few have the records; they were taken back everywhere.
        """
        with self._crew.aside(), self._spans.span("commit.quorum"):
            held, failed = append.wait(batch.is_held)
        failing = [
            note_failure(states[name], error, now_ms=now_ms(), fraction=random.random())  # noqa: S311
            for name, error in failed.items()
        ]
        try:
            batch.require_stores(self._store.name, held, failed)
        except QuorumError:
            index.rollback()
            self._take_back(batch, append)
            with self._index.begin() as noted:
                for state in failing:
                    noted.put_store_state(state)
                noted.commit()
            raise
        for state in [*failing, *(advance(states[name], append.end) for name in held)]:
            index.put_store_state(state)

    def _take_back(self, batch: Batch, append: Append | None) -> None:
        """Take the records back from this log; and, even if that fails, what `_withdraw` does."""
        with self._withdrawing(batch, append):
            self._log.cut_back()
        self._withdraw(batch, append)

    @contextmanager
    def _withdrawing(self, batch: Batch, append: Append | None) -> Iterator[None]:
        """A block in which the log may fail. Where it is full, it has cut itself back."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, NoSpaceError):
                batch.published.clear()  # the records that name them may be on this disk
            self._withdraw(batch, append)
            raise

    def _withdraw(self, batch: Batch, append: Append | None) -> None:
        """Take the blob files back, and the records that are on the replicas."""
        self._store.withdraw(batch.published)
        if append is not None:
            self._quorum.take_back(append)

    def _commit_index(self, index: IndexTransaction, batch: Batch, append: Append | None) -> None:
        """Commit the index; if its disk is full, take the records back, since it has not.

        After any other failure nobody knows whether it has: the log, which has the records,
        stays dirty, and the next commit brings the index up to it.
        """
        try:
            index.commit()
        except NoSpaceError:
            self._take_back(batch, append)
            raise

    def _rotate_if_full(self, extra_bytes: int) -> None:
        """Seal the active segment, as a commit of its own, if the batch may not fit."""
        if not self._log.is_full(extra_bytes):
            return
        with self._begin() as index:
            batch = Batch.behind(self._log.position)
            seal = SealSegment(
                segment_id=batch.segment_id,
                first_lsn=self._log.active_header().first_lsn,
                sealed_at_ms=now_ms(),
            )
            self._draw_up([Draft(seal)], batch, index)
            self._set_applied(index, batch.lsn)
            index.flush()
            self._log.rotate(batch.frames[0], last_lsn=batch.lsn)
            index.commit()
