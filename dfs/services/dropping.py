"""Dropping segments of which nothing is needed any more: a stub takes the place of each.

The log says first that a segment may go (`DropSegment`); then each store owes it. Whoever reads the
old file goes on; whoever opens the stub with an old place looks the index up again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from dfs.core.clock import now_ms
from dfs.core.durable import replace_durably, storage_error, sync_directory
from dfs.core.errors import WalCorruptError, WalError, WalGapError
from dfs.core.filelock import FileLock
from dfs.core.model import PRIMARY_NAME, Debt, DebtKind
from dfs.core.steps import OnStep, ignore_step
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.services.apply import forget_records
from dfs.services.ledger import Ledger
from dfs.services.segment_sources import read_following, read_own_header
from dfs.services.shipping import copy_stub, position_of
from dfs.services.stores import Stores
from dfs.services.workshop import workshop
from dfs.storage.base import KeepsSegments
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog
from dfs.wal.record import DropSegment
from dfs.wal.segment import sealed_path
from dfs.wal.stub import STUB_BYTES_MAX, encode_stub, read_stub

LOCK_WAIT_S = 10.0

logger = structlog.get_logger()


def ignore_index() -> None:
    """Do nothing."""


class SegmentDropper:
    """Pays what stores owe of dropped segments.

    Args:
        locks: by name of the replica; held while its segments are changed.
        sync_index: see `drop_segment`. on_step: see `dfs.core.steps`.
    """

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        index: IndexRepository,
        ledger: Ledger,
        stores: Stores,
        locks: Mapping[str, FileLock],
        sync_index: Callable[[], None],
        on_step: OnStep = ignore_step,
    ) -> None:
        self._log = log
        self._index = index
        self._ledger = ledger
        self._sync_index = sync_index
        self._on_step = on_step
        self._stores = stores
        self._locks = locks

    def pay(self, debt: Debt) -> None:
        """Have the stub of a segment on the store that owes it.

        Args:
            debt: of kind DROP_SEGMENT.

        Raises:
            WalError: it is too early, or the segment has to be mended before; do it again later.
            StorageError: the store failed.

        Durability: on return the stub is durable on the store.
        """
        store = self._stores.replicas.get(debt.store)
        if store is None:
            self._drop_own(debt)
            return
        position = position_of(self._index.store_states()[store.name])
        with self._locks[store.name].hold(timeout_s=LOCK_WAIT_S) as held:
            if not held or not drop_copy(self._log, store, debt.segment_id, position):
                raise WalError("The segment is still needed.", segment_id=debt.segment_id)

    def _drop_own(self, debt: Debt) -> None:
        segment = self._index.find_segment(debt.segment_id)
        if segment is None:
            raise WalGapError("The index does not know the segment.", segment_id=debt.segment_id)
        drop = DropSegment(
            segment_id=segment.id,
            first_lsn=segment.first_lsn,
            last_lsn=segment.last_lsn,
            end=segment.size_bytes,
            sealed_at_ms=segment.sealed_at_ms,
            moved_lsn=debt.lsn,
            dropped_at_ms=debt.owed_at_ms,
        )
        with self._ledger.begin() as index:
            # After a rebuild more may have died than when the record was read.
            forget_records(drop.segment_id, drop.dropped_at_ms, index)
        drop_segment(self._log, drop, sync_index=self._sync_index, on_step=self._on_step)


def owe_returned(log: WriteAheadLog, index: IndexDatabase, *, lsn: int) -> None:
    """Have the node owe the stubs of segments that were dropped and are there as a whole again.

    They come back from a replica that had yet to drop them, when the node's stub was damaged or
    lost. Under the node's lock.

    Args:
        lsn: the end of the log. The index has followed all of it.

    Raises:
        WalError, MetadataError, NoSpaceError.
    """
    known = IndexRepository(index)
    whole = {s.header.segment_id: s.end for s in log.segments() if s.stub is None and s.end}
    dropped = known.dropped_segment_ids()
    debts = [
        Debt.of_drop(PRIMARY_NAME, segment_id, size, now_ms(), lsn=lsn)
        for segment_id, size in whole.items()
        if size > STUB_BYTES_MAX and segment_id in dropped
    ]
    owed = known.has_debt(PRIMARY_NAME, DebtKind.DROP_SEGMENT, [debt.unit for debt in debts])
    if len(owed) < len(debts):
        with index.begin() as transaction:
            transaction.owe(debt for debt in debts if debt.unit not in owed)
            transaction.commit()


def drop_segment(
    log: WriteAheadLog,
    drop: DropSegment,
    *,
    sync_index: Callable[[], None] = ignore_index,
    on_step: OnStep = ignore_step,
) -> bool:
    """Replace a sealed segment of the node by its stub. May be repeated.

    A segment that takes no more than the space of a stub stays.

    Args:
        log: open and recovered; its lock is not held.
        drop: as it was committed, with all that it says was moved.
        sync_index: makes the index durable as it is now. After a power cut it would else be older
            than what was dropped, and have to be rebuilt.

    Returns:
        Whether it was replaced; not, if it is a stub already, or stays.

    Raises:
        WalCorruptError: the segment is not the one described, or has to be mended before.
        WalGapError: the one behind it has to be mended before.
        WalError: the log does not reach as far as the record says; or another process works on
            segments: do it again.
        StorageError, MetadataError: the disk or the index failed; the segment is as it was, or
            replaced.

    Durability: on return the stub is on disk; whenever the process dies, segment or stub is there.
    """
    if drop.end <= STUB_BYTES_MAX:
        return False
    with workshop(log.path, timeout_s=LOCK_WAIT_S) as directory:
        stub = _make_stub(log, drop)
        path = sealed_path(log.path, drop.segment_id)
        is_new = read_stub(log.open_segments.open_anew(drop.segment_id)) is None
        if is_new:
            sync_index()
            written = directory / path.name
            replace_durably(written, stub)
            on_step("drop.written")
            try:
                written.replace(path)
            except OSError as error:
                raise storage_error(error, path=path) from error
            on_step("drop.renamed")
        sync_directory(path.parent)  # whoever renamed it may have died before
    on_step("drop.placed")
    log.open_segments.forget(drop.segment_id)
    if is_new:
        logger.info("segment_dropped", segment_id=drop.segment_id, size_bytes=drop.end)
    return is_new


def drop_copy(
    log: WriteAheadLog, store: KeepsSegments, segment_id: int, position: LogPosition
) -> bool:
    """Replace a replica's copy of a segment by the stub that the node has. May be repeated.

    For one caller at a time, as all that changes the segments of a store.

    Args:
        position: up to here the store has the log.

    Returns:
        Whether the store has the stub now. Not, if it is too early: the node has the segment
        itself, or the store lacks some of what was moved.

    Raises:
        WalGapError: the node's own segment is missing.
        StorageError: the store failed; its copy is as it was, or replaced.

    Durability: on return the stub is durable on the store, and was read back.
    """
    stub = read_stub(log.open_segments.open_anew(segment_id))
    if stub is None or position.lsn < stub.drop.moved_lsn:
        return False
    copy_stub(store, stub)
    return True


def _make_stub(log: WriteAheadLog, drop: DropSegment) -> bytes:
    """Return the stub of a segment, if that is the one described and can be done without."""
    end = log.position
    if drop.segment_id >= end.segment_id or drop.moved_lsn > end.lsn:
        raise WalError("The segment is still needed.", segment_id=drop.segment_id)
    following = read_following(log, drop.segment_id)
    header = read_own_header(sealed_path(log.path, drop.segment_id), drop.segment_id)
    is_end = (following.previous_end, following.previous_last_lsn) == (drop.end, drop.last_lsn)
    if header is None or header.first_lsn != drop.first_lsn or not is_end:
        raise WalCorruptError(
            "The segment that is to be dropped is damaged, or another one than was meant.",
            segment_id=drop.segment_id,
        )
    return encode_stub(header, drop)
