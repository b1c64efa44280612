"""Metrics of what the node holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric

from dfs.core.model import Usage
from dfs.telemetry.lookup import LookupCollector


@dataclass(frozen=True, slots=True)
class UsageGauges:
    """What the files of all buckets use, what the blobs do, and the log."""

    files: Usage
    blobs: Usage
    log_bytes: int
    dead_bytes: int


def collect_usage(read: Callable[[], UsageGauges | None]) -> LookupCollector[UsageGauges | None]:
    """Return what tells how much the node holds; nothing if that is not known."""
    return LookupCollector(read, _families, name="usage")


def _families(gauges: UsageGauges | None) -> Iterator[Metric]:
    if gauges is None:
        return
    files, blobs = gauges.files, gauges.blobs
    for name, text, live, deleted in (
        ("dfs_files", "Files", files.files, files.deleted_files),
        ("dfs_logical_bytes", "Bytes of files", files.bytes, files.deleted_bytes),
    ):
        family = GaugeMetricFamily(
            name, f"{text}, by whether they are in the trash", labels=("state",)
        )
        family.add_metric(("live",), live)
        family.add_metric(("deleted",), deleted)
        yield family
    for name, text, value in (
        ("dfs_blob_files", "Blobs that are files", blobs.blob_files),
        ("dfs_blob_file_bytes", "Bytes of blobs that are files", blobs.blob_file_bytes),
        ("dfs_unused_blob_file_bytes", "Bytes of those that no file needs", blobs.unused_bytes),
        ("dfs_inline_blobs", "Blobs in the log that files need", blobs.inline_blobs),
        ("dfs_inline_bytes", "Bytes of blobs in the log that files need", blobs.inline_bytes),
        ("dfs_log_bytes", "Bytes of the log", gauges.log_bytes),
        ("dfs_log_dead_bytes", "Bytes of records that are not the truth", gauges.dead_bytes),
    ):
        yield GaugeMetricFamily(name, text, value)
