"""What an operation, a start and the memory cost with ever more files in the node."""

from __future__ import annotations

import json
import math
import random
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.deletes import Turnover
from bench.errors import BenchError
from bench.load import get_small
from bench.plan import MIB, Plan
from bench.plots import draw_curves
from bench.repeated import SIZE, Figures, Repeated
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.scale import STORED_BATCH, STORED_SIZE, cursor_before, fill, make_config
from bench.servers import Server, get, run_node

CLIENTS = 16
CHANGING_S = 1
"""How long uploads and deletes last at most: what they leave behind must stay little."""
PAGE_FILES = 100
PLACES = 100
FILES_A_PLACE = 50
OPERATIONS = ("upload", "download", "page", "delete")
FLAT = 1.3
"""How many times the cost at the first size the cost at the last may be, to be called flat."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a node with so many files has shown.

    Attributes:
        added: files that the uploads have stored in all.
        figures: by operation. start_s: until it is ready. index_bytes: size of the database.
    """

    files: int
    added: int
    figures: dict[str, Figures]
    start_s: Series
    index_bytes: int

    @property
    def rss_mib(self) -> float:
        """Highest memory of all its processes, under any of the loads."""
        return max(figures.rss_mib.median for figures in self.figures.values())


def measure_growth(plan: Plan) -> Outcome:
    """Costs of each operation, of a start, and memory, by the number of files that are there."""
    outcome = Outcome()
    with ExitStack() as stack:
        directories = {
            size: stack.enter_context(plan.scratch(f"growth-{size}")) for size in plan.sizes
        }
        for size, directory in directories.items():
            fill(make_config(directory), size, size=STORED_SIZE, batch=STORED_BATCH)
        starts = _measure_starts(plan, directories)
        loads: dict[int, list[Repeated]] = {}
        for size, directory in directories.items():
            node = stack.enter_context(run_node(directory))
            loads[size] = _prepare(plan, size, node, directory)
        measure_rounds(plan.rounds, [load for each in loads.values() for load in each])
        steps = [
            Step(
                files=size,
                added=sum(rate.requests for rate in loads[size][0].rates),
                figures={
                    name: load.keep(f"growth_{size}_{name}", plan.rounds, outcome)
                    for name, load in zip(OPERATIONS, loads[size], strict=True)
                },
                start_s=outcome.keep(f"growth_{size}_start_s", starts[size]),
                index_bytes=sum(path.stat().st_size for path in directories[size].glob("dfs.db*")),
            )
            for size in plan.sizes
        ]
    _report(steps, outcome)
    return outcome


def _measure_starts(plan: Plan, directories: dict[int, Path]) -> dict[int, Series]:
    """Start a node of each size in turn; each start follows a stop of the server."""
    seconds: dict[int, list[float]] = {size: [] for size in directories}
    for _ in range(plan.rounds + 1):
        for size, directory in directories.items():
            with run_node(directory) as node:
                seconds[size].append(node.start_s)
    return {size: Series(tuple(values[1:])) for size, values in seconds.items()}


def _prepare(plan: Plan, size: int, node: Server, directory: Path) -> list[Repeated]:
    """Return the loads, in the order of OPERATIONS."""
    files, pages = directory / "files", directory / "pages"
    files.write_text("".join(f"/download/{file_id}\n" for file_id in _pick_ids(node, size)))
    places = random.Random(size).sample(range(size - PAGE_FILES), PLACES)
    pages.write_text("".join(f"{_path_of_page(place, PAGE_FILES)}\n" for place in places))
    turnover = Turnover(node, directory, CLIENTS, CHANGING_S)
    read = partial(get_small, node, clients=CLIENTS, seconds=plan.seconds)
    return [
        Repeated(load)
        for load in (turnover.upload, partial(read, files), partial(read, pages), turnover.delete)
    ]


