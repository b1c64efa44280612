"""Metrics of the stores: what happened is counted, and how they are is found out at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from prometheus_client import CollectorRegistry, Counter

from dfs.telemetry.lookup import Lookup, LookupCollector, Values

MENDABLE_KINDS = ("blob", "segment")
"""What can be damaged."""
PAYABLE_KINDS = (*MENDABLE_KINDS, "drop_segment")
"""What can be owed that is tried until it is done."""


class StoreCounters:
    """Counts damage and what is done about it, reads that the primary could not answer, and
    downloads sent by a proxy.

    Args:
        stores: names of those that there are. What befalls them stands at 0 until it does: of a
            count that appears with its first event nobody can see that it grew.
    """

    def __init__(self, *, registry: CollectorRegistry, stores: Sequence[str] = ()) -> None:
        self._damage = Counter(
            "dfs_damage_found",
            "Blobs and segments found damaged or missing",
            ("store", "kind"),
            registry=registry,
        )
        self._paid = Counter(
            "dfs_debts_paid",
            "Units owed to a store that were copied, mended or dropped; on the primary, mended",
            ("store", "kind"),
            registry=registry,
        )
        self._failed = Counter(
            "dfs_debts_failed",
            "Attempts in vain to pay what a store is owed; each is made again later",
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
        for store, kind in product(stores, MENDABLE_KINDS):
            self._damage.labels(store, kind)
        for store, kind in product(stores, PAYABLE_KINDS):
            self._paid.labels(store, kind)
            self._failed.labels(store, kind)

    def observe_damage(self, store: str, kind: str) -> None:
        """Count a unit, one of `MENDABLE_KINDS`, that was found damaged or missing."""
        self._damage.labels(store, kind).inc()

    def observe_attempt(self, store: str, kind: str, *, is_paid: bool) -> None:
        """Count an attempt to pay what a store owes, one of `PAYABLE_KINDS`."""
        (self._paid if is_paid else self._failed).labels(store, kind).inc()

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
        state: of `STATES`.
        lag_s: since when the oldest is owed of all that it owes.
        lag_records: of the log, that it does not have.
        owed: kind -> (units, bytes) owed.
        failures: attempts to use it that have failed since one succeeded.
        scrub_share, scrub_bytes_per_s, scrub_eta_s: of the scrub that is running; None if none is.
        scrub_started_at_s, scrub_finished_at_s: Unix time at which the last one was; None if none
            ever was.
        lsn: up to which it has the log.
    """

    store: str
    state: str
    lag_s: float
    lag_records: int
    owed: Mapping[str, tuple[int, int]]
    failures: int
    scrub_read_bytes: int
    scrub_damaged_last: int
    lsn: int
    scrub_share: float | None = None
    scrub_bytes_per_s: float | None = None
    scrub_eta_s: float | None = None
    scrub_started_at_s: float | None = None
    scrub_finished_at_s: float | None = None


STATES = ("new", "out", "behind", "current")
"""Of a store: not taken in yet, out of service, owing something, owing nothing."""

_Rows = Sequence[StoreGauges]


def _of_each(name: str, text: str, find: Callable[[StoreGauges], float | None]) -> Lookup[_Rows]:
    """Return a metric that each store has once, if at all."""

    def find_values(rows: _Rows) -> Values:
        values = ((row.store, find(row)) for row in rows)
        return {(store,): float(value) for store, value in values if value is not None}

    return Lookup(name, text, ("store",), find_values)


def _of_owed(name: str, text: str, place: int) -> Lookup[_Rows]:
    """Return a metric of all that is owed; `place`: 0 for units, 1 for bytes."""

    def find_values(rows: _Rows) -> Values:
        return {(row.store, kind): owed[place] for row in rows for kind, owed in row.owed.items()}

    return Lookup(name, text, ("store", "kind"), find_values)


def _find_states(rows: _Rows) -> Values:
    return {(row.store, state): float(row.state == state) for row in rows for state in STATES}


_METRICS: tuple[Lookup[_Rows], ...] = (
    _of_each(
        "dfs_replication_lag_seconds",
        "Age of the oldest of all that the store owes",
        lambda row: row.lag_s,
    ),
    _of_each(
        "dfs_replication_lag_records",
        "Records of the log that the store does not have",
        lambda row: row.lag_records,
    ),
    _of_owed("dfs_replication_owed_bytes", "Bytes that the store owes", 1),
    _of_owed("dfs_replication_debts", "Units that the store owes; of the log, records", 0),
    Lookup(
        "dfs_store_state",
        f"1 for the one of these that the store is: {', '.join(STATES)}",
        ("store", "state"),
        _find_states,
    ),
    _of_each(
        "dfs_store_breaker_open",
        "1 while the store is out of service after failures",
        lambda row: row.state == "out",
    ),
    _of_each(
        "dfs_store_failures",
        "Attempts to use the store that have failed since one succeeded",
        lambda row: row.failures,
    ),
    _of_each(
        "dfs_store_log_lsn",
        "LSN up to which the store has the log durably",
        lambda row: row.lsn,
    ),
    _of_each(
        "dfs_scrub_read_bytes",
        "Bytes that the running scrub of the store has read",
        lambda row: row.scrub_read_bytes,
    ),
    _of_each(
        "dfs_scrub_damaged_last",
        "Units that the last finished scrub of the store has found damaged or missing",
        lambda row: row.scrub_damaged_last,
    ),
    _of_each(
        "dfs_scrub_progress_ratio",
        "Share of the store that the running scrub has read, 0 to 1",
        lambda row: row.scrub_share,
    ),
    _of_each(
        "dfs_scrub_bytes_per_second",
        "Rate of the running scrub since it began",
        lambda row: row.scrub_bytes_per_s,
    ),
    _of_each(
        "dfs_scrub_eta_seconds",
        "Seconds until the running scrub will be done",
        lambda row: row.scrub_eta_s,
    ),
    _of_each(
        "dfs_scrub_started_timestamp_seconds",
        "Unix time at which the last scrub of the store began",
        lambda row: row.scrub_started_at_s,
    ),
    _of_each(
        "dfs_scrub_finished_timestamp_seconds",
        "Unix time at which the last finished scrub of the store ended",
        lambda row: row.scrub_finished_at_s,
    ),
)


def collect_stores(read: Callable[[], _Rows | None]) -> LookupCollector[_Rows]:
    """Return what tells how the stores are, all of them."""
    return LookupCollector(read, _METRICS, name="store")
