"""Mending the log of a running node with what its replicas hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from dfs.core.durable import storage_error, sync_directory
from dfs.core.errors import (
    BlobMissingError,
    StoreUnavailableError,
    WalCorruptError,
    WalError,
)
from dfs.core.model import StoreState
from dfs.core.steps import OnStep, ignore_step
from dfs.services.segment_copies import SegmentBuilder, find_header, has_stub, open_own
from dfs.services.segment_sources import (
    SegmentSource,
    SegmentStore,
    ask_store,
    read_following,
    read_own_header,
)
from dfs.services.workshop import workshop
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog
from dfs.wal.merge import SegmentCopy, first_position, merge_up_to, read_runs
from dfs.wal.repair import keep_file, overwrite
from dfs.wal.segment import SEGMENT_HEADER_BYTES, SegmentHeader, encode_header, sealed_path

LOCK_WAIT_S = 10.0

logger = structlog.get_logger()


def mend_segment(
    log: WriteAheadLog,
    segment_id: int,
    *,
    cluster_id: bytes,
    sources: Sequence[SegmentStore],
    states: Mapping[str, StoreState],
    on_step: OnStep = ignore_step,
) -> bool:
    """Have a segment of the node whole again, while the log is read and written. May be repeated.

    A sealed segment is replaced by a whole one. In the active one, which others write to, the
    damaged bytes are overwritten. What was damaged is kept in `damaged/`.

    Args:
        log: open and recovered; its lock is not held.
        cluster_id: of the log.
        sources: the replicas. None of them is changed.
        states: by name of the replica: up to where its copy of the log is known to be right.

    Returns:
        Whether anything had to be mended.

    Raises:
        WalCorruptError, WalGapError: it is nowhere whole; or the segment behind it, which says
            where it ends, has to be mended first.
        WalError: another process mends, or the segment was sealed meanwhile: do it again.
        StorageError: the node's own disk failed.

    Durability: on return the segment is on disk.
    """
    with workshop(log.path, timeout_s=LOCK_WAIT_S) as directory:
        mender = _Mender(
            log=log,
            directory=directory,
            cluster_id=cluster_id,
            sources=[ask_store(store) for store in sources],
            states=states,
            on_step=on_step,
        )
        with log.lock():  # a rotation has several steps
            position = log.position
            is_active = segment_id == position.segment_id
            following = None if is_active else read_following(log, segment_id)
        if following is None:
            return mender.mend_active(position)
        return mender.mend_sealed(following)


class _Mender:
    """One run of `mend_segment`."""

    def __init__(
        self,
        *,
        log: WriteAheadLog,
        directory: Path,
        cluster_id: bytes,
        sources: Sequence[SegmentSource],
        states: Mapping[str, StoreState],
        on_step: OnStep,
    ) -> None:
        self._log = log
        self._cluster_id = cluster_id
        self._sources = sources
        self._states = states
        self._builder = SegmentBuilder(
            directory=directory,
            sources=sources,
            cluster_id=cluster_id,
            own_header=self._read_header,
        )
        self._on_step = on_step

    def mend_sealed(self, following: SegmentHeader) -> bool:
        """Put a whole file in the place of a damaged or missing one.

        Args:
            following: header of the segment behind it.
        """
        segment_id = following.segment_id - 1
        end = LogPosition(segment_id, following.previous_end, following.previous_last_lsn)
        path = sealed_path(self._log.path, segment_id)
        own = [open_own(path)] if path.exists() else []
        log_end = self._log.position
        if self._is_whole(own, end) or has_stub(own, end, log_lsn=log_end.lsn):
            self._log.open_segments.forget(segment_id)
            return False
        built = self._builder.build_up_to(end, own, log_end=log_end)
        self._on_step("mend.built")
        with self._log.lock():
            try:
                if path.exists():
                    keep_file(self._log.path, path)
                    self._on_step("mend.kept")
                built.path.replace(path)
            except OSError as error:
                raise storage_error(error, path=path) from error
            sync_directory(path.parent)
        self._on_step("mend.placed")
        self._log.open_segments.forget(segment_id)
        logger.warning("segment_mended", segment_id=segment_id, origins=list(built.origins))
        return True

    def mend_active(self, end: LogPosition) -> bool:
        """Overwrite what is damaged in the active segment before `end`, where it ended just now."""
        path = self._log.active_path
        pieces = self._find_pieces(end)
        if not pieces:
            return False
        self._on_step("mend.built")
        with self._log.lock():
            if self._log.position.segment_id != end.segment_id:
                raise WalError("The segment was sealed while it was to be mended: try again.")
            overwrite(self._log.path, path, segment_id=end.segment_id, pieces=pieces)
        self._on_step("mend.placed")
        if not self._is_whole([open_own(path)], end):
            raise StoreUnavailableError(
                "The disk does not give back what was written to the log.", path=path
            )
        offsets = [offset for offset, _ in pieces]
        logger.warning("segment_mended", segment_id=end.segment_id, offsets=offsets)
        return True

    def _find_pieces(self, end: LogPosition) -> list[tuple[int, bytes]]:
        """Return (offset, right bytes) of what is damaged in the node's own active segment."""
        own = open_own(self._log.active_path)
        if self._is_whole([own], end):
            return []
        copies = [own, *self._fetch_believed(end)]
        header = find_header(copies, end.segment_id, cluster_id=self._cluster_id)
        if header is None:
            raise self._unmendable(end, 0)
        merged = merge_up_to(copies, start=first_position(header), end=end)
        if merged.end != end:
            raise self._unmendable(end, merged.end.offset)
        pieces = [
            (run.start, b"".join(read_runs([run]))) for run in merged.runs if run.copy is not own
        ]
        encoded = encode_header(header)
        return pieces if own.segment.read(0, len(encoded)) == encoded else [(0, encoded), *pieces]

    def _is_whole(self, copies: Sequence[SegmentCopy], end: LogPosition) -> bool:
        header = find_header(copies, end.segment_id, cluster_id=self._cluster_id)
        if header is None:
            return False
        return merge_up_to(copies, start=first_position(header), end=end).end == end

    def _read_header(self, segment_id: int) -> SegmentHeader | None:
        is_active = segment_id == self._log.position.segment_id
        path = self._log.active_path if is_active else sealed_path(self._log.path, segment_id)
        return read_own_header(path, segment_id)

    def _fetch_believed(self, end: LogPosition) -> list[SegmentCopy]:
        """Copy what stores hold of the active segment, as far as it is known to be right."""
        copies = []
        for source in self._sources:
            length = min(self._believed_bytes(source, end.segment_id), end.offset)
            if length >= SEGMENT_HEADER_BYTES:
                try:
                    copies.append(self._builder.fetch(source, end.segment_id, length))
                except (StoreUnavailableError, BlobMissingError) as error:
                    logger.warning("store_not_asked", store=source.name, error=str(error))
        return copies

    def _believed_bytes(self, source: SegmentSource, segment_id: int) -> int:
        state = self._states.get(source.name)
        if state is None or state.segment_id != segment_id:
            return 0
        return min(source.held.get(segment_id, 0), state.offset)

    def _unmendable(self, end: LogPosition, offset: int) -> WalCorruptError:
        asked = "; ".join(
            f"{source.name}: "
            f"{source.fault or f'{self._believed_bytes(source, end.segment_id)} bytes'}"
            for source in self._sources
        )
        return WalCorruptError(
            f"The active segment of the log, {end.segment_id}, is damaged at offset {offset}, and "
            f"no store can give what belongs there ({asked or 'there is none'}).",
            hint="Make the stores reachable; dfs never skips records.",
            segment_id=end.segment_id,
        )
