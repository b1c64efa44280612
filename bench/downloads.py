"""Downloads of many 4 KiB files, beside an empty Flask route."""

from __future__ import annotations

from functools import partial

from bench.load import get_small, write_downloads
from bench.plan import Plan
from bench.repeated import CLIENTS, SIZE, Repeated, draw_rates, judge_tail
from bench.results import Outcome, Table, Target, measure_rounds
from bench.servers import run_empty, run_node

FILES = 5000


def measure_downloads(plan: Plan) -> Outcome:
    """Downloads a second of many 4 KiB files, against the empty route."""
    outcome = Outcome()
    rows: list[tuple[str, ...]] = []
    with (
        plan.scratch("downloads") as directory,
        plan.scratch("empty") as empty_directory,
        run_node(directory) as node,
        run_empty(empty_directory) as empty,
    ):
        files, root = directory / "files", directory / "root"
        write_downloads(node, files, count=FILES, size=SIZE)
        root.write_text("/\n")
        for clients in CLIENTS:
            download, call = (
                Repeated(partial(get_small, server, paths, clients=clients, seconds=plan.seconds))
                for server, paths in ((node, files), (empty, root))
            )
            rows.append(_measure(clients, plan, download, call, outcome))
    header = (
        *("clients", "downloads/s", "p50 ms", "p99 ms", "CPU us", "peak RSS MiB"),
        *("empty Flask route, requests/s", "CPU us", "of the empty Flask route"),
    )
    outcome.tables.append(Table("Downloads of 4 KiB", header, rows))
    outcome.notes.append(
        f"{FILES} different files in shuffled order, in the page cache; each is read from "
        "the log, whole record, and its CRC32 checked."
    )
    outcome.plots["bench-downloads.svg"] = draw_rates(
        "4 KiB downloads and empty requests",
        {"downloads": "download_4k_{}_per_s", "empty Flask route": "download_4k_{}_empty_per_s"},
        outcome,
    )
    return outcome


def _measure(
    clients: int, plan: Plan, download: Repeated, call: Repeated, outcome: Outcome
) -> tuple[str, ...]:
    measure_rounds(plan.rounds, (call, download), warm_up=clients == CLIENTS[0])
    name = f"download_4k_{clients}"
    figures = download.keep(name, plan.rounds, outcome)
    empty = call.keep(f"{name}_empty", plan.rounds, outcome)
    ratio = outcome.keep(f"{name}_over_empty", figures.per_s.over(empty.per_s))
    if clients == CLIENTS[-1]:
        label = f"4 KiB downloads, {clients} clients"
        outcome.targets.append(Target(f"{label}, of the empty route", ratio.median, 0.8))
        outcome.targets.append(judge_tail(label, figures))
    return (
        str(clients),
        *figures.cells(),
        empty.per_s.format(),
        f"{empty.cpu_us.median:.0f}",
        ratio.format(2),
    )
