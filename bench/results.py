"""The figures of a run, as plain values that report.py turns into text."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Series:
    """One figure, measured once in each round."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    def over(self, other: Series) -> Series:
        """Return the ratio of the two in each round."""
        pairs = zip(self.values, other.values, strict=True)
        return Series(tuple(mine / theirs for mine, theirs in pairs))

    def times(self, factor: float) -> Series:
        """Return it in another unit."""
        return Series(tuple(factor * value for value in self.values))

    def format(self, digits: int = 0) -> str:
        """Return the median and, in brackets, the lowest and the highest."""
        low, high = min(self.values), max(self.values)
        middle = f"{self.median:,.{digits}f}"
        if len(self.values) == 1:
            return middle
        return f"{middle} ({low:,.{digits}f} - {high:,.{digits}f})"


def over_sum(whole: Series, parts: Sequence[Series]) -> Series:
    """Return how many times its parts together, one after the other, the whole takes."""
    rounds = zip(whole.values, *(part.values for part in parts), strict=True)
    return Series(tuple(value / sum(rest) for value, *rest in rounds))


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that dfs must reach.

    Attributes:
        limit: at least this, or, if `at_most`, at most this.
    """

    name: str
    reached: float
    limit: float
    unit: str = ""
    at_most: bool = False
    digits: int = 2

    @property
    def is_met(self) -> bool:
        """Whether it is reached."""
        return self.reached <= self.limit if self.at_most else self.reached >= self.limit


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of finished text under a title."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


@dataclass(slots=True)
class Outcome:
    """What one cell has found.

    Attributes:
        notes: how it was measured, a paragraph each.
        figures: everything measured, by name, for the JSON file.
        plots: SVG by the name of its file.
    """

    tables: list[Table] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    plots: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, series: Series) -> Series:
        """Keep a figure for the JSON file, and return it."""
        self.figures[name] = list(series.values)
        return series


def measure_rounds(
    rounds: int, measures: Sequence[Callable[[], float]], *, warm_up: bool = True
) -> list[Series]:
    """Call the measures in turn, that often, so that whatever disturbs one disturbs all.

    Args:
        warm_up: call each once before that, for nothing.

    Returns:
        The values of each measure, in the order of `measures`.
    """
    if warm_up:
        for measure in measures:
            measure()
    rows = [[measure() for measure in measures] for _ in range(rounds)]
    return [Series(tuple(column)) for column in zip(*rows, strict=True)]
