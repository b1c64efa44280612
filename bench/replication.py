"""Replication: how fast copies are made, how far they lag, and what they cost the uploads."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from bench.errors import BenchError
from bench.load import Client, post_small
from bench.plan import MIB, Plan
from bench.repeated import Figures, Repeated
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.servers import Server, run_node, run_queue, run_worker
from dfs.core.model import DebtKind

SMALL_BYTES = 4096
LARGE_BYTES = 8 * MIB
CLIENTS = 64
STEADY_PER_S = 200
STEADY_CLIENTS = 8
STEADY_SECONDS_MIN = 10.0
SAMPLE_S = 0.01
WAIT_S = 600.0
QUORUM = {"DFS_REPLICATION": "sync", "DFS_WRITE_QUORUM": "2"}


def measure_replication(plan: Plan) -> Outcome:
    """Rate of copying, lag under a steady load, and upload rates with and without replicas."""
    outcome = Outcome()
    _measure_rate(plan, outcome)
    _measure_lag(plan, outcome)
    _measure_cost(plan, outcome)
    return outcome


@contextlib.contextmanager
def replicated(directory: Path) -> Iterator[dict[str, str]]:
    """Lend the settings of a node with two local replicas and a queue of its own."""
    with run_queue(directory) as queue_url:
        yield {
            "REPLICA1_PATH": str(directory / "replica1"),
            "REPLICA2_PATH": str(directory / "replica2"),
            "REDIS_URL": queue_url,
            "DFS_SCRUB_BYTES_PER_S": "0",
        }


class Index:
    """The node's index, read beside it."""

    def __init__(self, directory: Path) -> None:
        self._connection = sqlite3.connect(
            f"file:{directory / 'dfs.db'}?mode=ro", uri=True, check_same_thread=False
        )

    def reached(self) -> int:
        """Return the LSN that every replica has."""
        sql = "SELECT min(lsn) FROM dfs_store WHERE name <> 'primary'"
        return int(self._connection.execute(sql).fetchone()[0] or 0)

    def is_caught_up(self) -> bool:
        """Tell whether no copy is owed to any replica."""
        sql = "SELECT count(*) FROM dfs_debt WHERE kind IN (?, ?)"
        ((owed,),) = self._connection.execute(sql, (DebtKind.BLOB, DebtKind.SEGMENT))
        ((end,),) = self._connection.execute("SELECT applied_lsn FROM dfs_node_state")
        return not owed and self.reached() == end

    def close(self) -> None:
        """Close it."""
        self._connection.close()


def _measure_rate(plan: Plan, outcome: Outcome) -> None:
    """Copy the files of a node by its worker and by cp, a new node each round."""
    rows: list[tuple[str, ...]] = []
    cells = (
        ("small", plan.copied_files, SMALL_BYTES),
        ("large", plan.copied_bytes // LARGE_BYTES, LARGE_BYTES),
    )
    for name, count, size in cells:
        rounds = [
            _time_copies(plan, f"copy-{name}", count=count, size=size, cp_first=turn % 2 == 1)
            for turn in range(plan.copy_rounds)
        ]
        seconds, reference_s = (Series(column) for column in zip(*rounds, strict=True))
        total = Series((float(count),) * len(rounds))
        files = outcome.keep(f"replicate_{name}_files_per_s", total.over(seconds))
        megabytes = Series((count * size / 1e6,) * len(rounds))
        rate = outcome.keep(f"replicate_{name}_mb_per_s", megabytes.over(seconds))
        ratio = outcome.keep(f"replicate_{name}_over_cp", reference_s.over(seconds))
        rows.append(
            (
                f"{count:,} files of {size // 1024:,} KiB",
                seconds.format(2),
                files.format(),
                rate.format(),
                reference_s.format(2),
                ratio.format(2),
            )
        )
        if name == "large":
            label = "replication of 8 MiB files to two replicas, of cp + sync"
            outcome.targets.append(Target(label, ratio.median, 0.7))
    header = ("stored before", "seconds", "files/s", "MB/s", "cp + sync, seconds", "cp / dfs")
    outcome.tables.append(Table("Replication to two local replicas", header, rows))
    outcome.notes.append(
        "From the start of the worker's first copy until every replica has log and blob files, "
        "each synced, read back from the disk and checked. cp copies log and blob files to two "
        "directories, one after the other, and syncs the file system after each; it checks "
        f"nothing. {plan.copy_rounds} rounds, each with a new node; the two take turns in going "
        "first, and before each of them the page cache is emptied of all files of the round."
    )


def _time_copies(
    plan: Plan, name: str, *, count: int, size: int, cp_first: bool
) -> tuple[float, float]:
    """Store files while no worker runs; return the seconds of the worker, and those of cp."""
    with (
        plan.scratch(name) as directory,
        replicated(directory) as settings,
        run_node(directory, settings=settings) as node,
    ):
        _store(node, count=count, size=size)
        reference_s = _copy_plainly(directory) if cp_first else 0.0
        seconds = _time_worker(directory, settings)
        return seconds, reference_s or _copy_plainly(directory)


def _store(node: Server, *, count: int, size: int) -> None:
    """Store so many files, each different."""
    filler = os.urandom(min(size, MIB))
    clients = 16 if size < MIB else 4

    def store(number: int) -> None:
        with Client(node) as client:
            for at in range(number, count, clients):
                client.post(f"/upload?name=f{at}", filler, size=size)

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(store, range(clients)))


def _time_worker(directory: Path, settings: dict[str, str]) -> float:
    """Return the seconds from the worker's first copy until nothing is owed."""
    _drop_caches(directory)
    index = Index(directory)
    replicas = [directory / name for name in ("replica1", "replica2")]
    with contextlib.closing(index), run_worker(directory, settings):
        wait_for(lambda: any(_has_files(replica) for replica in replicas))
        started = time.perf_counter()
        wait_for(index.is_caught_up)
        return time.perf_counter() - started


