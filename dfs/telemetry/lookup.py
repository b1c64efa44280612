"""Metrics that are looked up at a scrape, by the one process that is asked, for the whole node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

Rows = TypeVar("Rows")


class LookupCollector(Collector, Generic[Rows]):
    """Tells how something is at the moment.

    Args:
        read: finds it out. If it fails, the other metrics are told without these.
        show: returns the metrics that say so.
        name: what it is, for the log.
    """

    def __init__(
        self, read: Callable[[], Rows], show: Callable[[Rows], Iterator[Metric]], *, name: str
    ) -> None:
        self._read = read
        self._show = show
        self._name = name

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        try:
            return list(self._show(self._read()))
        except Exception as error:  # whatever it is, the rest must be told
            structlog.get_logger().warning(f"{self._name}_metrics_unknown", error=str(error))
            return ()
