"""What the directory of a damaged log still has."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from dfs.core.errors import StorageError, WalCorruptError
from dfs.services.segment_copies import open_own
from dfs.services.segment_sources import read_own_header
from dfs.wal.control import LogPosition
from dfs.wal.layout import Situation, find_situation
from dfs.wal.merge import SegmentCopy, first_position, merge_up_to
from dfs.wal.reader import Outcome, SegmentReader
from dfs.wal.segment import (
    ACTIVE_NAME,
    NEXT_NAME,
    SegmentHeader,
    list_sealed_ids,
    sealed_path,
)


class OwnLog:
    """What a directory still has of a log.

    Attributes:
        sealed: ids of the sealed segments, ascending.
        newest: the active segment; in the middle of a rotation the next one; None if it is lost.
        header: of `newest`; None if it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_empty = find_situation(path) is Situation.EMPTY
        self.sealed = list_sealed_ids(path)
        active, following = path / ACTIVE_NAME, path / NEXT_NAME
        self.newest: Path | None = active if active.exists() else None
        self.header = read_own_header(active)
        if self.newest is None:
            header = read_own_header(following)
            if header is not None and header.segment_id - 1 in self.sealed:
                self.newest, self.header = following, header

    @cached_property
    def headers(self) -> dict[int, SegmentHeader]:
        """The headers of all segments, those that are not damaged."""
        sealed = {i: read_own_header(sealed_path(self.path, i), i) for i in self.sealed}
        headers = {self.header.segment_id: self.header} if self.header else {}
        return headers | {i: header for i, header in sealed.items() if header is not None}

    def open(self, segment_id: int) -> list[SegmentCopy]:
        """Return the files that hold a segment, or may: a damaged header does not tell."""
        paths = [sealed_path(self.path, segment_id)] if segment_id in self.sealed else []
        if self.newest and (self.header is None or self.header.segment_id == segment_id):
            paths.append(self.newest)
        return [open_own(path) for path in paths if path.is_file()]

    def find_end(self, durable_lsn: int) -> LogPosition | None:
        """Return where the log ends; None if the newest segment is not whole."""
        header, last_sealed = self.header, self.sealed[-1] if self.sealed else 0
        if self.newest is None or header is None or header.segment_id <= last_sealed:
            return None
        reader = SegmentReader(
            segment=open_own(self.newest).segment,
            start=first_position(header),
            stop=None,
            durable_lsn=durable_lsn,
        )
        try:
            for _ in reader:
                pass
        except (StorageError, WalCorruptError):
            return None
        if reader.end.outcome is Outcome.CORRUPT or reader.end.position.lsn < durable_lsn:
            return None
        return reader.end.position

    def open_whole(self, end: LogPosition) -> SegmentCopy | None:
        """Return the file of the sealed segment that ends at `end`, if every byte is right.

        A stub is not the segment.
        """
        path = sealed_path(self.path, end.segment_id)
        header = read_own_header(path, end.segment_id)
        if header is None:
            return None
        copy = open_own(path)
        return (
            copy if merge_up_to([copy], start=first_position(header), end=end).end == end else None
        )
