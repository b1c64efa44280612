"""The memory of a node: how far large files raise it, and how high each load takes all of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.deletes import Turnover
from bench.large import download, upload
from bench.load import Client, get_small, list_ids, post_small
from bench.plan import MIB, Plan
from bench.processes import (
    Memory,
    Watched,
    find_tree,
    read_command,
    read_peak,
    reset_peaks,
    watch_memory,
)
from bench.repeated import SIZE
from bench.results import Outcome, Series, Table, Target
from bench.servers import Server, run_node, run_whole

MB = 1e6
CLIENTS = 64
PAGE_FILES = 1000
NODE_MB_MAX = 300
WORDS = {"web server": "gunicorn", "worker": "workers.run", "queue": "-server"}
"""What the command line of each part of a node has; the rest is what started them."""
PARTS = (*WORDS, "supervisor")

Load = tuple[str, Callable[[], object]]


def measure_memory(plan: Plan) -> Outcome:
    """Growth while 1 GiB comes in and goes out, and the peak of the whole node under each load."""
    outcome = Outcome()
    _measure_growth(plan, outcome)
    _measure_peaks(plan, outcome)
    return outcome


def _measure_growth(plan: Plan, outcome: Outcome) -> None:
    filler = os.urandom(MIB)
    rows: list[tuple[str, ...]] = []
    with plan.scratch("memory") as directory, run_node(directory) as node, Client(node) as client:
        for _ in range(50):  # so that what every worker loads once is there
            with Client(node) as small:
                download(small, upload(small, filler, SIZE), SIZE)
        with watch_memory(node.process.pid) as up:
            path = upload(client, filler, plan.huge_bytes)
        with watch_memory(node.process.pid) as down:
            download(client, path, plan.huge_bytes)
    for name, growth in (("upload", up.growth), ("download", down.growth)):
        rows.append((name, f"{growth.pss / MIB:.1f}", f"{growth.rss / MIB:.1f}"))
        outcome.keep(f"memory_{name}_pss_mib", Series((growth.pss / MIB,)))
        outcome.keep(f"memory_{name}_rss_mib", Series((growth.rss / MIB,)))
        label = f"memory growth, {plan.huge_bytes // MIB} MiB {name}"
        outcome.targets.append(
            Target(label, growth.pss / MIB, 64, unit="MiB", at_most=True, digits=1)
        )
    header = ("", "growth of PSS, MiB", "growth of RSS, MiB")
    outcome.tables.append(Table(f"Memory during {plan.huge_bytes // MIB} MiB", header, rows))


def _measure_peaks(plan: Plan, outcome: Outcome) -> None:
    rows: list[tuple[str, ...]] = []
    peaks: list[Memory] = []
    with plan.scratch("peaks") as directory, run_whole(directory) as node:
        for label, load in _loads(plan, node, directory):
            pids = find_tree(node.process.pid)
            reset_peaks(pids)
            with watch_memory(node.process.pid) as watched:
                load()
            parts = _peaks_of(pids)
            peaks.append(_keep_peak(label, parts, watched, outcome))
            rows.append(
                (
                    label,
                    *(f"{parts[name] / MB:.0f}" for name in PARTS),
                    f"{peaks[-1].rss / MB:.0f}",
                    f"{peaks[-1].pss / MB:.0f}",
                )
            )
    highest = max(peak.rss for peak in peaks) / MB
    label = "RSS of the whole node, highest of all loads"
    outcome.targets.append(Target(label, highest, NODE_MB_MAX, "MB", at_most=True, digits=0))
    header = ("MB", *PARTS, "RSS of all", "PSS of all")
    outcome.tables.append(Table("Highest memory of a whole node under each load", header, rows))
    outcome.notes.append(
        "The whole node is what `make run` starts, here with two replicas that it copies to "
        f"meanwhile. {CLIENTS} clients where nothing else is said. RSS is the sum of the highest "
        "RSS of each process, as the kernel keeps it, though they need not have had it at the same "
        "time; a page that several share counts in each. PSS divides such pages among them; it is "
        "the highest sum of samples taken twenty times a second."
    )


def _loads(plan: Plan, node: Server, directory: Path) -> Iterator[Load]:
    """Yield what to do to a node, each when the one before it is done."""
    seconds, filler = plan.seconds, os.urandom(MIB)
    paths, pages = directory / "paths", directory / "pages"
    turnover = Turnover(node, directory, CLIENTS, seconds)
    get = partial(get_small, node, clients=CLIENTS, seconds=seconds)
    yield "uploads of 4 KiB", turnover.upload
    yield "deletes", turnover.delete
    turnover.upload()
    paths.write_text("".join(f"/download/{file_id}\n" for file_id in list_ids(node)))
    yield "downloads of 4 KiB", partial(get, paths)
    pages.write_text(f"/files?limit={PAGE_FILES}\n")
    yield f"pages of {PAGE_FILES:,} names", partial(get, pages)
    with Client(node) as client:
        path = upload(client, filler, plan.large_bytes)
        mib = plan.large_bytes // MIB
        yield f"upload of {mib} MiB, 1 client", partial(upload, client, filler, plan.large_bytes)
        yield (
            f"download of {mib} MiB, 1 client",
            partial(download, client, path, plan.large_bytes),
        )
    word = "peak-crowd-peaks"
    yield (
        "uploads of 1 MiB",
        partial(post_small, node, "/upload", clients=CLIENTS, size=MIB, seconds=seconds, word=word),
    )
    ids = list_ids(node, prefix=word)
    paths.write_text("".join(f"/download/{file_id}\n" for file_id in ids))
    yield "downloads of 1 MiB", partial(get, paths)


def _peaks_of(pids: list[int]) -> Counter[str]:
    """Return the sum of the highest RSS of the processes of each part, in bytes."""
    peaks: Counter[str] = Counter()
    for pid in pids:
        peaks[part_of(pid)] += read_peak(pid)
    return peaks


def part_of(pid: int) -> str:
    """Return which part of a node a process belongs to."""
    command = read_command(pid)
    return next((name for name, word in WORDS.items() if word in command), "supervisor")


def _keep_peak(label: str, parts: Counter[str], watched: Watched, outcome: Outcome) -> Memory:
    peak = Memory(pss=watched.peak.pss, rss=parts.total())
    name = "_".join(label.replace(",", "").split())
    outcome.keep(f"peak_rss_mb_{name}", Series((peak.rss / MB,)))
    outcome.keep(f"peak_pss_mb_{name}", Series((peak.pss / MB,)))
    return peak
