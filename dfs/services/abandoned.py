"""Segments that were abandoned: a failed sync ends one without a record that says so."""

from __future__ import annotations

from collections.abc import Iterator

from dfs.core.model import Segment
from dfs.db.repository import IndexRepository
from dfs.db.session import IndexDatabase
from dfs.wal.log import WriteAheadLog

PAGE_SEGMENTS = 1000
NEVER_MS = 0
"""In the place of the time at which a segment was sealed."""


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