def _pick_ids(node: Server, size: int) -> list[str]:
    """Return the ids of files at places evenly spread over all."""
    places = min(PLACES, size // FILES_A_PLACE)
    ids: list[str] = []
    for start in range(0, size, size // places):
        status, body = get(node, _path_of_page(start, FILES_A_PLACE))
        if status != 200:
            raise BenchError(f"the page from file {start} on: {status}")
        ids.extend(file["id"] for file in json.loads(body)["files"])
    return ids


def _path_of_page(start: int, count: int) -> str:
    return f"/files?limit={count}&after={cursor_before(start)}"


def _report(steps: list[Step], outcome: Outcome) -> None:
    rows = [
        (
            f"{step.files:,}",
            *(
                f"{step.figures[name].cpu_us.median:.0f} us, {step.figures[name].per_s.median:,.0f}"
                for name in OPERATIONS
            ),
            step.start_s.format(2),
            f"{step.rss_mib:.0f}",
            f"{step.index_bytes / MIB:,.1f}",
        )
        for step in steps
    ]
    header = (
        *("files", *(f"{name}: CPU each, each/s" for name in OPERATIONS)),
        *("start s", "peak RSS MiB", "index MiB"),
    )
    outcome.tables.append(Table("Cost over the number of files in the node", header, rows))
    outcome.notes.append(
        f"Nodes of all sizes run at the same time and are loaded in turn, by {CLIENTS} clients: "
        f"uploads of {SIZE} bytes; downloads of up to {PLACES * FILES_A_PLACE:,} files of "
        f"{STORED_SIZE} bytes, evenly spread over all; pages of {PAGE_FILES} names from {PLACES} "
        "random places on; deletes of what the round has uploaded, which then stays in the trash: "
        f"up to {max(step.added for step in steps):,} files beside those that the size says."
    )
    outcome.notes.append(explain(steps))
    outcome.targets += [
        Target(f"growth of {what}, {_span(steps)}", ratio, FLAT, at_most=True)
        for what, ratio in ratios(steps).items()
    ]
    _plot(steps, outcome)


def ratios(steps: list[Step]) -> dict[str, float]:
    """Return how many times the cost at the first size each cost at the last one is."""
    first, last = steps[0], steps[-1]
    costs = {
        f"CPU of {'an' if name == 'upload' else 'a'} {name}": (
            last.figures[name].cpu_us.median / first.figures[name].cpu_us.median
        )
        for name in OPERATIONS
    }
    return {
        **costs,
        "start time": last.start_s.median / first.start_s.median,
        "peak memory": last.rss_mib / first.rss_mib,
    }


def _span(steps: list[Step]) -> str:
    return f"{steps[0].files:,} to {steps[-1].files:,} files"


def explain(steps: list[Step]) -> str:
    """Return why the curves have the shape they have, in the figures of this run."""
    found = ratios(steps)
    flat = [f"{what} ({ratio:.2f} times)" for what, ratio in found.items() if ratio <= FLAT]
    steep = [f"{what} ({ratio:.2f} times)" for what, ratio in found.items() if ratio > FLAT]
    sentences = [
        f"*The shape.* From {_span(steps)}, which is {steps[-1].files // steps[0].files:,} times "
        f"as many, these stay within {FLAT:g} times what they were: {', '.join(flat) or 'none'}."
    ]
    if steep:
        sentences.append(f"These grow by more: {', '.join(steep)}.")
    sentences.append(
        "What an operation touches is a handful of rows, each found through a tree whose depth "
        "grows with the logarithm of their number, so that a thousand times as many files add a "
        "level or two to each search. A page is read from its first name on, never counted off "
        "from the beginning. Uploads go to the end of the log and know nothing of its length. Ids "
        "grow with time, so new rows come to the end of their tree; digests are random, so their "
        "tree is entered anywhere, and once it is larger than SQLite's cache of pages its pages "
        "come from the kernel's. A start reads the log from the last checkpoint of the index on, "
        "and nothing is loaded ahead, so that nothing in either a start or memory is proportional "
        "to the number of files. The index is: it grows by "
        f"{_bytes_a_file(steps):,.0f} bytes a file."
    )
    return " ".join(sentences)


def _bytes_a_file(steps: list[Step]) -> float:
    first, last = steps[0], steps[-1]
    return (last.index_bytes - first.index_bytes) / (last.files - first.files)


def _plot(steps: list[Step], outcome: Outcome) -> None:
    powers = [math.log10(step.files) for step in steps]
    draw = partial(draw_curves, labels_x=powers, format_x=lambda power: f"{10**power:,.0f}")
    outcome.plots["scaling-cpu.svg"] = draw(
        "Processor time of an operation (us) over files",
        {
            name: [
                (power, step.figures[name].cpu_us.median)
                for power, step in zip(powers, steps, strict=True)
            ]
            for name in OPERATIONS
        },
    )
    for name, title, values in (
        ("start", "Seconds until a node is ready, over files", [s.start_s.median for s in steps]),
        ("memory", "Highest RSS under load (MiB), over files", [s.rss_mib for s in steps]),
    ):
        curve = {name: [(0.0 + power, value) for power, value in zip(powers, values, strict=True)]}
        outcome.plots[f"scaling-{name}.svg"] = draw(title, curve)
