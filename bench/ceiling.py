"""How many commits a second the log of one node takes when no HTTP is in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.plan import Plan
from bench.plots import draw_curves
from bench.reference import append_with_sync
from bench.repeated import SIZE
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.servers import ROOT, node_environ

PROCESSES = (1, 2, 4)
CLIENTS = (16, 64)
CHANGES_PER_S_MIN = 10_000


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What some processes together have committed: in a round, or in the median of rounds.

    Attributes:
        per_s: changes a second. group: changes a commit. cpu_us: processor time a change.
    """

    per_s: float
    group: float
    cpu_us: float

    @property
    def cores(self) -> float:
        """How many cores the processes used."""
        return self.per_s * self.cpu_us / 1e6


class _Committers:
    """Processes that store files in one node, and what each round has shown."""

    def __init__(self, directory: Path, processes: int, clients: int, seconds: float) -> None:
        self._directory = directory
        self._processes = processes
        self._clients = clients
        self._seconds = seconds
        self.rounds: list[Ceiling] = []

    def __call__(self) -> float:
        """Run one round. Returns changes a second."""
        with self._running() as children:
            for child in children:
                self._say(child, "begin")
            counts = [json.loads(self._hear(child)) for child in children]
        self.rounds.append(sum_up(counts))
        return self.rounds[-1].per_s

    @contextmanager
    def _running(self) -> Iterator[list[subprocess.Popen[str]]]:
        """Run the processes until each has opened the node, and end them after the body."""
        arguments = [str(self._directory), str(self._clients), str(self._seconds)]
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.committing", *arguments],
                env=node_environ(self._directory),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for _ in range(self._processes)
        ]
        try:
            for child in children:
                if self._hear(child).strip() != "ready":
                    raise BenchError("a process that commits does not start")
            yield children
        finally:
            for child in children:
                if child.poll() is None:
                    child.terminate()
                child.communicate()

    @staticmethod
    def _hear(child: subprocess.Popen[str]) -> str:
        line = child.stdout.readline() if child.stdout else ""
        if not line:
            raise BenchError("a process that commits has ended")
        return line

    @staticmethod
    def _say(child: subprocess.Popen[str], line: str) -> None:
        if child.stdin:
            child.stdin.write(f"{line}\n")
            child.stdin.flush()


def sum_up(counts: list[dict[str, float]]) -> Ceiling:
    """Return what processes that ran at the same time have done together.

    Args:
        counts: changes, commits, seconds, and cpu_s, of each.
    """
    changes = sum(count["changes"] for count in counts)
    return Ceiling(
        per_s=changes / max(count["seconds"] for count in counts),
        group=changes / sum(count["commits"] for count in counts),
        cpu_us=1e6 * sum(count["cpu_s"] for count in counts) / changes,
    )


def measure_ceiling(plan: Plan) -> Outcome:
    """Durable changes a second of some processes that commit 4 KiB files to one node."""
    outcome = Outcome()
    shapes = [(processes, clients) for clients in CLIENTS for processes in PROCESSES]
    with plan.scratch("ceiling") as directory:
        loads = [_Committers(directory, *shape, plan.seconds) for shape in shapes]

        def append() -> float:
            group = max(1, round(loads[-1].rounds[-1].group))
            path = directory / "append.dat"
            seconds = plan.seconds / 3
            return append_with_sync(path, size=SIZE, group=group, seconds=seconds).per_s

        *rates, appended = measure_rounds(plan.rounds, (*loads, append))
    found = {
        shape: _keep("ceiling_{}x{}".format(*shape), load, plan.rounds, outcome)
        for shape, load in zip(shapes, loads, strict=True)
    }
    most = PROCESSES[-1]
    clients = max(CLIENTS, key=lambda count: found[most, count].per_s)
    label = f"4 KiB changes a second from {most} processes of {clients} clients, without HTTP"
    outcome.targets.append(Target(label, found[most, clients].per_s, CHANGES_PER_S_MIN, digits=0))
    _report(found, rates, outcome.keep("ceiling_append_per_s", appended), outcome)
    return outcome


def _keep(name: str, load: _Committers, rounds: int, outcome: Outcome) -> Ceiling:
    """Keep what the rounds have shown; return the medians."""
    counted = load.rounds[-rounds:]

    def keep(unit: str, values: Iterator[float]) -> float:
        return outcome.keep(f"{name}_{unit}", Series(tuple(values))).median

    return Ceiling(
        per_s=keep("per_s", (each.per_s for each in counted)),
        group=keep("group", (each.group for each in counted)),
        cpu_us=keep("cpu_us", (each.cpu_us for each in counted)),
    )


def _report(
    found: dict[tuple[int, int], Ceiling], rates: list[Series], appended: Series, outcome: Outcome
) -> None:
    rows: list[tuple[str, ...]] = [
        (
            f"{processes} x {clients}",
            rate.format(),
            f"{each.group:.1f}",
            f"{1 / each.group:.3f}",
            f"{each.per_s / each.group:,.0f}",
            f"{each.cpu_us:.0f}",
            f"{each.cores:.2f}",
        )
        for ((processes, clients), each), rate in zip(found.items(), rates, strict=True)
    ]
    header = (
        *("processes x clients", "durable changes/s", "changes a commit"),
        *("syncs a change", "commits/s", "CPU us a change", "cores used"),
    )
    outcome.tables.append(Table("Commits of 4 KiB files without HTTP", header, rows))
    outcome.notes.append(
        "Each process opens the node as a web worker does, and does what the worker's thread does "
        "but for HTTP: for each of its clients it begins to store a file, a change of its own, "
        "then commits, and goes on when all are durable. One commit is one "
        "sync of the log. The processes share the node's lock. Plain "
        f"appends with an fdatasync, in groups as large as the last row's: {appended.format()} "
        "records a second."
    )
    outcome.notes.append(explain(found, os.cpu_count() or 1))
    outcome.plots["scaling-ceiling.svg"] = draw_curves(
        "Durable changes a second over processes that commit",
        {
            f"{clients} clients each": [(count, found[count, clients].per_s) for count in PROCESSES]
            for clients in CLIENTS
        },
        labels_x=PROCESSES,
    )


def explain(found: dict[tuple[int, int], Ceiling], cores: int) -> str:
    """Return why the curves have the shape they have, in the figures of this run."""
    sentences = []
    for clients in CLIENTS:
        first, last = found[PROCESSES[0], clients], found[PROCESSES[-1], clients]
        sentences.append(
            f"with {clients} clients each, {PROCESSES[-1]} processes make "
            f"{last.per_s / first.per_s:.2f} times the changes that {PROCESSES[0]} makes, and use "
            f"{last.cores:.2f} cores instead of {first.cores:.2f}, a change costing "
            f"{last.cpu_us:.0f} us instead of {first.cpu_us:.0f}"
        )
    highest = max(each.cores for each in found.values())
    return (
        f"*The shape.* {'; '.join(sentences)[:1].upper()}{'; '.join(sentences)[1:]}. One process "
        "runs Python in one thread, so alone it cannot use more than a core; this "
        f"machine has {cores}, of which at most {highest:.2f} were used. The lock of the log is "
        "held by one commit at a time, from planning over the sync to the commit of the index; "
        "hashing, making ids and answering run beside it in the other processes. The changes that "
        "share a commit share its write, its sync and its transaction, but each brings rows and "
        "records of its own, so larger groups save only what is shared."
    )
