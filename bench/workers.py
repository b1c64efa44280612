"""What more Gunicorn workers bring, to dfs and to an empty route."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.commits import CommitCounter
from bench.load import get_small, post_small, write_downloads
from bench.plan import Plan
from bench.plots import draw_curves
from bench.repeated import SIZE, Figures, Repeated
from bench.results import Outcome, Table, measure_rounds
from bench.servers import Server, run_empty, run_node

WORKERS = (1, 2, 4, 8)
CLIENTS = 64
FILES = 5000
WHATS = ("uploads", "downloads", "empty Flask requests")


@dataclass(frozen=True, slots=True)
class Step:
    """What so many workers have shown, by what they did.

    Attributes:
        group: changes a commit, in the uploads.
    """

    workers: int
    figures: dict[str, Figures]
    group: float

    def cores(self, what: str) -> float:
        """Return how many cores the server's processes used."""
        figures = self.figures[what]
        return figures.per_s.median * figures.cpu_us.median / 1e6


def measure_workers(plan: Plan) -> Outcome:
    """Rates of 4 KiB uploads and downloads and of an empty route, by the number of workers."""
    outcome = Outcome()
    counts = [count for count in WORKERS if count <= max(2, os.cpu_count() or 1)]
    with ExitStack() as stack:
        loads: dict[int, tuple[Repeated, ...]] = {}
        counters: dict[int, CommitCounter] = {}
        for count in counts:
            settings = {"WEB_CONCURRENCY": str(count)}
            directory = stack.enter_context(plan.scratch(f"workers-{count}"))
            scratch = stack.enter_context(plan.scratch(f"empty-{count}"))
            node = stack.enter_context(run_node(directory, settings=settings))
            empty = stack.enter_context(run_empty(scratch, settings=settings))
            counters[count] = CommitCounter(node)
            loads[count] = _prepare(plan, directory, counters[count], empty)
        measure_rounds(plan.rounds, [load for each in loads.values() for load in each])
    steps = [
        Step(
            count,
            {
                what: load.keep(f"workers_{count}_{what.split()[0]}", plan.rounds, outcome)
                for what, load in zip(WHATS, loads[count], strict=True)
            },
            counters[count].groups(plan.rounds).median,
        )
        for count in counts
    ]
    _report(steps, outcome)
    return outcome


def _prepare(
    plan: Plan, directory: Path, counter: CommitCounter, empty: Server
) -> tuple[Repeated, ...]:
    node = counter.node
    files, root = directory / "files", directory / "root"
    write_downloads(node, files, count=FILES, size=SIZE)
    root.write_text("/\n")
    load = partial(partial, clients=CLIENTS, seconds=plan.seconds)
    return (
        Repeated(partial(counter.around, load(post_small, node, "/upload", size=SIZE))),
        Repeated(load(get_small, node, files)),
        Repeated(load(get_small, empty, root)),
    )


def _report(steps: list[Step], outcome: Outcome) -> None:
    rows = [
        (
            str(step.workers),
            f"{step.group:.1f}",
            *(
                cell
                for what in WHATS
                for cell in (
                    step.figures[what].per_s.format(),
                    f"{step.figures[what].cpu_us.median:.0f}",
                    f"{step.cores(what):.2f}",
                )
            ),
        )
        for step in steps
    ]
    header = (
        "workers",
        "changes a commit",
        *(cell for what in WHATS for cell in (f"{what}/s", "CPU us", "cores used")),
    )
    outcome.tables.append(Table(f"Workers: 4 KiB files, {CLIENTS} clients", header, rows))
    outcome.notes.append(explain(steps, os.cpu_count() or 1))
    outcome.plots["scaling-workers.svg"] = draw_curves(
        "Operations a second over workers",
        {
            what: [(step.workers, step.figures[what].per_s.median) for step in steps]
            for what in WHATS
        },
        labels_x=[step.workers for step in steps],
    )


def explain(steps: list[Step], cores: int) -> str:
    """Return why the curves have the shape they have, in the figures of this run."""
    first, last = steps[0], steps[-1]
    sentences = []
    for what in WHATS:
        gain = last.figures[what].per_s.median / first.figures[what].per_s.median
        sentences.append(
            f"{what} go to {gain:.2f} times the rate, while the server's processes use "
            f"{last.cores(what):.2f} cores instead of {first.cores(what):.2f}"
        )
    return (
        f"*The shape.* From {first.workers} to {last.workers} workers {'; '.join(sentences)}. "
        "A worker is one process, of which one thread runs Python at a time, so one worker cannot "
        f"use much more than one core. This machine has {cores}, which the workers share with the "
        "load generator and, in uploads, with the kernel's writing; what is left over is all that "
        "another worker can add. Uploads of all workers also pass through the one lock of the log, "
        f"a commit at a time, each with the changes of one worker: {first.group:.1f} a commit with "
        f"{first.workers}, {last.group:.1f} with {last.workers}."
    )
