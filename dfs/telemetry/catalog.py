"""All metrics of a node, for its documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from dfs.telemetry.commits import CommitMetrics
from dfs.telemetry.metrics import Readers
from dfs.telemetry.queue import JobCounters
from dfs.telemetry.requests import RequestMetrics
from dfs.telemetry.stores import StoreCounters


@dataclass(frozen=True, slots=True)
class Description:
    """A metric.

    Attributes:
        name: as it is told; of a histogram, without `_bucket`, `_sum` and `_count`.
        kind: "counter", "gauge" or "histogram".
        labels: those of every sample, `le` excepted.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class _Listing(CollectorRegistry):
    """Remembers what is registered."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.collectors.append(collector)


def describe_metrics() -> list[Description]:
    """Return all metrics, by name."""
    registry = _Listing()
    RequestMetrics(registry=registry)
    CommitMetrics(registry=registry)
    StoreCounters(registry=registry)
    JobCounters(registry=registry)
    registry.register(Readers().lookups())
    return sorted(_describe(registry.collectors), key=lambda metric: metric.name)


def _describe(collectors: Iterable[Collector]) -> Iterator[Description]:
    for collector in collectors:
        for family in collector.describe():  # type: ignore[attr-defined] # all of them have it
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = _find_labels(collector, family)
            yield Description(name, family.type, labels, family.documentation)


def _find_labels(collector: Collector, family: Metric) -> tuple[str, ...]:
    """Return the labels. prometheus_client tells nobody of them; it is pinned."""
    if not isinstance(collector, MetricWrapperBase):
        return tuple(family._labelnames)  # type: ignore[attr-defined]
    labels = tuple(collector._labelnames)
    # What each process has a value of its own of, is told with the process it belongs to.
    return (*labels, "pid") if family.type == "gauge" else labels
