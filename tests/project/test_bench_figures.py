"""The arithmetic of the benchmark: a wrong figure would be believed."""

from __future__ import annotations

import pytest

from bench.commits import Commits, parse_commits
from bench.load import Rate
from bench.repeated import Repeated, judge_tail
from bench.results import Outcome, Series, Target, over_sum


def rate_of(per_s: float, **others: float) -> Rate:
    """Return what a load may have found, with a tail of twice the median wait."""
    values = {"p50_ms": 2.0, "p99_ms": 4.0, "cpu_us": 7.0, **others}
    return Rate(per_s=per_s, requests=10, rss_peak_bytes=3 << 20, **values)


def test_whole_is_held_against_the_sum_of_its_parts() -> None:
    """An upload of 3 ms beside a sync of 0.5 ms and a request of 1 ms takes twice as long."""
    ratio = over_sum(Series((3.0, 1.0)), (Series((0.5, 1.0)), Series((1.0, 3.0))))
    assert ratio.values == (2.0, 0.25)


def test_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    """Rounds are compared one by one, so that what slows a whole round cancels out."""
    ratio = Series((10.0, 100.0, 1.0)).over(Series((10.0, 50.0, 2.0)))
    assert (ratio.values, ratio.median) == ((1.0, 2.0, 0.5), 1.0)


@pytest.mark.parametrize(
    ("at_most", "met"), [(True, (True, True, False)), (False, (False, True, True))]
)
def test_target_counts_its_own_limit_as_met(at_most: bool, met: tuple[bool, ...]) -> None:
    """A bound is met by the very figure it names, and missed only on its wrong side."""
    targets = (Target("x", reached, 2.0, at_most=at_most) for reached in (1.9, 2.0, 2.1))
    assert tuple(target.is_met for target in targets) == met


def test_repeated_keeps_the_newest_rounds_alone() -> None:
    """The round that warms up, which comes first, is in no figure."""
    rates = iter([rate_of(1.0, p99_ms=90.0), rate_of(20.0), rate_of(30.0)])
    load = Repeated(lambda: next(rates))
    assert [load() for _ in range(3)] == [1.0, 20.0, 30.0]
    outcome = Outcome()
    figures = load.keep("load", 2, outcome)
    assert figures.per_s.values == (20.0, 30.0)
    assert outcome.figures["load_p99_ms"] == [4.0, 4.0]
    assert outcome.figures["load_rss_mib"] == [3.0, 3.0]


def test_tail_is_judged_by_p99_over_p50() -> None:
    """A load whose p99 is four times its p50 does not meet the bound of three."""
    load = Repeated(lambda: rate_of(1.0, p99_ms=8.0))
    load()
    target = judge_tail("load", load.keep("load", 1, Outcome()))
    assert (target.reached, target.is_met) == (4.0, False)


def test_commits_are_read_whatever_their_labels() -> None:
    """Group size and syncs an operation come from the counts of the node, by their exact names."""
    text = (
        "# HELP dfs_commit_changes x\n"
        'dfs_commit_changes_count 20.0\ndfs_commit_changes_sum{a="b"} 110.0\n'
        "dfs_commit_syncs_total 22.0\ndfs_commit_syncs_created 9.0\n"
    )
    since = parse_commits(text).since(Commits(commits=10, changes=10, syncs=12))
    assert (since.group, since.syncs_each) == (10.0, 0.1)


def test_commits_of_a_fresh_node_are_none() -> None:
    """A node that has not committed yet has counts of 0, not an error."""
    assert parse_commits("") == Commits(0, 0, 0)
