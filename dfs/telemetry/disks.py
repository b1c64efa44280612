"""Metrics of the disks: what is left of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dfs.core.disk import Space
from dfs.telemetry.lookup import Lookup, LookupCollector, single


@dataclass(frozen=True, slots=True)
class DiskGauges:
    """What is left of the disks, by what lies there, and what uploads leave of it."""

    spaces: Mapping[str, Space] = field(default_factory=dict)
    reserve_bytes: int = 0
    reserve_inodes: int = 0


_METRICS: tuple[Lookup[DiskGauges], ...] = (
    Lookup(
        "dfs_disk_free_bytes",
        "Bytes left of the disk, the reserve included",
        ("disk",),
        lambda gauges: {(name,): space.bytes for name, space in gauges.spaces.items()},
    ),
    Lookup(
        "dfs_disk_free_inodes",
        "Inodes left of the disk, the reserve included",
        ("disk",),
        lambda gauges: {(name,): space.inodes for name, space in gauges.spaces.items()},
    ),
    single(
        "dfs_reserve_bytes",
        "Bytes of each disk that uploads leave free",
        lambda gauges: gauges.reserve_bytes,
    ),
    single(
        "dfs_reserve_inodes",
        "Inodes of each disk that uploads leave free",
        lambda gauges: gauges.reserve_inodes,
    ),
)


def collect_disks(read: Callable[[], DiskGauges | None]) -> LookupCollector[DiskGauges]:
    """Return what tells how the disks are."""
    return LookupCollector(read, _METRICS, name="disk")
