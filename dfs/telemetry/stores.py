"""Metrics of the stores: what happened is counted, and how they are is found out at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric

from dfs.telemetry.lookup import LookupCollector

COUNTER_KINDS = ("counter",)
"""Kinds of the metrics of `StoreCounters`, for the files that processes share."""


class StoreCounters:
    """Counts damage, reads that the primary could not answer, and downloads sent by a proxy."""

    def __init__(self, *, registry: CollectorRegistry) -> None:
        self._damage = Counter(
            "dfs_damage_found",
            "Blobs and segments found damaged or missing",
            ("store", "kind"),
            registry=registry,
        )
        self._rescued = Counter(
            "dfs_reads_from_replica",
            "Reads of which a replica gave what the primary does not have whole",
            registry=registry,
        )
        self._lost = Counter(
            "dfs_reads_lost", "Reads of what no store has whole", registry=registry
        )
        self._handed_over = Counter(
            "dfs_downloads_handed_over",
            "Downloads that were left to a reverse proxy to send",
            registry=registry,
        )

    def observe_damage(self, store: str, kind: str) -> None:
        """Count a unit, "blob" or "segment", that was found damaged or missing."""
        self._damage.labels(store, kind).inc()

    def observe_rescue(self, store: str | None) -> None:
        """Count a read that the primary could not answer, but that store; None: no store could."""
        (self._lost if store is None else self._rescued).inc()

    def observe_handover(self) -> None:
        """Count a download that a proxy sends."""
        self._handed_over.inc()


@dataclass(frozen=True, slots=True)
class StoreGauges:
    """How a store is.

    Attributes:
        lag_s: since when the oldest is owed of all that it owes.
        lag_records: of the log, that it does not have.
        owed: kind -> (units, bytes) owed.
        is_out: it is out of service after failures.
        scrub_share, scrub_bytes_per_s, scrub_eta_s: of the scrub that is running; None if none is.
    """

    store: str
    lag_s: float
    lag_records: int
    owed: Mapping[str, tuple[int, int]]
    is_out: bool
    failures: int
    scrub_bytes_read: int
    scrub_damaged_last: int
    scrub_share: float | None = None
    scrub_bytes_per_s: float | None = None
    scrub_eta_s: float | None = None


_GAUGES: tuple[tuple[str, str, Callable[[StoreGauges], float | None]], ...] = (
    (
        "dfs_replication_lag_seconds",
        "Age of the oldest of all that the store owes",
        lambda row: row.lag_s,
    ),
    (
        "dfs_replication_lag_records",
        "Records of the log that the store does not have",
        lambda row: row.lag_records,
    ),
    (
        "dfs_store_breaker_open",
        "1 while the store is out of service after failures",
        lambda row: row.is_out,
    ),
    (
        "dfs_store_failures",
        "Attempts to use the store that have failed since one succeeded",
        lambda row: row.failures,
    ),
    (
        "dfs_scrub_bytes_read",
        "Bytes that the running scrub of the store has read",
        lambda row: row.scrub_bytes_read,
    ),
    (
        "dfs_scrub_damaged_last",
        "Units that the last finished scrub of the store has found damaged or missing",
        lambda row: row.scrub_damaged_last,
    ),
    (
        "dfs_scrub_share",
        "Share of the store that the running scrub has read, 0 to 1",
        lambda row: row.scrub_share,
    ),
    (
        "dfs_scrub_bytes_per_second",
        "Rate of the running scrub since it began",
        lambda row: row.scrub_bytes_per_s,
    ),
    (
        "dfs_scrub_eta_seconds",
        "Seconds until the running scrub will be done",
        lambda row: row.scrub_eta_s,
    ),
)


def collect_stores(
    read: Callable[[], Sequence[StoreGauges]],
) -> LookupCollector[Sequence[StoreGauges]]:
    """Return what tells how the stores are, all of them."""
    return LookupCollector(read, _families, name="store")


def _families(rows: Sequence[StoreGauges]) -> Iterator[Metric]:
    for name, text, find in _GAUGES:
        family = GaugeMetricFamily(name, text, labels=("store",))
        for row in rows:
            value = find(row)
            if value is not None:
                family.add_metric((row.store,), float(value))
        yield family
    bytes_owed = GaugeMetricFamily(
        "dfs_replication_owed_bytes", "Bytes that the store owes", labels=("store", "kind")
    )
    debts = GaugeMetricFamily(
        "dfs_replication_debts",
        "Units that the store owes; of the log, records",
        labels=("store", "kind"),
    )
    for row in rows:
        for kind, (count, size) in row.owed.items():
            debts.add_metric((row.store, kind), count)
            bytes_owed.add_metric((row.store, kind), size)
    yield from (bytes_owed, debts)
