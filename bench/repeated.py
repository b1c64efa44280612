"""A load that is repeated in rounds, and all that is kept of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bench.load import Rate
from bench.plan import MIB
from bench.plots import draw_bars
from bench.results import Outcome, Series, Target

SIZE = 4096
CLIENTS = (1, 16, 64)
TAIL_LIMIT = 3.0
CPU_NOTE = (
    "Processor time is that of all processes of the server, a request; it varies less than rates "
    "do when something else runs on the machine. Peak RSS is the sum of the highest RSS of each of "
    "them, as the kernel keeps it, so pages that they share count once for each."
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the rounds of one load have shown.

    Attributes:
        per_s: operations a second. cpu_us: processor time of the server for one.
        rss_mib: highest memory of all processes of the server.
    """

    per_s: Series
    p50_ms: Series
    p99_ms: Series
    cpu_us: Series
    rss_mib: Series

    def cells(self, *more: str) -> tuple[str, ...]:
        """Return rate, p50, p99 and processor time as text, then `more`, then the memory."""
        return (
            self.per_s.format(),
            self.p50_ms.format(1),
            self.p99_ms.format(1),
            f"{self.cpu_us.median:.0f}",
            *more,
            f"{self.rss_mib.median:.0f}",
        )

    @property
    def tail(self) -> Series:
        """How many times p50 p99 is."""
        return self.p99_ms.over(self.p50_ms)


@dataclass(slots=True)
class Repeated:
    """A load that keeps all that is known of each round, and hands on the rate."""

    load: Callable[[], Rate]
    rates: list[Rate] = field(default_factory=list)

    def __call__(self) -> float:
        """Run one round. Returns operations a second."""
        self.rates.append(self.load())
        return self.rates[-1].per_s

    def keep(self, name: str, rounds: int, outcome: Outcome) -> Figures:
        """Keep the figures of the rounds that count, the newest; their names begin with `name`."""
        counted = self.rates[-rounds:]

        def keep(unit: str, value: Callable[[Rate], float]) -> Series:
            return outcome.keep(f"{name}_{unit}", Series(tuple(value(rate) for rate in counted)))

        return Figures(
            per_s=keep("per_s", lambda rate: rate.per_s),
            p50_ms=keep("p50_ms", lambda rate: rate.p50_ms),
            p99_ms=keep("p99_ms", lambda rate: rate.p99_ms),
            cpu_us=keep("cpu_us", lambda rate: rate.cpu_us),
            rss_mib=keep("rss_mib", lambda rate: rate.rss_peak_bytes / MIB),
        )


def judge_tail(label: str, figures: Figures) -> Target:
    """Return the target for the longest waits of a load."""
    name = f"{label}: p99 over p50"
    return Target(name, figures.tail.median, TAIL_LIMIT, at_most=True, digits=1)


def draw_rates(title: str, names: Mapping[str, str], outcome: Outcome) -> str:
    """Return a plot of rates over the number of clients.

    Args:
        names: of the figures that were kept, with {} for the clients; by what they are called.
    """
    bars = {
        label: [statistics.median(outcome.figures[name.format(clients)]) for clients in CLIENTS]
        for label, name in names.items()
    }
    return draw_bars(f"{title} a second, over clients", [str(count) for count in CLIENTS], bars)