def _has_files(replica: Path) -> bool:
    return any((replica / "segments").glob("*.wal")) or any((replica / "tmp").glob("*"))


def _copy_plainly(directory: Path) -> float:
    """Return the seconds that cp and sync take for the same files to two directories."""
    _drop_caches(directory)
    sources = [str(directory / "primary" / "blobs"), str(directory / "wal")]
    started = time.perf_counter()
    for name in ("plain1", "plain2"):
        target = directory / name
        target.mkdir()
        subprocess.run(["cp", "-r", *sources, str(target)], check=True)
        subprocess.run(["sync", "-f", str(target)], check=True)
    return time.perf_counter() - started


def _drop_caches(directory: Path) -> None:
    """Have everything below a directory on the disk, and nothing of it in the page cache."""
    subprocess.run(["sync", "-f", str(directory)], check=True)
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _measure_lag(plan: Plan, outcome: Outcome) -> None:
    """Upload at a steady rate, and see when every replica has what was acknowledged."""
    seconds = max(STEADY_SECONDS_MIN, 4 * plan.seconds)
    with (
        plan.scratch("lag") as directory,
        replicated(directory) as settings,
        run_node(directory, settings=settings) as node,
        run_worker(directory, settings),
    ):
        acknowledged = _upload_steadily(node, Index(directory), seconds)
    lags = sorted(acknowledged)
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    outcome.keep("replication_lag_p50_s", Series((p50,)))
    outcome.keep("replication_lag_p99_s", Series((p99,)))
    row = (f"{len(lags) / seconds:.0f}", f"{p50:.3f}", f"{p99:.3f}", f"{lags[-1]:.3f}")
    header = ("uploads/s", "p50 s", "p99 s", "longest s")
    outcome.tables.append(Table("Lag of two replicas under a steady load", header, [row]))
    label = f"lag p99 at {STEADY_PER_S} uploads a second"
    outcome.targets.append(Target(label, p99, 2.0, "s", at_most=True))


def _upload_steadily(node: Server, index: Index, seconds: float) -> list[float]:
    """Return for each upload the seconds from its answer until all replicas had it."""
    lock = threading.Lock()
    waiting: dict[int, float] = {}
    lags: list[float] = []
    filler = os.urandom(SMALL_BYTES)
    began = time.perf_counter()

    def upload(number: int) -> None:
        with Client(node) as client:
            for turn in range(int(seconds * STEADY_PER_S / STEADY_CLIENTS)):
                due = began + (turn * STEADY_CLIENTS + number) / STEADY_PER_S
                time.sleep(max(0.0, due - time.perf_counter()))
                answer = client.post("/upload?name=f", filler, size=SMALL_BYTES)
                lsn = int(answer.split(b'"lsn":')[1].split(b",")[0])
                with lock:
                    waiting[lsn] = time.perf_counter()

    def look() -> bool:
        reached, now = index.reached(), time.perf_counter()
        with lock:
            for lsn in [lsn for lsn in waiting if lsn <= reached]:
                lags.append(now - waiting.pop(lsn))
            return not waiting

    with ThreadPoolExecutor(STEADY_CLIENTS) as pool:
        uploads = [pool.submit(upload, number) for number in range(STEADY_CLIENTS)]
        wait_for(lambda: look() and all(done.done() for done in uploads))
        for done in uploads:
            done.result()
    index.close()
    return lags


def _measure_cost(plan: Plan, outcome: Outcome) -> None:
    """Upload to a node without replicas, with two asynchronous ones, and with a quorum of two."""
    with contextlib.ExitStack() as stack:
        loads: dict[str, Repeated] = {}
        for name in ("alone", "async", "sync"):
            directory = stack.enter_context(plan.scratch(f"cost-{name}"))
            settings: dict[str, str] = {}
            if name != "alone":
                settings = stack.enter_context(replicated(directory))
                settings |= QUORUM if name == "sync" else {}
            node = stack.enter_context(run_node(directory, settings=settings))
            if name != "alone":
                stack.enter_context(run_worker(directory, settings))
            post = partial(post_small, node, "/upload", clients=CLIENTS, size=SMALL_BYTES)
            loads[name] = Repeated(partial(post, seconds=plan.seconds))
        measure_rounds(plan.rounds, list(loads.values()))
    found = {
        name: load.keep(f"upload_4k_{name}", plan.rounds, outcome) for name, load in loads.items()
    }
    rows = [_row("none", found["alone"], "")]
    cells = (("two, asynchronous", "async", 0.8), ("two, quorum of 2 of 3 stores", "sync", 0.5))
    for title, name, limit in cells:
        ratio = found[name].per_s.over(found["alone"].per_s)
        outcome.keep(f"upload_4k_{name}_over_alone", ratio)
        rows.append(_row(title, found[name], ratio.format(2)))
        label = f"4 KiB uploads, {CLIENTS} clients, replicas {title}, of those without"
        outcome.targets.append(Target(label, ratio.median, limit))
    header = ("replicas", "uploads/s", "CPU us", "of those without")
    outcome.tables.append(Table("What replicas cost the uploads", header, rows))
    outcome.notes.append(
        "All three nodes run at once and are loaded in turn; the worker of a replicated node "
        "copies during its turn and catches up during the others'. All replicas are on one disk."
    )


def _row(title: str, figures: Figures, share: str) -> tuple[str, ...]:
    return (title, figures.per_s.format(), f"{figures.cpu_us.median:.0f}", share)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition of the replicas holds. Raises BenchError after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError("the replicas do not catch up")
        time.sleep(SAMPLE_S)
