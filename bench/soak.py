"""A whole node under a mixed load for ten minutes and four before: is its memory what it was?"""

from __future__ import annotations

import os
import secrets
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.errors import BenchError
from bench.large import download, upload
from bench.load import Client, Rate, delete_listed, get_small, list_ids, post_small
from bench.memory import MB, NODE_MB_MAX, PARTS, part_of
from bench.plan import MIB, Plan
from bench.plots import draw_curves
from bench.processes import find_tree, read_memory
from bench.repeated import SIZE
from bench.results import Outcome, Series, Table, Target
from bench.servers import Server, run_whole

SAMPLE_S = 0.5
SAMPLES_MIN = 10
SETTLING = 2 / 7
SLOPE_MB_PER_MIN_MAX = 0.5
GROWTH_MB_MAX = 10.0
CLIENTS = {"upload": 4, "download": 8, "list": 2, "delete": 16}
LARGE_BYTES = 64 * MIB
DOWNLOADED_FILES = 2000
SETTINGS = {"DFS_DELETE_GRACE_S": "0"}

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory of a node at one moment.

    Attributes:
        at_s: since the beginning. parts: RSS in MB, by part. pss: in MB, of all.
    """

    at_s: float
    parts: dict[str, float]
    pss: float

    @property
    def rss(self) -> float:
        """RSS of all, in MB."""
        return sum(self.parts.values())


def take_sample(root_pid: int, at_s: float) -> Sample:
    """Look at the memory of a node now."""
    parts = dict.fromkeys(PARTS, 0.0)
    pss = 0.0
    for pid in find_tree(root_pid):
        memory = read_memory([pid])
        parts[part_of(pid)] += memory.rss / MB
        pss += memory.pss / MB
    return Sample(at_s, parts, pss)


@contextmanager
def sampling(root_pid: int) -> Iterator[list[Sample]]:
    """Sample the memory of a node while the body runs. The list is complete after that."""
    ended, began = threading.Event(), time.monotonic()
    samples: list[Sample] = []

    def sample() -> None:
        while not ended.wait(SAMPLE_S):
            samples.append(take_sample(root_pid, time.monotonic() - began))

    thread = threading.Thread(target=sample, name="soak-sampler")
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def slope_per_min(points: Sequence[Point]) -> float:
    """Return the slope of the straight line nearest to some points (seconds, value), a minute."""
    return 60 * statistics.linear_regression(*zip(*points, strict=True)).slope


def growth_of(points: Sequence[Point]) -> float:
    """Return how much the median of the last eighth of the time lies over that of the first."""
    first, last = points[0][0], points[-1][0]
    eighth = (last - first) / 8
    early = [value for at, value in points if at <= first + eighth]
    late = [value for at, value in points if at >= last - eighth]
    return statistics.median(late) - statistics.median(early)


def settled(points: Sequence[Point]) -> list[Point]:
    """Return the points after the first two sevenths of the time, in which much is done once."""
    began = points[-1][0] * SETTLING
    return [point for point in points if point[0] >= began]


class _Mixture:
    """Uploads, downloads, listings and deletes at the same time, in turns of some seconds.

    What one turn stores is downloaded in the next and deleted in the one after it, so that there
    are always about as many files.
    """

    def __init__(self, node: Server, directory: Path, turn_s: float) -> None:
        self._node = node
        self._directory = directory
        self._turn_s = turn_s
        self._filler = os.urandom(MIB)
        self._generations: deque[list[str]] = deque()
        self.done: Counter[str] = Counter()

    def run_turn(self) -> None:
        """Run one turn. Raises BenchError if a single request fails."""
        word = secrets.token_hex(8)
        loads = {
            "upload": partial(post_small, self._node, "/upload", size=SIZE, word=word),
            "list": partial(get_small, self._node, self._write("list", ["/files?limit=100"])),
        }
        if self._generations:
            ids = self._generations[-1][:DOWNLOADED_FILES]
            paths = self._write("download", [f"/download/{file_id}" for file_id in ids])
            loads["download"] = partial(get_small, self._node, paths)
        if len(self._generations) > 1:
            ids = self._generations.popleft()
            paths = self._write("delete", [f"/files/{file_id}" for file_id in ids])
            loads["delete"] = partial(delete_listed, self._node, paths)
        with ThreadPoolExecutor(len(loads) + 1) as pool:
            large = pool.submit(self._turn_over_large)
            rates = {
                name: pool.submit(load, clients=CLIENTS[name], seconds=self._turn_s)
                for name, load in loads.items()
            }
            large.result()
            self._count({name: rate.result() for name, rate in rates.items()})
        self._generations.append(list_ids(self._node, prefix=word))

    def _turn_over_large(self) -> None:
        with Client(self._node) as client:
            path = upload(client, self._filler, LARGE_BYTES)
            download(client, path, LARGE_BYTES)
            client.delete(path.replace("/download/", "/files/"))
        self.done["large file"] += 1

    def _count(self, rates: dict[str, Rate]) -> None:
        for name, rate in rates.items():
            self.done[name] += rate.requests

    def _write(self, name: str, paths: list[str]) -> Path:
        file = self._directory / f"{name}.paths"
        file.write_text("".join(f"{path}\n" for path in paths))
        return file


def measure_soak(plan: Plan) -> Outcome:
    """Memory of a whole node over the minutes of a steady mixed load."""
    outcome = Outcome()
    with (
        plan.scratch("soak") as directory,
        run_whole(directory, settings=SETTINGS) as node,
    ):
        mixture = _Mixture(node, directory, plan.soak_turn_s)
        began = time.monotonic()
        with sampling(node.process.pid) as samples:
            while time.monotonic() - began < plan.soak_s:
                mixture.run_turn()
        seconds = time.monotonic() - began
    if len(samples) < SAMPLES_MIN:
        raise BenchError("the soak was too short to say anything")
    _report(samples, mixture.done, seconds, outcome)
    return outcome


def _report(samples: list[Sample], done: Counter[str], seconds: float, outcome: Outcome) -> None:
    curves = {
        **{part: [(each.at_s, each.parts[part]) for each in samples] for part in PARTS},
        "RSS of all": [(each.at_s, each.rss) for each in samples],
        "PSS of all": [(each.at_s, each.pss) for each in samples],
    }
    for name, points in curves.items():
        outcome.keep(f"soak_{name.replace(' ', '_')}_mb", Series(tuple(y for _, y in points)))
    outcome.keep("soak_s", Series(tuple(each.at_s for each in samples)))
    rss = curves["RSS of all"]
    highest = max(value for _, value in rss)
    slope, growth = slope_per_min(settled(rss)), growth_of(settled(rss))
    outcome.targets += [
        Target("soak: RSS of the whole node", highest, NODE_MB_MAX, "MB", at_most=True, digits=0),
        Target(
            *("soak: slope of RSS", slope, SLOPE_MB_PER_MIN_MAX, "MB a minute"),
            at_most=True,
        ),
        Target("soak: growth of RSS", growth, GROWTH_MB_MAX, "MB", at_most=True, digits=1),
    ]
    header = ("minute", *PARTS, "RSS of all", "PSS of all")
    title = "Memory of the whole node in MB, medians"
    outcome.tables.append(Table(title, header, _by_minute(list(curves.values()))))
    clients = ", ".join(f"{count} that {name}" for name, count in CLIENTS.items())
    operations = ", ".join(f"{count:,} x {name}" for name, count in sorted(done.items()))
    outcome.notes.append(
        f"{seconds:.0f} s of load on what `make run` starts, with two replicas, and without grace "
        f"for deleted files, so that garbage and log are cleared away all the time. Clients: "
        f"{clients}, all with files of {SIZE} bytes, and now and then one that uploads, downloads "
        f"and deletes {LARGE_BYTES // MIB} MiB. Done: {operations}; not one failed. Slope and "
        "growth are those after the first two sevenths of the time: the slope of the straight line "
        "nearest to all samples of the RSS of all, and the median of the last eighth over that of "
        "the first."
    )
    outcome.plots["soak.svg"] = draw_curves(
        "Memory of the whole node (MB) over minutes",
        {name: [(at / 60, value) for at, value in points] for name, points in curves.items()},
    )


def _by_minute(curves: list[list[Point]]) -> list[tuple[str, ...]]:
    rows = []
    for minute in range(int(curves[0][-1][0] // 60) + 1):
        values = [
            [value for at, value in points if minute <= at / 60 < minute + 1] for points in curves
        ]
        if all(values):
            rows.append((str(minute + 1), *(f"{statistics.median(each):.0f}" for each in values)))
    return rows
