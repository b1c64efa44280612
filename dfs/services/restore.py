"""Restoring the log of a node from the copies that its replicas keep.

What is whole on the node itself stays as it is. A sealed segment that is missing or damaged comes
from whichever store has it whole, or is put together from several copies. The newest segment, if
the node's own is lost, ends where no replica has any more: so all of them must answer.

Each file is built aside, verified and synced before it is renamed into place, the active segment
last: without it the node does not start, so whoever dies on the way only begins again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from dfs.core.durable import make_directory_durably, storage_error, sync_directory
from dfs.core.errors import (
    StorageError,
    StoreIdentityError,
    StoreUnavailableError,
    WalCorruptError,
    WalError,
    WalGapError,
)
from dfs.core.steps import OnStep, ignore_step
from dfs.services.own_log import OwnLog
from dfs.services.recovery import hint_at_loss
from dfs.services.segment_copies import Built, SegmentBuilder, has_stub, open_own
from dfs.services.segment_sources import SegmentSource, SegmentStore, ask_store, read_held_header
from dfs.services.workshop import workshop
from dfs.storage.identity import read_identity
from dfs.wal.control import CONTROL_NAME, ControlFile, LogPosition
from dfs.wal.layout import Situation, find_situation, list_segments
from dfs.wal.merge import (
    SegmentCopy,
    find_sure_end,
    first_position,
    require_same,
    two_lives,
)
from dfs.wal.repair import keep_file
from dfs.wal.segment import (
    ACTIVE_NAME,
    FIRST_SEGMENT_ID,
    SEGMENT_HEADER_BYTES,
    SEGMENTS_NAME,
    SegmentHeader,
    sealed_path,
)

LOCK_WAIT_S = 600.0

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Restored:
    """What restoring did.

    Attributes:
        position: the end of the log, as far as its newest segment can be read.
        segments: ids of those that were restored, ascending.
        origins: where their bytes come from.
    """

    position: LogPosition
    segments: tuple[int, ...]
    origins: tuple[str, ...]


def needs_restoring(wal_path: Path) -> str | None:
    """Tell why the log in a directory may have to be restored, or None. Asks no replica.

    Looks at names, sizes and headers only. A log that is empty is a new one, or one that was lost:
    `restore_log` finds out.

    Raises:
        WalFormatError: a newer program wrote it.
        StorageError: the directory cannot be read.
    """
    situation = find_situation(wal_path)
    if situation in (Situation.EMPTY, Situation.HEADLESS):
        return str(situation.value)
    try:
        for segment in list_segments(wal_path):
            if segment.is_cut:
                return f"{segment.path} is shorter than it was."
    except (WalCorruptError, WalGapError) as error:
        return str(error)
    return None


def restore_log(
    *,
    wal_path: Path,
    storage_path: Path,
    stores: Sequence[SegmentStore],
    durable_lsn: int = 0,
    on_step: OnStep = ignore_step,
) -> Restored | None:
    """Bring the log of a node into a state that recovery accepts. May be repeated.

    Reads all of the log that is there. Under the node's lock.

    Args:
        stores: the replicas. None of them is changed.
        durable_lsn: of a record that is known to have been acknowledged.

    Returns:
        What was done; None if neither the node nor a replica has any log: the node is new.

    Raises:
        WalGapError: segments, or records up to `durable_lsn`, are on no store.
        WalCorruptError: a segment is damaged in all copies; or the copies come from two lives of
            the log.
        StoreUnavailableError: the newest segment is lost, and not all stores can be asked for it.
        StoreIdentityError: log, primary and replicas are not of one cluster.
        WalError: other processes use the log, or another one restores it.
        StorageError: the disk failed.

    Durability: on return all segments are on disk. What was damaged is kept in `damaged/`.
    """
    make_directory_durably(wal_path / SEGMENTS_NAME)
    with (
        workshop(wal_path, timeout_s=LOCK_WAIT_S) as directory,
        contextlib.closing(ControlFile(wal_path / CONTROL_NAME)) as control,
        control.lock(),
    ):
        own = OwnLog(wal_path)
        sources = [ask_store(store) for store in stores]
        if own.is_empty and not any(source.held for source in sources):
            _require_answers(sources)
            return None
        cluster_id = _find_cluster(own, sources, storage_path)
        known = control.position
        return _Restoration(
            own=own,
            sources=sources,
            builder=SegmentBuilder(
                directory=directory,
                sources=sources,
                cluster_id=cluster_id,
                own_header=own.headers.get,
            ),
            cluster_id=cluster_id,
            control=control,
            durable_lsn=max(durable_lsn, known.lsn if known else 0),
            on_step=on_step,
        ).run()


class _Restoration:
    """One run of `restore_log`."""

    def __init__(
        self,
        *,
        own: OwnLog,
        sources: Sequence[SegmentSource],
        builder: SegmentBuilder,
        cluster_id: bytes,
        control: ControlFile,
        durable_lsn: int,
        on_step: OnStep,
    ) -> None:
        self._own = own
        self._sources = sources
        self._builder = builder
        self._cluster_id = cluster_id
        self._control = control
        self._durable_lsn = durable_lsn
        self._on_step = on_step
        self._placed: dict[int, tuple[str, ...]] = {}

    def run(self) -> Restored:
        """Restore what is not whole."""
        position = self._own.find_end(self._durable_lsn)
        newest = self._build_newest() if position is None else None
        header = newest.header if newest else self._own.header
        if header is None:
            raise RuntimeError("a log whose end is known has a header")
        ends = self._find_ends(header)
        if newest is not None:
            self._require_one_life(newest, ends)
        log_end = position or (newest.end if newest else first_position(header))
        for end in ends:
            self._restore_sealed(end, log_end, is_own=newest is None)
        if newest is not None:
            self._place_newest(newest)
        origins = dict.fromkeys(name for names in self._placed.values() for name in names)
        return Restored(log_end, tuple(sorted(self._placed)), tuple(origins))

    def _build_newest(self) -> Built:
        """Build the segment that becomes the active one, from all stores."""
        if self._control.has_others():
            raise WalError(
                "The active segment has to be restored, but other processes still use the log.",
                hint="Stop all processes of the node, web and workers, then start them again.",
            )
        _require_answers(self._sources)
        own = self._own
        segment_id = max((source.newest_id for source in self._sources), default=0)
        if own.header is not None:
            segment_id = max(segment_id, own.header.segment_id)
        if segment_id <= max(own.sealed, default=0):
            raise WalGapError(
                f"The active segment of the log is lost, and no store has it ({self._asked()}).",
                hint="Put wal.active back from a copy. Only if it is lost for good: rename the "
                "newest file in segments/ to wal.active; all that came later is lost then.",
                path=own.path / ACTIVE_NAME,
            )
        built = self._builder.build_newest(segment_id, own.open(segment_id))
        if built.end.lsn < self._durable_lsn:
            raise WalGapError(
                f"The log ends at LSN {built.end.lsn} on all stores, but {self._durable_lsn} was "
                f"acknowledged: {self._durable_lsn - built.end.lsn} records are lost "
                f"({self._asked()}).",
                hint=hint_at_loss(own.path),
                path=own.path,
            )
        self._on_step("restore.newest_built")
        return built

    def _find_ends(self, newest: SegmentHeader) -> list[LogPosition]:
        """Return where each sealed segment ends, the newest first: the next one's header says."""
        ends: list[LogPosition] = []
        following = newest
        for segment_id in range(newest.segment_id - 1, FIRST_SEGMENT_ID - 1, -1):
            ends.append(
                LogPosition(segment_id, following.previous_end, following.previous_last_lsn)
            )
            if segment_id > FIRST_SEGMENT_ID:
                following = self._find_header(segment_id)
        return ends

    def _find_header(self, segment_id: int) -> SegmentHeader:
        header = self._own.headers.get(segment_id)
        if header is not None:
            return header
        for source in self._sources:
            if segment_id in source.held:
                with contextlib.suppress(StorageError):
                    header = read_held_header(source.store, segment_id)
                if header is not None and header.cluster_id == self._cluster_id:
                    return header
        raise WalGapError(
            f"Segment {segment_id} of the log is missing, or its header is damaged, on all stores "
            f"({self._asked()}).",
            hint="Put the file back from a copy; dfs never skips records.",
            path=sealed_path(self._own.path, segment_id),
        )

    def _require_one_life(self, newest: Built, ends: Sequence[LogPosition]) -> None:
        """Check that stores which have less of the log have the beginning of the same log.

        One may have been away when the node was restored without it: its records of then have
        numbers that others have been given since.

        Raises:
            WalCorruptError: naming the stores.
        """
        by_id = {end.segment_id: end for end in ends}
        for source in self._sources:
            segment_id = source.newest_id
            end = by_id.get(segment_id)
            if end is None or source.newest is None:
                continue
            names = (source.name, *newest.origins)
            if source.newest != self._find_header(segment_id):
                raise two_lives(names)
            copy = self._builder.fetch(source, segment_id, source.held[segment_id])
            sure = find_sure_end(copy, first_position(source.newest))
            whole = self._find_whole(end, newest.end)
            if whole is not None:
                require_same(copy, whole, SEGMENT_HEADER_BYTES, sure.offset)

    def _find_whole(self, end: LogPosition, log_end: LogPosition) -> SegmentCopy | None:
        """Return a whole copy of a sealed segment; None if only its stub is needed."""
        whole = self._own.open_whole(end)
        if whole is not None:
            return whole
        built = self._builder.build_up_to(end, self._own.open(end.segment_id), log_end=log_end)
        return None if built.is_stub else open_own(built.path)

    def _restore_sealed(self, end: LogPosition, log_end: LogPosition, *, is_own: bool) -> None:
        """Have a sealed segment, or a stub that is enough.

        Args:
            is_own: the log ends as the node's own did. Then what is whole of it stays; else a stub
                on any store has the better of it: see `SegmentBuilder.build_up_to`.
        """
        own = self._own
        target = sealed_path(own.path, end.segment_id)
        if has_stub(own.open(end.segment_id), end, log_lsn=log_end.lsn):
            return
        if own.open_whole(end) is None:
            built = self._builder.build_up_to(end, own.open(end.segment_id), log_end=log_end)
            self._on_step("restore.sealed_built")
            self._place(built, target)
        elif not is_own and (stub := self._builder.build_stub(end, log_end=log_end)) is not None:
            self._place(stub, target, keep=False)

    def _place_newest(self, built: Built) -> None:
        """Have the log end where it does now: what the control file knew is of the lost segment."""
        self._control.reset(built.end)
        self._on_step("restore.control_reset")
        self._place(built, self._own.path / ACTIVE_NAME)

    def _place(self, built: Built, target: Path, *, keep: bool = True) -> None:
        """Give a file that was built its name, and keep the damaged one that had it."""
        try:
            if keep and target.exists():
                keep_file(self._own.path, target)
                self._on_step("restore.damaged_kept")
            built.path.replace(target)
        except OSError as error:
            raise storage_error(error, path=target) from error
        self._on_step("restore.renamed")
        sync_directory(target.parent)
        self._placed[built.header.segment_id] = built.origins
        logger.warning(
            "segment_restored",
            segment_id=built.header.segment_id,
            lsn=built.end.lsn,
            size_bytes=built.end.offset,
            origins=list(built.origins),
        )
        self._on_step("restore.placed")

    def _asked(self) -> str:
        """Return what each store has, for the text of an error."""
        return describe(self._sources)


