"""Segments that were abandoned: a failed sync ends one without a record that says so."""

from __future__ import annotations

from collections.abc import Iterator

import structlog

from dfs.core.model import Segment
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.wal.control import LogPosition
from dfs.wal.log import WriteAheadLog

logger = structlog.get_logger()

PAGE_SEGMENTS = 1000
NEVER_MS = 0
"""In the place of the time at which a segment was sealed."""


def leave_failed_segment(log: WriteAheadLog, index: IndexDatabase) -> None:
    """Abandon the active segment, if a sync of it failed, behind the last record that was durable.

    That is where the control file says that the log ends; or behind it, where the index has
    followed further: it follows only what was synced. Then a process died before it could say so,
    and the sync failed for the one that looked after what it had left.

    Raises:
        WalGapError, WalCorruptError, StorageError, MetadataError.
    """
    reason, position = log.control.read_only_reason, log.control.position
    if reason is None or position is None:
        return
    applied_lsn = index.applied_lsn()
    if applied_lsn > position.lsn:
        for frame in log.read(after_lsn=position.lsn):
            if frame.lsn == applied_lsn:
                end = frame.offset + frame.length
                position = LogPosition(frame.segment_id, end, frame.lsn)
    logger.warning("segment_abandoned", segment_id=position.segment_id, reason=reason)
    log.control.reset(log.leave_active(position))


def note_abandoned(log: WriteAheadLog, index: IndexDatabase) -> None:
    """Let the index know the segments whose last record does not say that they are sealed.

    Where they ended, the header of the next one says.

    Raises:
        WalGapError, WalCorruptError, MetadataError.
    """
    known = {segment.id for segment in _all_segments(index)}
    found = [
        Segment(
            id=file.header.segment_id,
            first_lsn=file.header.first_lsn,
            last_lsn=file.last_lsn or 0,
            size_bytes=file.end,
            sealed_at_ms=NEVER_MS,
        )
        for file in log.segments()
        if file.end is not None and file.header.segment_id not in known
    ]
    if found:
        with index.begin() as transaction:
            for segment in found:
                transaction.put_segment(segment)
            transaction.commit()


def _all_segments(index: IndexDatabase) -> Iterator[Segment]:
    repository, after = IndexRepository(index), 0
    while page := repository.list_segments(after=after, limit=PAGE_SEGMENTS):
        yield from page
        after = page[-1].id
