"""Recovery: bring log, index and store of a node into one consistent state.

One function serves every process that opens the node: Gunicorn's master before the first worker,
each worker, the RQ workers, the scripts. It runs under the node lock, so that starting one while
others write is safe; where nothing is to be done it costs a few milliseconds. `roll_forward` is the
middle of it, and is also what a commit does when the one before it died half way.
"""

from __future__ import annotations

import contextlib
import gc
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import (
    IndexDamagedError,
    StoreIdentityError,
    StoreUnavailableError,
    WalCorruptError,
    WalGapError,
)
from dfs.core.model import NodeState, StoreState
from dfs.db.session import IndexDatabase
from dfs.services.abandoned import leave_failed_segment, note_abandoned
from dfs.services.apply import apply, preload
from dfs.services.dropping import owe_returned
from dfs.services.schema import open_index, recreate_index
from dfs.storage.base import BlobStore, SweepsTemporaries
from dfs.storage.identity import new_identity, read_identity, require_cluster, write_identity
from dfs.wal.control import CONTROL_NAME, LogPosition
from dfs.wal.frame import Frame
from dfs.wal.layout import COPY_HINT
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome, ReadEnd
from dfs.wal.record import RecordType, decode_meta

REPLAY_BATCH_RECORDS = 20_000
"""The larger, the fewer times a page of the index is written; their meta is held in memory."""
PROGRESS_EVERY_S = 5.0
NO_DATA = memoryview(b"")
REBUILD_NAME = "rebuild-index"
BLOBS_NAME = "blobs"
CLUSTER_ID_BYTES = 16
logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery found and did.

    Attributes:
        position: the end of the log.
        replayed: records applied to the index.
        cut: file that keeps the bytes of a torn tail, if there was one.
        swept: temporary files removed. at_ms: when it had ended. duration_s: that it took.
    """

    cluster_id: bytes
    position: LogPosition
    replayed: int
    cut: Path | None
    swept: int
    at_ms: int
    duration_s: float


def recover(
    *,
    log: WriteAheadLog,
    index: IndexDatabase,
    store: BlobStore,
    storage_path: Path,
    node_id: str,
    has_replicas: bool = False,
    may_begin: bool = True,
) -> Recovered:
    """Do all that must be done before the node takes requests.

    Order: node lock, identity of log and store, segments present and in order, a segment whose sync
    failed left behind, torn tail cut, records applied to the index (all of them when it is missing,
    damaged, or marked for rebuilding), temporary files of dead uploads swept.

    Args:
        log, store: opened. index: not opened yet.
        has_replicas: an empty primary beside records is a replaced disk: it is owed all blob files.
        may_begin: no log was found, here or on a replica, so that a new one is none in its place.

    Raises:
        WalError: the log is damaged or incomplete. Nothing was skipped or guessed.
        StoreIdentityError: log, store and index are not of one cluster.
        MetadataError, StorageError: the database or a disk does not do its part.

    Durability: everything found in the log is durable, and stands in the index.
    """
    started = time.monotonic()
    with log.lock():
        cluster_id, is_lost = _settle_identity(
            log, storage_path, has_replicas=has_replicas, may_begin=may_begin
        )
        _check_lengths(log)
        try:
            open_index(log, index, rebuild_marker=log.path / REBUILD_NAME)
            leave_failed_segment(log, index)
            position, replayed, cut = roll_forward(log, index, node_id=node_id)
        except IndexDamagedError as error:
            recreate_index(log, index, error)
            leave_failed_segment(log, index)
            position, replayed, cut = roll_forward(log, index, node_id=node_id)
        owe_returned(log, index, lsn=position.lsn)
        if is_lost:
            _replace_store(index, store, cluster_id=cluster_id)
        (log.path / REBUILD_NAME).unlink(missing_ok=True)
        log.control.join()
    swept = store.sweep(older_than_s=None) if isinstance(store, SweepsTemporaries) else 0
    elapsed_s = time.monotonic() - started
    recovered = Recovered(cluster_id, position, replayed, cut, swept, now_ms(), elapsed_s)
    logger.info(
        "node_recovered",
        lsn=position.lsn,
        segment_id=position.segment_id,
        replayed=replayed,
        cut=str(cut) if cut else None,
        swept=swept,
        duration_s=round(elapsed_s, 3),
    )
    return recovered


def mark_for_rebuilding(wal_path: Path) -> None:
    """Have the next start, once no process uses the index any more, rebuild it from the log."""
    marker = wal_path / REBUILD_NAME
    with contextlib.suppress(OSError):
        if not marker.exists():
            logger.error("index_damaged", hint="Restart all processes of the node.")
            marker.touch(mode=0o600)


def roll_forward(
    log: WriteAheadLog, index: IndexDatabase, *, node_id: str
) -> tuple[LogPosition, int, Path | None]:
    """Find the end of the log, cut a torn tail, and apply what the index lacks. Under the lock.

    Returns:
        (end of the log, records applied, file that keeps a torn tail or None).

    Raises:
        IndexDamagedError: the index is older than what was dropped from the log since.
        WalCorruptError, WalGapError, WalFormatError, MetadataError, StorageError.

    Durability: as `recover`. The control file says so.
    """
    header = log.prepare()
    state = _read_state(index, node_id=node_id, cluster_id=header.cluster_id)
    log.sync_active()
    known = log.control.position
    durable_lsn = max(state.applied_lsn, known.lsn if known else 0)
    reader = log.read(after_lsn=state.applied_lsn, durable_lsn=durable_lsn)
    durable_lsn = max(durable_lsn, reader.moved_lsn)
    if 0 < state.applied_lsn < reader.moved_lsn:
        # What removed a row that it still has may be gone from the log, together with the row's own
        # record: only an index that begins anew does without either.
        raise IndexDamagedError("The index is older than what was dropped from the log since.")
    lacked = index.nowhere_blob()
    replayed, last = _replay(reader, index, state)
    cut = _settle_end(log, reader.end, durable_lsn=durable_lsn)
    _require_blobs(index, lacked=lacked)
    position = reader.end.position
    if last and last.type == RecordType.SEAL_SEGMENT and last.segment_id == position.segment_id:
        position = log.leave_active(position)  # whoever sealed it died before it was renamed
    note_abandoned(log, index)
    log.control.reset(position)
    return position, replayed, cut


def hint_at_loss(wal_path: Path) -> str:
    """Return what an operator can do when acknowledged records are gone."""
    return (
        "Put the newest segments back from a copy of the log, or make the replica that has them "
        "reachable. Only if they are lost for good: stop all processes of the node, remove "
        f"{wal_path / CONTROL_NAME}, create {wal_path / REBUILD_NAME} and start again; the index "
        "is then rebuilt from what is left."
    )


def _settle_identity(
    log: WriteAheadLog, storage_path: Path, *, has_replicas: bool, may_begin: bool
) -> tuple[bytes, bool]:
    """Create or check log and store.

    Returns:
        (id of their cluster, 16 bytes; whether the store has lost what the log says it holds).
    """
    identity = read_identity(storage_path)
    if identity is not None and not log.exists():
        raise WalGapError(
            "The store has an owner, but the log is gone.",
            hint="Put the log back, or, if it never held anything, remove the store's dfs.json.",
            path=log.path,
        )
    is_new = identity is None and may_begin
    header = log.prepare(cluster_id=secrets.token_bytes(CLUSTER_ID_BYTES) if is_new else None)
    if identity is not None:
        require_cluster(identity, cluster_id=header.cluster_id, path=storage_path)
        return header.cluster_id, False
    if header.segment_id > 1 or any(True for _ in log.read(after_lsn=0)):
        if has_replicas:
            return header.cluster_id, True
        if not any((storage_path / BLOBS_NAME).iterdir()):  # else only the identity was lost
            raise StoreIdentityError(
                "The log holds records, but the store is empty.",
                hint="Is its disk mounted? Put the store back: STORAGE_PATH must be the directory "
                "that this log was written with.",
                path=storage_path,
            )
        logger.warning("store_identity_renewed", path=str(storage_path))
    write_identity(storage_path, new_identity(cluster_id=header.cluster_id))
    return header.cluster_id, False


def _replace_store(index: IndexDatabase, store: BlobStore, *, cluster_id: bytes) -> None:
    """Take an empty store for the primary whose disk was lost: it is owed every blob file.

    The identity comes last: without it the next start owes them again.
    """
    identity = new_identity(cluster_id=cluster_id)
    with index.begin() as transaction:
        known = transaction.store_states().get(store.name)
        if known is not None and known.was_mounted and not store.is_mount():
            raise StoreUnavailableError(
                "The disk of the primary is not mounted.",
                hint="Mount it. If it is lost for good, mount another, empty one.",
                store=store.name,
            )
        transaction.owe_all_blobs(store.name, now_ms())
        transaction.put_store_state(
            StoreState(store.name, identity.store_id, was_mounted=store.is_mount())
        )
        transaction.commit()
    store.adopt(identity)
    logger.warning("primary_replaced", store_id=identity.store_id.hex())


def _check_lengths(log: WriteAheadLog) -> None:
    """Notice now, not when its bytes are wanted, that a sealed segment has lost its end."""
    for segment in log.segments():
        if segment.is_cut:
            raise WalCorruptError(
                "A segment of the log is shorter than it was.", hint=COPY_HINT, path=segment.path
            )


def _read_state(index: IndexDatabase, *, node_id: str, cluster_id: bytes) -> NodeState:
    """Return how far the index has followed the log; a new index has not begun to.

    Raises:
        StoreIdentityError: the index is another node's, or another cluster's.
    """
    other = index.other_node()
    if other is not None:  # places in the log are stored without the node whose log it is
        raise StoreIdentityError(
            f"The index is that of node {other}; this one is {node_id}.",
            hint="Give each node a DATABASE_URL of its own, and do not change DFS_NODE_ID.",
        )
    with index.begin() as transaction:
        state = transaction.node_state
        if state is None:
            state = NodeState(node_id, cluster_id, 0)
            transaction.set_node_state(state)
            transaction.commit()
    if state.cluster_id != cluster_id:
        raise StoreIdentityError(
            f"The index belongs to cluster {state.cluster_id.hex()}, not to {cluster_id.hex()}.",
            hint="DATABASE_URL names the index of another node.",
        )
    return state


def _replay(
    frames: Iterable[Frame], index: IndexDatabase, state: NodeState
) -> tuple[int, Frame | None]:
    """Apply records to the index. Returns how many they were, and the last one."""
    replayed = 0
    last: Frame | None = None
    next_report = time.monotonic() + PROGRESS_EVERY_S
    with _garbage_kept():
        for batch in _batches(frames):
            _apply_batch(batch, index, state)
            replayed += len(batch)
            last = batch[-1]
            if time.monotonic() >= next_report:
                logger.info("log_replaying", replayed=replayed, lsn=last.lsn)
                next_report = time.monotonic() + PROGRESS_EVERY_S
    return replayed, last


@contextlib.contextmanager
def _garbage_kept() -> Iterator[None]:
    """Stop the garbage collector: a replay makes no cycles, but a million objects to look at."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _apply_batch(frames: list[Frame], index: IndexDatabase, state: NodeState) -> None:
    metas = [decode_meta(frame) for frame in frames]
    with index.begin() as transaction:
        preload(metas, transaction)
        for frame, meta in zip(frames, metas, strict=True):
            apply(frame, meta, transaction)
        transaction.set_node_state(NodeState(state.node_id, state.cluster_id, frames[-1].lsn))
        transaction.commit()


