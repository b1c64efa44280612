"""What the page on scaling says of its curves must follow from their figures."""

from __future__ import annotations

import pytest

from bench import ceiling, growth, workers
from bench.repeated import Figures
from bench.results import Series


def figures_of(per_s: float = 100.0, cpu_us: float = 50.0, rss_mib: float = 90.0) -> Figures:
    """Return what a load may have shown."""
    one = Series((1.0,))
    return Figures(Series((per_s,)), one, one, Series((cpu_us,)), Series((rss_mib,)))


def growth_step(files: int, **cpu_us: float) -> growth.Step:
    """Return a node with so many files, whose operations cost 50 us if nothing else is said."""
    figures = {name: figures_of(cpu_us=cpu_us.get(name, 50.0)) for name in growth.OPERATIONS}
    return growth.Step(files, 0, figures, start_s=Series((0.5,)), index_bytes=files * 300)


def test_ratios_are_of_the_last_size_over_the_first() -> None:
    """Each operation is held against itself, and no step between the two counts."""
    steps = [growth_step(10), growth_step(100, page=9000.0), growth_step(1000, page=100.0)]
    found = growth.ratios(steps)
    assert found["CPU of a page"] == 2.0
    assert {ratio for what, ratio in found.items() if what != "CPU of a page"} == {1.0}


def test_growth_is_explained_by_what_grew() -> None:
    """What grew by more than is called flat is named as such, with its figure, and nothing else."""
    text = growth.explain([growth_step(10), growth_step(1000, page=100.0)])
    flat, _, steep = text.partition("These grow by more: ")
    assert steep.startswith("CPU of a page (2.00 times). ")
    assert "CPU of an upload (1.00 times)" in flat
    assert "CPU of a page" not in flat
    assert "by 300 bytes a file" in text


def test_growth_that_is_flat_is_called_nothing_else() -> None:
    """A node whose costs stay what they are is not said to grow."""
    assert "grow by more" not in growth.explain([growth_step(10), growth_step(1000)])


def test_processes_are_summed_up_over_the_longest_time() -> None:
    """Changes of all are divided by the time until the last has ended, never by a shorter one."""
    counts = [
        {"changes": 300, "commits": 10, "seconds": 1.0, "cpu_s": 0.5},
        {"changes": 100, "commits": 30, "seconds": 2.0, "cpu_s": 0.3},
    ]
    found = ceiling.sum_up(counts)
    assert (found.per_s, found.group, found.cpu_us) == (200.0, 10.0, pytest.approx(2000.0))
    assert found.cores == pytest.approx(0.4)


def test_ceiling_is_explained_by_its_own_figures() -> None:
    """Rates, cores and costs in the text are those of the fewest and of the most processes."""
    shapes = [(count, clients) for clients in ceiling.CLIENTS for count in ceiling.PROCESSES]
    found = {(count, clients): ceiling.Ceiling(1000.0 * count, 8, 250) for count, clients in shapes}
    text = ceiling.explain(found, cores=2)
    assert "4 processes make 4.00 times the changes that 1 makes" in text
    assert "use 1.00 cores instead of 0.25" in text
    assert "of which at most 1.00 were used" in text


def test_workers_are_explained_by_their_own_figures() -> None:
    """Gains, cores and groups in the text are those of the fewest and of the most workers."""
    steps = [
        workers.Step(count, {what: figures_of(per_s, 500.0) for what in workers.WHATS}, group)
        for count, per_s, group in ((1, 1000.0, 9.0), (2, 1500.0, 6.0))
    ]
    text = workers.explain(steps, cores=2)
    assert "uploads go to 1.50 times the rate" in text
    assert "use 0.75 cores instead of 0.50" in text
    assert "9.0 a commit with 1, 6.0 with 2" in text
