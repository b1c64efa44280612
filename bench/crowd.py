"""Many clients with files of 1 MiB, beside nginx and beside threads that only store files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.load import Destination, Rate, get_small, post_small, upload_small, write_downloads
from bench.plan import MIB, Plan
from bench.reference import store_with_threads
from bench.repeated import Figures, Repeated, judge_tail
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.servers import BARE_STORE, OWN_WORKER, Server, run_empty, run_nginx, run_node

SIZE = MIB
CLIENTS = 64
THREADS = 16
FILES = 64


@dataclass(frozen=True, slots=True)
class _Files:
    """Where the files to download are, on either side, and where nginx puts new ones."""

    node: Path
    nginx: Path
    put: Path


def measure_crowd(plan: Plan) -> Outcome:
    """MiB a second of 1 MiB files with 64 clients, up and down."""
    outcome = Outcome()
    with (
        plan.scratch("crowd") as directory,
        plan.scratch("static") as static,
        plan.scratch("bare") as bare_directory,
        run_node(directory) as node,
        run_nginx(static) as nginx,
        run_empty(bare_directory, application=BARE_STORE, worker_class=OWN_WORKER) as bare,
    ):
        files = _prepare(node, directory, static)
        load = partial(partial, clients=CLIENTS, seconds=plan.seconds)
        up = Repeated(load(post_small, node, "/upload", size=SIZE))
        only_up = Repeated(load(post_small, bare, "/", size=SIZE))
        put = Repeated(partial(_put, nginx, files.put, plan.seconds))
        down = Repeated(load(get_small, node, files.node))
        static_down = Repeated(load(get_small, nginx, files.nginx))
        store = partial(
            store_with_threads, directory, size=SIZE, threads=THREADS, seconds=plan.seconds
        )
        threads = measure_rounds(plan.rounds, (up, store, only_up, put, down, static_down))[1]
    figures = {
        name: repeated.keep(f"crowd_1m_{name}", plan.rounds, outcome)
        for name, repeated in (
            ("up", up),
            ("bare", only_up),
            ("nginx_put", put),
            ("down", down),
            ("nginx", static_down),
        )
    }
    _report(figures, outcome.keep("crowd_1m_threads_per_s", threads), outcome)
    return outcome


def _prepare(node: Server, directory: Path, static: Path) -> _Files:
    """Have files to download on either side."""
    files = _Files(directory / "files", directory / "static", static / "put")
    write_downloads(node, files.node, count=FILES, size=SIZE)
    for number in range(FILES):
        (static / str(number)).write_bytes(os.urandom(SIZE))
    files.nginx.write_text("".join(f"/{number}\n" for number in range(FILES)))
    return files


def _put(nginx: Server, folder: Path, seconds: float) -> Rate:
    """Upload to nginx. What came is removed at once, so that it is not written to the disk."""
    rate = upload_small(
        nginx, Destination("PUT", "/put/"), clients=CLIENTS, size=SIZE, seconds=seconds
    )
    for path in folder.iterdir():
        path.unlink()
    return rate


def _report(figures: dict[str, Figures], threads: Series, outcome: Outcome) -> None:
    up, down = figures["up"], figures["down"]
    up_ratio = outcome.keep("crowd_1m_up_over_threads", up.per_s.over(threads))
    bare_ratio = outcome.keep("crowd_1m_bare_over_threads", figures["bare"].per_s.over(threads))
    down_ratio = outcome.keep("crowd_1m_down_over_nginx", down.per_s.over(figures["nginx"].per_s))
    label = f"{CLIENTS} clients x 1 MiB"
    outcome.targets += [
        Target(f"{label}: upload, of {THREADS} threads that store", up_ratio.median, 0.7),
        judge_tail(f"{label}, uploads", up),
        Target(f"{label}: download, verified, of nginx's", down_ratio.median, 0.5),
        judge_tail(f"{label}, downloads", down),
    ]
    rows = [
        _row("upload", up, None),
        (
            f"{THREADS} threads: create, write, fdatasync, rename, directory sync",
            threads.format(),
            *([""] * 4),
            up_ratio.format(2),
        ),
        _row("application that only stores", figures["bare"], up),
        _row("nginx, PUT", figures["nginx_put"], up),
        _row("download, verified", down, None),
        _row("nginx, sendfile", figures["nginx"], down),
    ]
    header = ("", "MiB/s", "p50 ms", "p99 ms", "CPU ms a MiB", "peak RSS MiB", "dfs, of it")
    outcome.tables.append(Table(f"Files of 1 MiB, {CLIENTS} clients", header, rows))
    outcome.notes.append(
        "The clients are the connections of one thread of wrk, which takes as long to send and "
        f"receive for all servers. The {THREADS} threads neither receive nor hash; nginx neither "
        "hashes nor syncs. The application that only stores does what no store in Python is "
        "spared, on the same Gunicorn: it receives, hashes, writes, syncs and renames. Its rate is "
        f"{bare_ratio.format(2)} of that of the threads. {FILES} different files are downloaded, "
        "from the page cache."
    )


def _row(label: str, figures: Figures, own: Figures | None) -> tuple[str, ...]:
    return (
        label,
        figures.per_s.format(),
        figures.p50_ms.format(1),
        figures.p99_ms.format(1),
        f"{figures.cpu_us.median / 1e3:.2f}",
        f"{figures.rss_mib.median:.0f}",
        own.per_s.over(figures.per_s).format(2) if own else "",
    )