def _settle_end(log: WriteAheadLog, end: ReadEnd, *, durable_lsn: int) -> Path | None:
    """Cut a torn tail; refuse anything else that is not a clean end. Returns the kept bytes."""
    if end.outcome is Outcome.CORRUPT:
        raise end.error()
    if end.position.lsn < durable_lsn:
        raise WalGapError(
            f"The log ends at LSN {end.position.lsn}, but {durable_lsn} was acknowledged: "
            f"{durable_lsn - end.position.lsn} records are lost.",
            hint=hint_at_loss(log.path),
            path=end.path,
            durable_lsn=durable_lsn,
        )
    if end.outcome is Outcome.CLEAN_END:
        return None
    kept = log.cut(end.position)
    logger.warning(
        "torn_tail_cut",
        path=str(end.path),
        offset=end.position.offset,
        lsn=end.position.lsn,
        fault=end.fault,
        kept=str(kept),
    )
    return kept


def _require_blobs(index: IndexDatabase, *, lacked: bytes | None) -> None:
    """Refuse a file that refers to bytes which nobody ever put.

    Args:
        lacked: a blob that was nowhere before what was replayed now.

    Raises:
        IndexDamagedError: it may be to blame; if not, the log is seen to be when it is rebuilt.
        WalCorruptError: the log is.
    """
    digest = index.nowhere_blob()
    if digest is None:
        return
    if lacked is not None:
        raise index.damaged("The index knows a file, and not where its bytes are.")
    raise WalCorruptError(
        "A record of the log refers to a blob that was never put.",
        hint="Put the log back from a copy; dfs never skips records.",
        digest=digest.hex(),
    )


def _batches(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Yield records in batches, without their data: the index wants only their meta."""
    iterator = map(_drop_data, frames)
    while batch := list(islice(iterator, REPLAY_BATCH_RECORDS)):
        yield batch


def _drop_data(frame: Frame) -> Frame:
    frame.data = NO_DATA
    return frame
