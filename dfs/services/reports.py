"""What is known of a store, as values: how it is, what it owes, how far its scrub is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from urllib.parse import urlsplit

from dfs.core.model import DebtKind, DebtSummary, ScrubState, StoreState
from dfs.services.breaker import Breaker
from dfs.services.lag import Lag
from dfs.wal.control import LogPosition


class OwedKind(Enum):
    """What a store can owe."""

    LOG = "log"
    """The newest part of the log. It is counted in records."""
    BLOB = "blob"
    SEGMENT = "segment"
    REMOVAL = "removal"
    """Of blob files and segments that nobody wants. Its bytes are not to be copied but freed."""


_OWED_KINDS = {
    DebtKind.BLOB: OwedKind.BLOB,
    DebtKind.SEGMENT: OwedKind.SEGMENT,
    DebtKind.REMOVE_BLOB: OwedKind.REMOVAL,
    DebtKind.REMOVING_BLOB: OwedKind.REMOVAL,
    DebtKind.DROP_SEGMENT: OwedKind.REMOVAL,
}


@dataclass(frozen=True, slots=True)
class Owed:
    """What a store owes of one kind.

    Attributes:
        count: units; of the log: records.
        bytes: as far as they are known.
        failing: how many of them have been tried in vain.
        oldest_at_ms: since when the oldest is owed; None if nothing is, or if it is not known.
        error: why one of those failed.
        newest_at_ms: since when the newest is owed; or, of removals that have to wait, from when on
            the last of them is. None if nothing is, or if it is not known.
    """

    count: int = 0
    bytes: int = 0
    failing: int = 0
    oldest_at_ms: int | None = None
    error: str | None = None
    newest_at_ms: int | None = None

    def plus(self, row: DebtSummary) -> Owed:
        """Return the same with further debts."""
        oldest_at_ms, newest_at_ms = self.oldest_at_ms, self.newest_at_ms
        return Owed(
            self.count + row.count,
            self.bytes + row.bytes,
            self.failing + row.failing,
            row.oldest_at_ms if oldest_at_ms is None else min(oldest_at_ms, row.oldest_at_ms),
            row.last_error or self.error,
            row.newest_at_ms if newest_at_ms is None else max(newest_at_ms, row.newest_at_ms),
        )


@dataclass(frozen=True, slots=True)
class ScrubProgress:
    """How far the scrub of a store is.

    Attributes:
        share: read of what it has to read, 0 to 1; None if none is running.
        bytes_per_s: since it began; None if none is running.
        eta_s: until it ends, at that rate; None if that cannot be said.
    """

    state: ScrubState
    share: float | None = None
    bytes_per_s: float | None = None
    eta_s: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has begun and not come to its end."""
        return bool(self.state.position)


@dataclass(frozen=True, slots=True)
class StoreReport:
    """One store of a node.

    Attributes:
        at_ms: when this was so.
        kind: "directory", or the scheme of its URL.
        location: its path or URL, without secrets.
        position: up to here it has the log; None for the primary, which has the log itself.
        owed: of each kind, those included of which nothing is owed.
        fault: why it does not answer; None if it does, or if it was not asked.
    """

    at_ms: int
    state: StoreState
    kind: str
    location: str
    breaker: Breaker
    position: LogPosition | None
    owed: Mapping[OwedKind, Owed]
    scrub: ScrubProgress
    fault: str | None = None

    @property
    def name(self) -> str:
        """How the store is called."""
        return self.state.name

    @property
    def lag_records(self) -> int:
        """Records of the log that it does not have."""
        return self.owed[OwedKind.LOG].count

    @property
    def owed_bytes(self) -> int:
        """Bytes owed, of all kinds but what is to be removed."""
        return sum(owed.bytes for kind, owed in self.owed.items() if kind is not OwedKind.REMOVAL)

    @property
    def oldest_at_ms(self) -> int | None:
        """Since when the oldest of all that it owes is owed; None if nothing is."""
        times = (owed.oldest_at_ms for owed in self.owed.values())
        return min((at_ms for at_ms in times if at_ms is not None), default=None)

    @property
    def lag_s(self) -> float:
        """For how long the oldest of all that it owes has been owed; 0 if nothing is."""
        oldest_at_ms = self.oldest_at_ms
        return 0.0 if oldest_at_ms is None else max(0, self.at_ms - oldest_at_ms) / 1000


def describe_location(location: str) -> tuple[str, str]:
    """Return (kind, path or URL without user, password and query) of a store."""
    if "://" not in location:
        return "directory", location
    url = urlsplit(location)
    host = url.netloc.rpartition("@")[2]
    return url.scheme, f"{url.scheme}://{host}{url.path}"


def describe_debts(
    state: StoreState, lag: Lag, sums: Iterable[DebtSummary]
) -> dict[OwedKind, Owed]:
    """Return what a store owes of each kind.

    Args:
        sums: of all stores.
    """
    owed = {kind: Owed() for kind in OwedKind}
    owed[OwedKind.LOG] = Owed(
        count=lag.records,
        bytes=lag.bytes,
        failing=lag.records if state.failures else 0,
        oldest_at_ms=lag.oldest_at_ms,
        error=state.error if lag.records else None,
    )
    for row in sums:
        if row.store == state.name:
            kind = _OWED_KINDS[row.kind]
            owed[kind] = owed[kind].plus(row)
    return owed


def describe_scrub(state: ScrubState, now_ms: int) -> ScrubProgress:
    """Return how far a scrub is, and when it will be done if it goes on like this."""
    if not state.position or state.started_at_ms is None:
        return ScrubProgress(state)
    total = max(state.bytes_total, state.bytes_read)
    share = state.bytes_read / total if total else 1.0
    elapsed_s = max(0.001, (now_ms - state.started_at_ms) / 1000)
    rate = state.bytes_read / elapsed_s
    eta_s = (total - state.bytes_read) / rate if rate else None
    return ScrubProgress(state, share, rate, eta_s)
