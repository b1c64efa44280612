"""Metrics of what the node holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dfs.core.model import Usage
from dfs.telemetry.lookup import Lookup, LookupCollector, single


@dataclass(frozen=True, slots=True)
class UsageGauges:
    """What the files of all buckets use, what the blobs do, the log, and the index.

    Attributes:
        segments: kind -> (count, bytes) of the segments of the log.
    """

    files: Usage
    blobs: Usage
    segments: Mapping[str, tuple[int, int]]
    dead_bytes: int
    index_bytes: int
    index_lsn: int


_METRICS: tuple[Lookup[UsageGauges], ...] = (
    Lookup(
        "dfs_files",
        "Files, by whether they are in the trash",
        ("state",),
        lambda found: {
            ("live",): found.files.files,
            ("deleted",): found.files.deleted_files,
        },
    ),
    Lookup(
        "dfs_logical_bytes",
        "Bytes of files, by whether they are in the trash",
        ("state",),
        lambda found: {
            ("live",): found.files.bytes,
            ("deleted",): found.files.deleted_bytes,
        },
    ),
    single("dfs_blob_files", "Blobs that are files", lambda found: found.blobs.blob_files),
    single(
        "dfs_blob_file_bytes",
        "Bytes of blobs that are files",
        lambda found: found.blobs.blob_file_bytes,
    ),
    single(
        "dfs_unused_blob_file_bytes",
        "Bytes of blobs that are files and that no file of a client needs any more",
        lambda found: found.blobs.unused_bytes,
    ),
    single(
        "dfs_inline_blobs",
        "Blobs in the log that files need",
        lambda found: found.blobs.inline_blobs,
    ),
    single(
        "dfs_inline_bytes",
        "Bytes of blobs in the log that files need",
        lambda found: found.blobs.inline_bytes,
    ),
    single(
        "dfs_log_bytes",
        "Bytes of the log",
        lambda found: sum(size for _, size in found.segments.values()),
    ),
    single(
        "dfs_log_dead_bytes",
        "Bytes of records of the log that are not the truth any more",
        lambda found: found.dead_bytes,
    ),
    Lookup(
        "dfs_log_segments",
        "Segments of the log: the active one, sealed ones, and stubs of dropped ones",
        ("state",),
        lambda found: {(state,): count for state, (count, _) in found.segments.items()},
    ),
    Lookup(
        "dfs_log_segment_bytes",
        "Bytes of the segments of the log, each up to the end of its last record",
        ("state",),
        lambda found: {(state,): size for state, (_, size) in found.segments.items()},
    ),
    single(
        "dfs_index_bytes",
        "Bytes of the index: its files, or the whole PostgreSQL database",
        lambda found: found.index_bytes,
    ),
    single(
        "dfs_index_applied_lsn",
        "LSN of the last record of the log that the index knows",
        lambda found: found.index_lsn,
    ),
)


def collect_usage(read: Callable[[], UsageGauges | None]) -> LookupCollector[UsageGauges]:
    """Return what tells how much the node holds; nothing if that is not known."""
    return LookupCollector(read, _METRICS, name="usage")
