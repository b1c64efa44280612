"""dfs beside other stores: the same files up, down, listed and deleted, in alternating rounds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.errors import BenchError
from bench.load import Rate
from bench.machine import first_line
from bench.plan import MIB, Plan
from bench.reference import store_with_threads
from bench.repeated import CLIENTS, SIZE, Figures, Repeated
from bench.results import Outcome, Series, Table, Target, measure_rounds
from bench.servers import ROOT, THREADS, WORKERS
from bench.stores import PAGE_NAMES, TRACES, Kind, run_dfs
from bench.subject import Subject, write_back
from bench.swift import SWIFT
from bench.syncs import count_syncs
from bench.versitygw import VERSITYGW

RATIO_MIN = 5.0
_COPIES = f"{WORKERS} workers of {THREADS} threads, SQLite; two local replicas, worker and queue"


def _read_version() -> str:
    return first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")


DFS = Kind(
    name="dfs",
    title="dfs, three stores",
    version=_read_version,
    how=f"{_COPIES}; as it comes: the replicas follow asynchronously",
    durability="the log (4 KiB) or file, directory and log (large), of the primary",
    run=partial(run_dfs, quorum=False),
)
QUORUM = Kind(
    name="dfs_quorum",
    title="dfs, quorum of 2 of 3 stores",
    version=_read_version,
    how=f"{_COPIES}; DFS_REPLICATION=sync, DFS_WRITE_QUORUM=2",
    durability="the same, of two of the three stores; the third follows asynchronously",
    run=partial(run_dfs, quorum=True),
)
OWN = (DFS, QUORUM)
PEERS = (SWIFT, VERSITYGW)
PLAIN, PLAIN_TITLE = "plain", "plain files, one copy"
NOTES = (
    "All stores run at once and are loaded in turn. After each turn, outside of its time, dfs's "
    "worker copies what it owes (its processor time counts) and all that is in the page cache is "
    "written to the disk, so that no store pays for another. Swift's daemons of the background, "
    "which pay what it owes, are not run.",
    "Every upload is different and has a new name. Downloads come from the page cache. The deletes "
    f"are of files uploaded just before. A list is a page of {PAGE_NAMES:,} names with size and "
    "digest, out of all files there. CPU is that of all processes of a store for one operation; "
    "peak RSS is the sum over its processes, so pages that they share count once for each.",
    "Plain files are stored by as many threads as there are clients: create, write, fdatasync, "
    "rename, sync of the directory; nothing is received or hashed. With large files that is what "
    "the disk allows to one synced copy.",
    "No store authenticates the requests. dfs verifies a checksum of what it sends, Swift the MD5 "
    "of the whole at the end.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A load that all stores get.

    Attributes:
        name: of its figures.
        load: one round of it; called with the store and the arguments, of which the last is the
            number of clients.
        stored_bytes: of one file that it stores; 0: it stores none.
        mib: of one file, where the rate is shown as MiB a second; 0: operations a second.
        is_first: of its kind, so that all have a round for nothing before it.
    """

    name: str
    title: str
    load: Callable[..., Rate]
    arguments: tuple[int, ...] = ()
    stored_bytes: int = 0
    mib: int = 0
    is_first: bool = False


def measure_peers(plan: Plan) -> Outcome:
    """Rates of dfs and of every other store that is installed, syncs, and their ratios.

    Raises:
        BenchError: no other store is installed, with how to install each.
    """
    outcome = Outcome(
        notes=[
            f"Not installed: {kind.title} ({', '.join(kind.missing)}): `{kind.install}`."
            for kind in PEERS
            if kind.missing
        ]
    )
    if len(outcome.notes) == len(PEERS):
        raise BenchError("\n".join(outcome.notes))
    kinds = [*OWN, *(kind for kind in PEERS if not kind.missing)]
    outcome.tables.append(_describe(kinds, plan, outcome))
    small, large = _list_small_works(), _list_large_works(plan)
    with ExitStack() as stack:
        subjects = [stack.enter_context(_run(kind, plan)) for kind in kinds]
        directory = stack.enter_context(plan.scratch("plain"))
        contest = _Contest(kinds, subjects, directory, plan, outcome)
        rows = [row for work in small for row in contest.measure(work)]
        outcome.tables.append(Table("Small files", _header("operations/s"), rows))
        rows = [row for work in large for row in contest.measure(work)]
        outcome.tables.append(Table("Larger files", _header("MiB/s"), rows))
    outcome.notes += NOTES
    return outcome


def _list_small_works() -> list[Work]:
    works = [
        Work(
            name=f"{name}_4k_{clients}",
            title=_title(f"4 KiB {name}s", clients),
            load=load,
            arguments=(clients,),
            stored_bytes=stored_bytes,
            is_first=clients == CLIENTS[0],
        )
        for name, load, stored_bytes in (
            ("upload", Subject.upload, SIZE),
            ("download", Subject.download, 0),
        )
        for clients in CLIENTS
    ]
    title = _title(f"lists of {PAGE_NAMES:,} names", 1)
    works.append(Work(name="list_1000", title=title, load=Subject.list_page))
    title = _title("4 KiB deletes", 16)
    works.append(Work(name="delete_4k_16", title=title, load=Subject.delete, arguments=(16,)))
    return works


