"""4 KiB files: durable uploads, the syncs they cost, downloads; beside an empty Flask route."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench.load import Rate, get_small, list_ids, post_small
from bench.plan import Plan
from bench.reference import append_with_sync
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.servers import Server, get, run_empty, run_node

SIZE = 4096
CLIENTS = (1, 16, 64)
GROUP = 16
OWN_WORKER = "dfs.server.worker.Worker"
DOWNLOAD_FILES = 5000
CPU_NOTE = (
    "Processor time is that of all processes of the server, a request; it varies less than rates "
    "do when something else runs on the machine."
)


@dataclass(slots=True)
class Repeated:
    """A load that keeps all that wrk says of each round, and hands on the rate."""

    load: Callable[[], Rate]
    rates: list[Rate] = field(default_factory=list)

    def __call__(self) -> float:
        """Run one round. Returns requests a second."""
        self.rates.append(self.load())
        return self.rates[-1].per_s

    def keep(self, name: str, rounds: int, outcome: Outcome) -> tuple[Series, Series, Series]:
        """Keep p50 and p99 in ms and processor time in us of the rounds that count."""
        counted = self.rates[-rounds:]
        return (
            outcome.keep(f"{name}_p50_ms", Series(tuple(rate.p50_ms for rate in counted))),
            outcome.keep(f"{name}_p99_ms", Series(tuple(rate.p99_ms for rate in counted))),
            outcome.keep(f"{name}_cpu_us", Series(tuple(rate.cpu_us for rate in counted))),
        )


def measure_uploads(plan: Plan) -> Outcome:
    """Durable uploads a second, against the empty route and against plain appends with a sync."""
    outcome = Outcome()
    rows: list[tuple[str, ...]] = []
    with (
        plan.scratch("uploads") as directory,
        plan.scratch("empty") as empty_directory,
        plan.scratch("empty-own") as own_directory,
        run_node(directory) as node,
        run_empty(empty_directory) as empty,
        run_empty(own_directory, worker_class=OWN_WORKER) as own,
    ):
        for clients in CLIENTS:
            rows.append(
                _measure_uploads_of(
                    clients,
                    plan=plan,
                    node=node,
                    empty=empty,
                    own=own,
                    directory=directory,
                    outcome=outcome,
                )
            )
    header = (
        "clients",
        "dfs, uploads/s",
        "p50 ms",
        "p99 ms",
        "CPU us",
        "empty route, requests/s",
        "CPU us",
        "empty route on dfs's worker, requests/s",
        "body route, requests/s",
        f"append + fdatasync in groups of 1 / {GROUP}, records/s",
        "dfs / empty route",
    )
    outcome.tables.append(Table("Durable uploads of 4 KiB", header, rows))
    outcome.notes.append(
        "Every body is different; each answer is sent after the fdatasync. The body route is a "
        "Flask route that only reads the same 4 KiB; both are on Gunicorn's own threads, and the "
        "empty route once more on those of dfs; the appends go to a preallocated file. " + CPU_NOTE
    )
    return outcome


def _measure_uploads_of(
    clients: int,
    *,
    plan: Plan,
    node: Server,
    empty: Server,
    own: Server,
    directory: Path,
    outcome: Outcome,
) -> tuple[str, ...]:
    paths, append = directory / "paths", directory / "append.dat"
    paths.write_text("/\n")
    seconds = plan.seconds
    sync_s = seconds / 6
    call, own_call = (
        Repeated(partial(get_small, server, paths, clients=clients, seconds=seconds))
        for server in (empty, own)
    )
    upload, read = (
        Repeated(partial(post_small, server, path, clients=clients, size=SIZE, seconds=seconds))
        for server, path in ((node, "/upload"), (empty, "/read"))
    )
    measures = (
        call,
        upload,
        own_call,
        read,
        partial(append_with_sync, append, size=SIZE, group=1, seconds=sync_s),
        partial(append_with_sync, append, size=SIZE, group=GROUP, seconds=sync_s),
    )
    empty_rate, rate, own_rate, reading, single, grouped = measure_rounds(
        plan.rounds, measures, warm_up=clients == CLIENTS[0]
    )
    name = f"upload_4k_{clients}"
    outcome.keep(f"{name}_own_empty_per_s", own_rate)
    outcome.keep(f"{name}_body_route_per_s", reading)
    outcome.keep(f"{name}_append_per_s", single)
    outcome.keep(f"{name}_append_grouped_per_s", grouped)
    cells, ratio = _compare(name, plan, outcome, (upload, rate), (call, empty_rate))
    if clients == CLIENTS[-1]:
        label = f"4 KiB uploads, {clients} clients, of the empty route"
        outcome.targets.append(Target(label, ratio.median, 0.45))
    appends = f"{single.median:,.0f} / {grouped.median:,.0f}"
    return (str(clients), *cells, own_rate.format(), reading.format(), appends, ratio.format(2))


def _compare(
    name: str,
    plan: Plan,
    outcome: Outcome,
    measured: tuple[Repeated, Series],
    empty: tuple[Repeated, Series],
) -> tuple[tuple[str, ...], Series]:
    """Keep all that was measured of a route of dfs and of the empty route beside it.

    Args:
        name: what its figures begin with.
        measured, empty: the load, and its requests a second in each round.

    Returns:
        (cells, ratio): requests a second, p50, p99 and processor time of dfs, and requests a
        second and processor time of the empty route; and the ratio of the two rates.
    """
    (load, rate), (call, empty_rate) = measured, empty
    outcome.keep(f"{name}_empty_per_s", empty_rate)
    outcome.keep(f"{name}_per_s", rate)
    ratio = outcome.keep(f"{name}_over_empty", rate.over(empty_rate))
    p50, p99, cpu = load.keep(name, plan.rounds, outcome)
    empty_cpu = call.keep(f"{name}_empty", plan.rounds, outcome)[2]
    cells = (
        rate.format(),
        f"{p50.median:.1f}",
        f"{p99.median:.1f}",
        f"{cpu.median:.0f}",
        empty_rate.format(),
        f"{empty_cpu.median:.0f}",
    )
    return cells, ratio


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
        stored = 0
        while stored < DOWNLOAD_FILES:
            stored += post_small(node, "/upload", clients=16, size=SIZE, seconds=1).requests
        ids = list_ids(node, limit=DOWNLOAD_FILES)
        files, root = directory / "files", directory / "root"
        files.write_text("".join(f"/download/{file_id}\n" for file_id in ids))
        root.write_text("/\n")
        for clients in CLIENTS:
            download, call = (
                Repeated(partial(get_small, server, paths, clients=clients, seconds=plan.seconds))
                for server, paths in ((node, files), (empty, root))
            )
            rows.append(_measure_downloads_of(clients, plan, download, call, outcome))
    header = (
        "clients",
        "dfs, downloads/s",
        "p50 ms",
        "p99 ms",
        "CPU us",
        "empty route, requests/s",
        "CPU us",
        "dfs / empty route",
    )
    outcome.tables.append(Table("Downloads of 4 KiB", header, rows))
    outcome.notes.append(
        f"{DOWNLOAD_FILES} different files in shuffled order, in the page cache; each is read from "
        "the log, whole record, and its CRC32 checked."
    )
    return outcome


def _measure_downloads_of(
    clients: int, plan: Plan, download: Repeated, call: Repeated, outcome: Outcome
) -> tuple[str, ...]:
    empty_rate, rate = measure_rounds(plan.rounds, (call, download), warm_up=clients == CLIENTS[0])
    name = f"download_4k_{clients}"
    cells, ratio = _compare(name, plan, outcome, (download, rate), (call, empty_rate))
    if clients == CLIENTS[-1]:
        label = f"4 KiB downloads, {clients} clients, of the empty route"
        outcome.targets.append(Target(label, ratio.median, 0.6))
    return (str(clients), *cells, ratio.format(2))


def measure_syncs(plan: Plan) -> Outcome:
    """Syncs that one upload costs, counted by strace and by dfs's own metrics."""
    outcome = Outcome()
    rows: list[tuple[str, ...]] = []
    with plan.scratch("syncs") as directory:
        trace = directory / "syncs.trace"
        with run_node(directory, sync_trace=trace) as node:
            post_small(node, "/upload", clients=16, size=SIZE, seconds=1)
            for clients in CLIENTS:
                rows.append(_measure_syncs_of(clients, plan, node, trace, outcome))
    header = (
        "clients",
        "uploads",
        "syncs an upload, by strace",
        "syncs of the log an upload, by metrics",
        "changes a commit, by metrics",
    )
    outcome.tables.append(Table("Syncs of 4 KiB uploads", header, rows))
    outcome.notes.append(
        "strace follows all processes of the node and sees every kind of sync, those of SQLite's "
        "checkpoints too. It slows the node down, so these runs give no rates."
    )
    return outcome


