"""Syncs that uploads and deletes cost, counted by strace and by dfs's own metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.commits import CommitCounter
from bench.deletes import Turnover
from bench.load import Rate
from bench.plan import Plan
from bench.repeated import CLIENTS
from bench.results import Outcome, Series, Table, Target
from bench.servers import run_node

SYNCS_MAX = 0.2


def measure_syncs(plan: Plan) -> Outcome:
    """Syncs that one upload and one delete cost."""
    outcome = Outcome()
    rows: list[tuple[str, ...]] = []
    with plan.scratch("syncs") as directory:
        trace = directory / "syncs.trace"
        with run_node(directory, sync_trace=trace) as node:
            Turnover(node, directory, 16, 1).upload()
            for clients in CLIENTS:
                turnover = Turnover(node, directory, clients, plan.seconds)
                for what, load in (("upload", turnover.upload), ("delete", turnover.delete)):
                    found = _measure(load, CommitCounter(node), trace)
                    rows.append((f"{what}s, {clients}", *_report(what, clients, found, outcome)))
    header = (
        *("what, clients", "operations", "syncs each, by strace"),
        *("syncs of the log each, by metrics", "changes a commit, by metrics"),
    )
    outcome.tables.append(Table("Syncs of 4 KiB uploads and of deletes", header, rows))
    outcome.notes.append(
        "strace follows all processes of the node and sees every kind of sync, those of SQLite's "
        "checkpoints too. It slows the node down, so these runs give no rates."
    )
    return outcome


@dataclass(frozen=True, slots=True)
class _Found:
    """Operations of one load, the syncs of each by either count, and changes a commit."""

    operations: int
    by_strace: float
    by_metrics: float
    group: float


def _measure(load: Callable[[], Rate], counter: CommitCounter, trace: Path) -> _Found:
    traced = count_syncs(trace)
    operations = counter.around(load).requests
    by_strace = (count_syncs(trace) - traced) / operations
    commits = counter.counts[-1]
    return _Found(operations, by_strace, commits.syncs_each, commits.group)


def _report(what: str, clients: int, found: _Found, outcome: Outcome) -> tuple[str, ...]:
    name = f"syncs_{'4k' if what == 'upload' else what}_{clients}"
    outcome.keep(f"{name}_by_strace", Series((found.by_strace,)))
    outcome.keep(f"{name}_by_metrics", Series((found.by_metrics,)))
    if clients == CLIENTS[-1]:
        label = f"syncs {'an' if what == 'upload' else 'a'} {what}, {clients} clients, by strace"
        outcome.targets.append(Target(label, found.by_strace, SYNCS_MAX, at_most=True, digits=3))
    return (
        f"{found.operations:,}",
        f"{found.by_strace:.3f}",
        f"{found.by_metrics:.3f}",
        f"{found.group:.1f}",
    )


def count_syncs(trace: Path) -> int:
    """Return how many syncs strace has written down; one that was interrupted has two lines."""
    with trace.open() as lines:
        return sum("sync" in line and " resumed>" not in line for line in lines)
