"""Metrics that are looked up at a scrape, by the one process that is asked, for the whole node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Found = TypeVar("Found")
Values = Mapping[tuple[str, ...], float]
"""Value by the values of the labels, in their order."""


@dataclass(frozen=True, slots=True)
class Lookup(Generic[Found]):
    """One metric that is looked up.

    Attributes:
        find: returns its values; none for what is not known.
        is_counter: it only grows while what it belongs to lives.
    """

    name: str
    text: str
    labels: tuple[str, ...]
    find: Callable[[Found], Values]
    is_counter: bool = False

    def describe(self) -> GaugeMetricFamily | CounterMetricFamily:
        """Return the metric without a value."""
        family = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        return family(self.name, self.text, labels=self.labels)

    def show(self, found: Found) -> Metric:
        """Return the metric with its values."""
        family = self.describe()
        for labels, value in self.find(found).items():
            family.add_metric(labels, value)
        return family


def single(name: str, text: str, find: Callable[[Found], float | None]) -> Lookup[Found]:
    """Return a metric without labels; it has no value where `find` returns None."""

    def find_values(found: Found) -> Values:
        value = find(found)
        return {} if value is None else {(): float(value)}

    return Lookup(name, text, (), find_values)


class LookupCollector(Collector, Generic[Found]):
    """Tells how something is at the moment.

    Args:
        read: finds it out, None if that is not known. If it fails, the other metrics are told
            without these.
        metrics: what is said of it.
        name: what it is, for the log and `dfs_lookup_up`.
    """

    def __init__(
        self,
        read: Callable[[], Found | None],
        metrics: Sequence[Lookup[Found]],
        *,
        name: str,
    ) -> None:
        self.name = name
        self._read = read
        self._metrics = metrics

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        return (metric.describe() for metric in self._metrics)

    def look(self) -> list[Metric] | None:
        """Return the metrics as they are now; None if that cannot be found out."""
        try:
            found = self._read()
            return [] if found is None else [metric.show(found) for metric in self._metrics]
        except Exception as error:  # whatever it is, the rest must be told
            structlog.get_logger().warning("metrics_unknown", lookup=self.name, error=str(error))
            return None

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        return self.look() or ()


class AllLookups(Collector):
    """Tells all that is looked up, and of what that has failed."""

    def __init__(self, collectors: Sequence[LookupCollector[Any]]) -> None:
        self._collectors = collectors

    def describe(self) -> Iterator[Metric]:
        """Return the metrics without values."""
        for collector in self._collectors:
            yield from collector.describe()
        yield _describe_up()

    def collect(self) -> Iterator[Metric]:
        """Return the metrics as they are now."""
        up = _describe_up()
        for collector in self._collectors:
            found = collector.look()
            up.add_metric((collector.name,), found is not None)
            yield from found or ()
        yield up


def _describe_up() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "dfs_lookup_up",
        "1 if this scrape could find out what the lookup is for; 0: its metrics are missing",
        labels=("lookup",),
    )