def _measure_syncs_of(
    clients: int, plan: Plan, node: Server, trace: Path, outcome: Outcome
) -> tuple[str, ...]:
    before, traced = _read_commits(node), _count_syncs(trace)
    rate = post_small(node, "/upload", clients=clients, size=SIZE, seconds=plan.seconds)
    after = _read_commits(node)
    by_strace = (_count_syncs(trace) - traced) / rate.requests
    commits, changes, syncs = (new - old for new, old in zip(after, before, strict=True))
    by_metrics = syncs / changes
    name = f"syncs_4k_{clients}"
    outcome.keep(f"{name}_by_strace", Series((by_strace,)))
    outcome.keep(f"{name}_by_metrics", Series((by_metrics,)))
    if clients == CLIENTS[-1]:
        label = f"syncs an upload, {clients} clients, by strace"
        outcome.targets.append(Target(label, by_strace, 0.2, at_most=True, digits=3))
    return (
        str(clients),
        f"{rate.requests:,}",
        f"{by_strace:.3f}",
        f"{by_metrics:.3f}",
        f"{changes / commits:.1f}",
    )


def _count_syncs(trace: Path) -> int:
    """Return how many syncs strace has written down; one that was interrupted has two lines."""
    with trace.open() as lines:
        return sum("sync" in line and " resumed>" not in line for line in lines)


def _read_commits(node: Server) -> tuple[float, float, float]:
    """Return the node's counts of commits, changes, and syncs of the log."""
    text = get(node, "/metrics")[1].decode()
    names = ("dfs_commit_changes_count", "dfs_commit_changes_sum", "dfs_commit_syncs_total")
    matches = (re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for name in names)
    commits, changes, syncs = (float(match[1]) if match else 0.0 for match in matches)
    return commits, changes, syncs