def _list_large_works(plan: Plan) -> list[Work]:
    return [
        Work(
            name=f"{name}_{size // MIB}m",
            title=_title(f"{size // MIB} MiB {name}s", clients),
            load=load,
            arguments=(size, clients),
            stored_bytes=size if name == "upload" else 0,
            mib=size // MIB,
        )
        for size, clients in ((MIB, 16), (plan.large_bytes, 1))
        for name, load in (
            ("upload", Subject.upload_large),
            ("download", Subject.download_large),
        )
    ]


def _title(what: str, clients: int) -> str:
    return f"{what}, {clients} client{'s'[: clients - 1]}"


@contextlib.contextmanager
def _run(kind: Kind, plan: Plan, *, trace: bool = False) -> Iterator[Subject]:
    with plan.scratch(kind.name) as directory, kind.run(directory, trace) as store:
        yield Subject(store, directory, plan.peer_seconds, plan.seconds / 3)


def _describe(kinds: Sequence[Kind], plan: Plan, outcome: Outcome) -> Table:
    """Return what each store is, how it is run, and what it has synced when it answers."""
    rows: list[tuple[str, ...]] = []
    for kind in kinds:
        syncs: list[str] = []
        with _run(kind, plan, trace=True) as subject:
            count = partial(_count_syncs, subject.directory)
            subject.count_syncs(1, count)
            for clients in CLIENTS:
                each = subject.count_syncs(clients, count)
                outcome.keep(f"{kind.name}_syncs_4k_{clients}", Series((each,)))
                syncs.append(f"{each:.2f}")
        rows.append((kind.title, kind.version(), kind.how, kind.durability, " / ".join(syncs)))
    numbers = " / ".join(map(str, CLIENTS))
    header = (
        *("store", "version", "how it is run", "on the disk when an upload is answered"),
        f"syncs a 4 KiB upload, by strace, {numbers} clients",
    )
    return Table("The stores", header, rows)


def _count_syncs(directory: Path) -> int:
    return sum(map(count_syncs, directory.glob(TRACES)))


@dataclass(frozen=True, slots=True)
class _Contest:
    """Stores that run side by side.

    Attributes:
        directory: for plain files, which no store has to do with.
    """

    kinds: Sequence[Kind]
    subjects: Sequence[Subject]
    directory: Path
    plan: Plan
    outcome: Outcome

    def measure(self, work: Work) -> list[tuple[str, ...]]:
        """Have all do the work in turn. Returns a row for each store, and one for plain files."""
        loads = [Repeated(partial(work.load, store, *work.arguments)) for store in self.subjects]
        measures: list[Callable[[], float]] = [*loads]
        names = [kind.name for kind in self.kinds]
        if work.stored_bytes:
            measures.append(partial(self._store_plainly, work))
            names.append(PLAIN)
        rounds = measure_rounds(self.plan.peer_rounds, measures, warm_up=work.is_first)
        rates = dict(zip(names, rounds, strict=True))
        rows: list[tuple[str, ...]] = []
        for kind, load in zip(self.kinds, loads, strict=True):
            figures = load.keep(f"{kind.name}_{work.name}", self.plan.peer_rounds, self.outcome)
            ratios = self._compare(work, kind.name, rates)
            rows.append((work.title, kind.title, *_format(figures, work), *ratios))
        if PLAIN in rates:
            rate = self.outcome.keep(f"{PLAIN}_{work.name}_per_s", rates[PLAIN])
            ratios = self._compare(work, PLAIN, rates)
            rows.append((work.title, PLAIN_TITLE, _format_rate(rate, work), *[""] * 4, *ratios))
        return rows

    def _store_plainly(self, work: Work) -> float:
        rate = store_with_threads(
            self.directory,
            size=work.stored_bytes,
            threads=work.arguments[-1],
            seconds=self.plan.seconds / 3,
        )
        write_back(self.directory)
        return rate

    def _compare(self, work: Work, name: str, rates: Mapping[str, Series]) -> list[str]:
        """Keep how many times its rate dfs reaches in either mode, and return it as cells."""
        if name in {own.name for own in OWN}:
            return [""] * len(OWN)
        cells: list[str] = []
        for own in OWN:
            ratio = rates[own.name].over(rates[name])
            self.outcome.keep(f"{own.name}_over_{name}_{work.name}", ratio)
            cells.append(ratio.format(2))
            if own is DFS and name == SWIFT.name:
                label = f"{work.title}, of Swift's"
                self.outcome.targets.append(Target(label, ratio.median, RATIO_MIN))
        return cells


def _format(figures: Figures, work: Work) -> tuple[str, ...]:
    return (
        _format_rate(figures.per_s, work),
        f"{figures.p50_ms.median:,.1f}",
        f"{figures.p99_ms.median:,.1f}",
        f"{figures.cpu_us.median / 1e3:,.2f}",
        f"{figures.rss_mib.median:,.0f}",
    )


def _format_rate(per_s: Series, work: Work) -> str:
    return Series(tuple(value * (work.mib or 1) for value in per_s.values)).format()


def _header(rate: str) -> tuple[str, ...]:
    return (
        *("what", "store", rate, "p50 ms", "p99 ms", "CPU ms", "peak RSS MiB"),
        *(f"{own.title} / it" for own in OWN),
    )
