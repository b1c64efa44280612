"""How much a node holds: what its clients see of it, and what it costs on the disks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dfs.core.model import REMOVALS, Usage
from dfs.db.repository import IndexRepository
from dfs.wal.log import WriteAheadLog


@dataclass(frozen=True, slots=True)
class LogSegments:
    """The segments of the log: the active one, sealed ones, and stubs of those that were dropped.

    Attributes:
        active_bytes, sealed_bytes, dropped_bytes: up to the end of their last record.
    """

    active_bytes: int
    sealed: int
    sealed_bytes: int
    dropped: int
    dropped_bytes: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What a node holds.

    Attributes:
        buckets: name -> what its files use, of those that have or had any.
        blobs: what the blobs of all buckets use.
        quota_bytes: what all files may have together; 0 for no limit.
        segments: those of the log.
        dead_bytes: of records that are not the truth any more.
        copy_bytes, removal_bytes: that the stores have still to write, and to remove; of the log,
            which each replica is owed up to its end, nothing is in there.
    """

    buckets: Mapping[str, Usage]
    blobs: Usage
    quota_bytes: int
    segments: LogSegments
    dead_bytes: int
    copy_bytes: int
    removal_bytes: int

    @property
    def log_bytes(self) -> int:
        """Bytes of all segments, up to the end of their last record."""
        return self.segments.active_bytes + self.segments.sealed_bytes + self.segments.dropped_bytes

    @property
    def files(self) -> Usage:
        """What the files of all buckets use together."""
        return Usage(
            files=sum(usage.files for usage in self.buckets.values()),
            bytes=sum(usage.bytes for usage in self.buckets.values()),
            deleted_files=sum(usage.deleted_files for usage in self.buckets.values()),
            deleted_bytes=sum(usage.deleted_bytes for usage in self.buckets.values()),
        )

    @property
    def deduplicated_bytes(self) -> int:
        """Bytes of files that cost nothing, since they are the same as others."""
        files, blobs = self.files, self.blobs
        needed = blobs.blob_file_bytes - blobs.unused_bytes + blobs.inline_bytes
        return files.bytes + files.deleted_bytes - needed


class UsageService:
    """Tells how much a node holds.

    Args:
        quota_bytes: see the setting.
    """

    def __init__(self, *, log: WriteAheadLog, index: IndexRepository, quota_bytes: int) -> None:
        self._log = log
        self._index = index
        self._quota_bytes = quota_bytes

    def report(self) -> UsageReport:
        """Return how much the node holds now.

        Raises:
            WalError: the log has not been recovered.
            MetadataError: the index does not answer.
        """
        blobs, buckets = self._index.usage()
        owed = self._index.summarize_debts()
        return UsageReport(
            buckets={name: usage for name, usage in buckets.items() if usage != Usage()},
            blobs=blobs,
            quota_bytes=self._quota_bytes,
            segments=self._survey_segments(),
            dead_bytes=self._index.dead_bytes(),
            copy_bytes=sum(row.bytes for row in owed if row.kind not in REMOVALS),
            removal_bytes=sum(row.bytes for row in owed if row.kind in REMOVALS),
        )

    def _survey_segments(self) -> LogSegments:
        end = self._log.position
        passed = [
            segment
            for segment in self._log.segments()
            if segment.header.segment_id < end.segment_id
        ]
        stubs = [segment.stub for segment in passed if segment.stub is not None]
        return LogSegments(
            active_bytes=end.offset,
            sealed=len(passed) - len(stubs),
            sealed_bytes=sum(segment.end or 0 for segment in passed if segment.stub is None),
            dropped=len(stubs),
            dropped_bytes=sum(len(stub.data) for stub in stubs),
        )
