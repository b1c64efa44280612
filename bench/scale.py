"""What grows with the number of files: replaying the log, starting, listing."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.errors import BenchError
from bench.load import Client
from bench.plan import Plan
from bench.processes import watch_use
from bench.results import Outcome, Series, Table, Target
from bench.servers import Server, node_environ, run_node
from dfs.app import create_app
from dfs.core.config import Config, load_config
from dfs.services.changes import Upload
from dfs.services.files import FileService
from dfs.wiring import open_services, recover_node

REPLAY_SIZE = 4096
REPLAY_BATCH = 32
STORED_SIZE = 64
STORED_BATCH = 500
FOLDER_FILES = 1000
PAGE_FILES = 100
PAGE_REPEATS = 100
LISTED_FILES = 1000
LISTED_PAGES = 20
NAMES_PER_S_MIN = 50_000

Fetch = Callable[[str], bytes]


def measure_replay(plan: Plan) -> Outcome:
    """Records a second while a missing index is rebuilt from the log alone."""
    outcome = Outcome()
    with plan.scratch("replay") as directory:
        config = make_config(directory)
        fill(config, plan.replay_files, size=REPLAY_SIZE, batch=REPLAY_BATCH)
        rates, counts = [], set()
        for _ in range(plan.rounds):
            for path in directory.glob("dfs.db*"):
                path.unlink()
            started = time.perf_counter()
            replayed = recover_node(config, hosts=[config.host]).replayed
            rates.append(replayed / (time.perf_counter() - started))
            counts.add(replayed)
    rate = outcome.keep("replay_records_per_s", Series(tuple(rates)))
    if len(counts) != 1 or min(counts) < 2 * plan.replay_files:
        raise BenchError(f"the replays are not complete: {counts}")
    header = ("records", "records/s", "s")
    records = min(counts)
    row = (f"{records:,}", rate.format(), f"{records / rate.median:.1f}")
    outcome.tables.append(Table("Rebuilding the index (SQLite) from the log", header, [row]))
    outcome.targets.append(Target("replay, records/s", rate.median, 50_000, digits=0))
    outcome.notes.append(
        f"The log holds {plan.replay_files:,} files of {REPLAY_SIZE} different bytes inside "
        f"it, {REPLAY_BATCH} files a commit. The database is deleted and recovery runs as at a "
        "start, CRC32 checks, opening and migrating included."
    )
    return outcome


def measure_scale(plan: Plan) -> Outcome:
    """Start and listing of a node that holds very many files."""
    outcome = Outcome()
    with plan.scratch("scale") as directory:
        config = make_config(directory)
        started = time.perf_counter()
        fill(config, plan.stored_files, size=STORED_SIZE, batch=STORED_BATCH)
        outcome.notes.append(
            f"{plan.stored_files:,} files of {STORED_SIZE} different bytes, stored through the "
            f"commit path, {STORED_BATCH} files a commit, in {time.perf_counter() - started:.0f} s;"
            f" their names have the form f/00012/0345, {FOLDER_FILES} to a prefix."
        )
        _measure_start(directory, plan, outcome)
        _measure_pages(config, directory, plan, outcome)
    return outcome


def make_config(directory: Path, **settings: str) -> Config:
    """Return the configuration of a node of this process whose data is in `directory`."""
    environ = {**node_environ(directory), **settings}
    return load_config(environ, env_file=str(directory / "none"))


def name_of(number: int) -> str:
    return f"f/{number // FOLDER_FILES:05d}/{number % FOLDER_FILES:04d}"


def cursor_before(number: int) -> str:
    """Return behind what a listing goes on with that file: its name, and the lowest id."""
    return "0" * 26 + name_of(number)


def fill(config: Config, count: int, *, size: int, batch: int) -> None:
    """Store small files through the commit path, in a node of this process that is then stopped."""
    services = open_services(config)
    try:
        for first in range(0, count, batch):
            numbers = range(first, min(first + batch, count))
            services.files.store([make_upload(services.files, number, size) for number in numbers])
    finally:
        services.close()


def make_upload(files: FileService, number: int, size: int) -> Upload:
    """Return a file whose name and bytes no other number has."""
    blob = files.new_blob()
    blob.write(number.to_bytes(size, "little"))
    return Upload(blob, name_of(number), "application/octet-stream")


def _measure_start(directory: Path, plan: Plan, outcome: Outcome) -> None:
    with run_node(directory):
        pass  # so that the start before each that counts ended with a stop of the server
    seconds = []
    for _ in range(plan.rounds):
        with run_node(directory) as node:
            seconds.append(node.start_s)
    start = outcome.keep("start_s", Series(tuple(seconds)))
    title = f"Start after a clean stop, {plan.stored_files:,} files"
    header = ("s until /ready answers 200",)
    outcome.tables.append(Table(title, header, [(start.format(2),)]))
    name = f"start after a clean stop, {plan.stored_files:,} files"
    outcome.targets.append(Target(name, start.median, 2, unit="s", at_most=True))
    outcome.notes.append(
        "The start is measured from the start of the Gunicorn process, Python's imports included."
    )


def _list_pages(plan: Plan) -> dict[str, tuple[str, str]]:
    """Return what to list, by title: (query of a page whose `next` leads there, further query).

    The first query is empty for a listing that begins at the beginning.
    """
    count = plan.stored_files
    folder = f"f/{count // 2 // FOLDER_FILES:05d}/"
    middle, inside, end = (
        f"limit=1&prefix={name_of(number)[:-1]}"
        for number in (count // 2, count // 2 + FOLDER_FILES // 2, count - FOLDER_FILES // 2)
    )
    return {
        "start": ("", ""),
        "middle": (middle, ""),
        "end": (end, ""),
        "start of a prefix": ("", f"&prefix={folder}"),
        "middle of a prefix": (inside, f"&prefix={folder}"),
    }


def _time_pages(fetch: Fetch, plan: Plan) -> dict[str, list[float]]:
    """Return the milliseconds of each of many listings of each page."""
    timings: dict[str, list[float]] = {}
    for title, (before, further) in _list_pages(plan).items():
        after = f"&after={json.loads(fetch(f'/files?{before}'))['next']}" if before else ""
        path = f"/files?limit={PAGE_FILES}{after}{further}"
        found = len(json.loads(fetch(path))["files"])
        if found != PAGE_FILES:
            raise BenchError(f"GET {path}: {found} files")
        timings[title] = [_time(fetch, path) for _ in range(PAGE_REPEATS)]
    return timings


def _time(fetch: Fetch, path: str) -> float:
    started = time.perf_counter()
    fetch(path)
    return (time.perf_counter() - started) * 1000


def _measure_pages(config: Config, directory: Path, plan: Plan, outcome: Outcome) -> None:
    app = create_app(config)
    client = app.test_client()
    try:
        inside = _time_pages(lambda path: client.get(path).data, plan)
    finally:
        app.extensions["dfs"].close()
    with run_node(directory) as node, Client(node) as connection:
        outside = _time_pages(connection.fetch, plan)
        _measure_lists(node, connection.fetch, plan, outcome)
    rows: list[tuple[str, ...]] = []
    for title, values in inside.items():
        p50, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
        http50 = statistics.median(outside[title])
        http99 = statistics.quantiles(outside[title], n=100)[98]
        rows.append((title, f"{p50:.1f}", f"{p99:.1f}", f"{http50:.1f}", f"{http99:.1f}"))
        outcome.keep(f"page_{title}_p50_p99_ms", Series((p50, p99)))
        outcome.keep(f"page_{title}_http_p50_p99_ms", Series((http50, http99)))
    slowest = max(statistics.median(values) for values in inside.values())
    name = f"page of {PAGE_FILES} of {plan.stored_files:,} files, slowest place"
    outcome.targets.append(Target(name, slowest, 10, unit="ms", at_most=True, digits=1))
    header = ("where", "in process p50 ms", "p99 ms", "over HTTP p50 ms", "p99 ms")
    title = f"A page of {PAGE_FILES} of {plan.stored_files:,} files"
    outcome.tables.append(Table(title, header, rows))
    outcome.notes.append(
        f"Each page {PAGE_REPEATS} times. In process means Flask's test client, whose own cost is "
        "in the figure; the slowest place counts by its p50."
    )


def _measure_lists(node: Server, fetch: Fetch, plan: Plan, outcome: Outcome) -> None:
    """List many names in a row, as one client that walks from page to page."""
    span = LISTED_FILES * LISTED_PAGES
    starts = {"start": 0, "middle": (plan.stored_files - span) // 2}
    starts["end"] = plan.stored_files - span
    rates: dict[str, list[float]] = {where: [] for where in starts}
    with watch_use(node.process.pid) as use:
        for _ in range(plan.rounds):
            for where, start in starts.items():
                rates[where].append(_list_names(fetch, range(start, start + span, LISTED_FILES)))
    page_ms = 1e3 * use.cpu_s / (plan.rounds * len(starts) * LISTED_PAGES)
    outcome.keep("list_page_cpu_ms", Series((page_ms,)))
    series = {
        where: outcome.keep(f"list_{where}_names_per_s", Series(tuple(values)))
        for where, values in rates.items()
    }
    slowest = min(each.median for each in series.values())
    name = f"names a second, {LISTED_FILES:,} a page, of {plan.stored_files:,} files, slowest place"
    outcome.targets.append(Target(name, slowest, NAMES_PER_S_MIN, digits=0))
    rows: list[tuple[str, ...]] = [(where, each.format()) for where, each in series.items()]
    title = f"Listing {plan.stored_files:,} files over HTTP, one client"
    outcome.tables.append(Table(title, ("where", "names/s"), rows))
    outcome.notes.append(
        f"{LISTED_PAGES} pages of {LISTED_FILES:,} names one after the other, each whole before "
        f"the next is asked for; a page takes {page_ms:.1f} ms of the node's processor time. The "
        "client parses nothing meanwhile."
    )


def _list_names(fetch: Fetch, starts: range) -> float:
    """List pages that begin with these files. Returns names a second."""
    paths = [f"/files?limit={LISTED_FILES}&after={cursor_before(start)}" for start in starts]
    began = time.perf_counter()
    pages = [fetch(path) for path in paths]
    elapsed_s = time.perf_counter() - began
    for start, page in zip(starts, pages, strict=True):
        names = [file["name"] for file in json.loads(page)["files"]]
        if names != [name_of(number) for number in range(start, start + LISTED_FILES)]:
            raise BenchError(f"the page from {name_of(start)} on is not the right one")
    return len(paths) * LISTED_FILES / elapsed_s