def describe(sources: Sequence[SegmentSource]) -> str:
    """Return what each store has of the log, for the text of an error."""
    return "; ".join(
        f"{source.name}: {source.fault}"
        if source.fault is not None
        else f"{source.name}: segments up to {source.newest_id}"
        if source.newest_id
        else f"{source.name}: no segments"
        for source in sources
    )


def _require_answers(sources: Sequence[SegmentSource]) -> None:
    """Refuse to guess what a store may have that others lack."""
    if any(source.fault is not None for source in sources):
        raise StoreUnavailableError(
            f"The log is lost, and not all stores can be asked for it ({describe(sources)}).",
            hint="Make the store reachable. If it is lost for good, take its setting away: records "
            "that only it holds are lost then.",
        )


def _find_cluster(own: OwnLog, sources: Sequence[SegmentSource], storage_path: Path) -> bytes:
    """Return the id of the one cluster that log, primary and replicas are of."""
    found: dict[bytes, list[str]] = {}

    def note(name: str, cluster_id: bytes | None) -> None:
        if cluster_id is not None and name not in found.setdefault(cluster_id, []):
            found[cluster_id].append(name)

    for header in own.headers.values():
        note("the log", header.cluster_id)
    identity = read_identity(storage_path)
    note("the primary", identity.cluster_id if identity else None)
    for source in sources:
        note(source.name, source.cluster_id)
        note(source.name, source.newest.cluster_id if source.newest else None)
    if len(found) > 1:
        owners = "; ".join(f"{', '.join(names)}: {key.hex()}" for key, names in found.items())
        raise StoreIdentityError(
            f"The log cannot be restored from stores of different clusters ({owners}).",
            hint="Check the paths of the stores and of the log: one of them is another node's.",
        )
    if not found:
        raise WalCorruptError(
            f"No segment of the log has a sound header ({describe(sources)}).",
            hint="Put the log back from a copy.",
            path=own.path,
        )
    return next(iter(found))
