"""Metrics of the disks: what is left of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.core import GaugeMetricFamily, Metric

from dfs.core.disk import Space
from dfs.telemetry.lookup import LookupCollector


@dataclass(frozen=True, slots=True)
class DiskGauges:
    """What is left of the disks, by what lies there, and what uploads leave of it."""

    spaces: Mapping[str, Space] = field(default_factory=dict)
    reserve_bytes: int = 0
    reserve_inodes: int = 0


def collect_disks(read: Callable[[], DiskGauges]) -> LookupCollector[DiskGauges]:
    """Return what tells how the disks are."""
    return LookupCollector(read, _families, name="disk")


def _families(gauges: DiskGauges) -> Iterator[Metric]:
    free_bytes = GaugeMetricFamily(
        "dfs_disk_free_bytes", "Bytes left of the disk, the reserve included", labels=("disk",)
    )
    free_inodes = GaugeMetricFamily(
        "dfs_disk_free_inodes", "Inodes left of the disk, the reserve included", labels=("disk",)
    )
    for name, space in gauges.spaces.items():
        free_bytes.add_metric((name,), space.bytes)
        free_inodes.add_metric((name,), space.inodes)
    yield from (free_bytes, free_inodes)
    yield GaugeMetricFamily(
        "dfs_reserve_bytes", "Bytes of each disk that uploads leave free", gauges.reserve_bytes
    )
    yield GaugeMetricFamily(
        "dfs_reserve_inodes", "Inodes of each disk that uploads leave free", gauges.reserve_inodes
    )
