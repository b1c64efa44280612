"""One life of a node in a torture: some rounds of load and faults, each followed by the checks."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from scripts.client import Client
from tests.hostile.fuzz import fuzz
from torture.checks import (
    check_downloads,
    check_stores,
    compare_listing,
    has_followed,
)
from torture.clients import Clients
from torture.disk import Disk
from torture.faults import Faults
from torture.ledger import Ledger
from torture.node import ROOT, WEB, ChaosNode
from torture.postgres import PostgresServer

READY_S_MAX = 90.0
SETTLED_S_MAX = 120.0
STARTS_MAX = 3
"""So often in a row the node may end by itself before it counts as one that does not start."""
WORK_S_MAX = 6.0
WORKED_MIN = 8
"""So many changes are acknowledged before a fault that waits for work."""
ABRUPT_SHARE = 0.4
PATIENT_SHARE = 0.7
"""Of the faults: so many wait until the node works again. The others hit it while it recovers."""
GRACE_S = 8
LATER_S = 30 * 3600
"""Longer than anything that a node puts off, and than the clock was ever ahead of that."""
FUZZ_ROUNDS = 1000
REST_TRIES = 4
LATE_SCRUBS = 3
SCRUBS_AFTER = 2
STORES = ("primary", "replica1", "replica2")


@dataclass(frozen=True, slots=True)
class Options:
    """What a torture is like.

    Attributes:
        directory: of this life; empty.
        load_s: how long each round has load.
        faults: in each round.
        kinds: names of what may happen; empty: everything.
        plant: a bug to be planted, see `plants`; empty: none.
        is_late: in the end, check that nothing is left behind when hours have passed, and send
            damaged requests.
    """

    directory: Path
    rounds: int
    seed: int = 1
    sync: bool = False
    postgres: bool = False
    load_s: float = 5.0
    faults: int = 5
    clients: int = 6
    web_workers: int = 2
    operations_per_s: float = 60.0
    kinds: tuple[str, ...] = ()
    plant: str = ""
    is_late: bool = True


@dataclass(slots=True)
class Tally:
    """Figures of a life."""

    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    files: int = 0
    downloads: int = 0
    seconds: dict[str, float] = field(default_factory=dict)


class Life:
    """A node from its first start to its last check.

    Args:
        ledger: empty.
    """

    def __init__(self, options: Options, ledger: Ledger) -> None:
        self.tally = Tally()
        self._options = options
        self._ledger = ledger
        self._rng = random.Random(f"{options.seed}/faults")
        self._top = options.directory
        self._stack = ExitStack()
        self._http = urllib3.PoolManager(retries=False, timeout=90)
        self._top.chmod(0o755)  # a database may run as another user
        self._disk = Disk(self._top, journaled=("index",))
        self._stack.callback(self._disk.close)
        self._database = self._make_database() if options.postgres else None
        self._node = ChaosNode(self._top, self._settings())
        self._stack.callback(self._node.kill_all)
        parts = ("wal", *STORES, *(() if options.postgres else ("index",)))
        self._faults = Faults(
            self._node,
            self._disk,
            self._database,
            ledger,
            kinds=options.kinds,
            parts=[self._disk.path / name for name in parts],
            rng=self._rng,
        )

    def _make_database(self) -> PostgresServer:
        directory = self._disk.path / "index"
        directory.mkdir()
        server = PostgresServer(
            directory,
            settings=("checkpoint_timeout=30", "max_wal_size=64MB", "min_wal_size=32MB"),
            environ=self._disk.environ(),
        )
        self._stack.callback(server.kill)
        server.start()
        server.execute("CREATE DATABASE dfs ENCODING 'UTF8' TEMPLATE template0")
        server.execute("CHECKPOINT")
        return server

    def _settings(self) -> dict[str, str]:
        disk = self._disk.path
        url = f"sqlite:///{disk / 'index' / 'dfs.db'}"
        plant = {}
        if self._options.plant:
            python_path = f"{ROOT / 'torture' / 'preload'}:{ROOT}"
            plant = {"DFS_TORTURE_PLANT": self._options.plant, "PYTHONPATH": python_path}
        return {
            **self._disk.environ(),
            **plant,
            "WEB_CONCURRENCY": str(self._options.web_workers),
            "DFS_THREADS": "8",
            "DATABASE_URL": url if self._database is None else self._database.url("dfs"),
            "STORAGE_PATH": str(disk / "primary"),
            "WAL_PATH": str(disk / "wal"),
            **{f"{name.upper()}_PATH": str(disk / name) for name in STORES[1:]},
            "DFS_RUN_PATH": str(self._top / "run"),
            "DFS_WAL_SEGMENT_BYTES": str(1 << 20),
            "DFS_WAL_PREALLOCATE_BYTES": str(64 << 10),
            "DFS_COMPACT_DEAD_RATIO": "0.3",
            "DFS_REPLICATION": "sync" if self._options.sync else "async",
            "DFS_QUORUM_TIMEOUT_S": "3",
            "DFS_REPLICA_TIMEOUT_S": "5",
            "DFS_DELETE_GRACE_S": str(GRACE_S),
            "DFS_SCRUB_BYTES_PER_S": str(256 << 20),
            "DFS_SCRUB_INTERVAL_S": "2",
            "DFS_TMP_AGE_S": "60",
        }

    def run(self) -> Tally:
        """Do all rounds. Stops at the first that breaks a promise. Leaves nothing running."""
        with self._stack:
            for number in range(self._options.rounds):
                self._run_round(number)
                if self._ledger.findings:
                    return self.tally
            if self._options.is_late:
                self._run_late()
                self._run_fuzz()
        self._http.clear()
        return self.tally

    def _run_round(self, number: int) -> None:
        self._ledger.write("round", number=number)
        self._faults.begin()
        self._node.start_all()
        self._await_ready()
        with self._measured("load"):
            self._load(number)
        if self._ledger.findings:
            return
        self._await_ready()
        self._check(share=1.0 if number + 1 == self._options.rounds else 0.2)
        self.tally.rounds += 1

    def _load(self, number: int) -> None:
        """Let clients work while faults happen, until both are through."""
        options = self._options
        clients = Clients(
            self._node.url,
            self._ledger,
            label=f"{options.seed}-{number}",
            seed=options.seed,
            clients=options.clients,
            operations_per_s=options.operations_per_s,
            other_mode="async" if options.sync else "sync",
            grace_s=lambda: None if self._faults.is_shifted else GRACE_S - 1.0,
        )
        clients.start()
        try:
            pause_s = options.load_s / (options.faults + 1)
            for _ in range(options.faults):
                if self._rng.random() < PATIENT_SHARE:
                    self._await_work()
                time.sleep(pause_s * self._rng.uniform(0.3, 1.7))
                self._faults.strike()
            if self._rng.random() < ABRUPT_SHARE:
                clients.stop()  # what the last fault has left behind is not written over
            time.sleep(pause_s)
            self._faults.end()
            time.sleep(pause_s)
        finally:
            clients.stop()
        self.tally.faults = self._faults.counts
        self.tally.hits = self._faults.hits

    # Waiting for the node

    def _ask(self, method: str, path: str) -> Any:
        """Return what the node answers, or None for an error."""
        with suppress(urllib3.exceptions.HTTPError, ValueError):
            answer = self._http.request(method, self._node.url + path)
            if answer.status in (200, 202):
                return answer.json()
        return None

    def _await_ready(self) -> None:
        deadline_s = time.monotonic() + READY_S_MAX
        ended = self._node.restarts.get(WEB, 0) + STARTS_MAX
        while self._ask("GET", "/ready") is None:
            self._node.look_after()
            if time.monotonic() > deadline_s or self._node.restarts.get(WEB, 0) >= ended:
                self._ledger.blame("unexplained", f"not ready: {self._why_not_ready()}")
                raise UnusableError
            time.sleep(0.1)

    def _await_work(self) -> None:
        """Wait until the node works again after a fault, but not for long: it may be for good."""
        deadline_s = time.monotonic() + WORK_S_MAX
        wanted = self._ledger.acknowledged.total() + WORKED_MIN
        while self._ledger.acknowledged.total() < wanted and time.monotonic() < deadline_s:
            time.sleep(0.02)

    def _why_not_ready(self) -> str:
        with suppress(urllib3.exceptions.HTTPError):
            return str(self._http.request("GET", f"{self._node.url}/ready").data[:1000])
        return self._node.refusal()

    def _settle(self) -> None:
        """Wait until the replicas have caught up."""
        deadline_s = time.monotonic() + SETTLED_S_MAX
        while True:
            answer = self._ask("POST", "/admin/replicas/sync?wait=10")
            if answer is not None and answer["done"]:
                return
            if time.monotonic() > deadline_s:
                status = self._ask("GET", "/admin/replicas/status")
                self._ledger.blame("unexplained", f"the replicas do not catch up: {status}")
                raise UnusableError

    # The checks

    def _check(self, *, share: float, is_late: bool = False) -> None:
        """Check all that must hold, first through the node, then with the node at rest."""
        with self._measured("check"):
            with closing(Client(self._node.url, connections=1)) as client:
                compare_listing(client.list_files(""), self._ledger)
            self.tally.downloads += check_downloads(
                self._node.url, self._ledger, share=share, rng=self._rng
            )
        if self._ledger.findings:
            return
        with self._measured("settle"):
            self._settle()
        with self._measured("stop"):
            self._come_to_rest()
        with self._measured("read"):
            stores = {name: self._disk.path / name for name in STORES}
            log = check_stores(self._disk.path / "wal", stores, self._ledger, is_late=is_late)
            self.tally.files = len(log.files) if log is not None else 0
        with self._measured("rebuild"):
            self._check_index()
        self._check_output()

    def _come_to_rest(self) -> None:
        """Stop the node when the replicas have all of the log.

        Its own jobs may add to it between the moment when nothing was owed and the end; then it is
        started again, to pay that.
        """
        copies = [self._disk.path / name / "segments" for name in STORES[1:]]
        for _ in range(REST_TRIES):
            self._stop()
            if has_followed(self._disk.path / "wal", copies):
                return
            self._node.start_all()
            self._await_ready()
            self._settle()
        self._node.stop()

    def _check_index(self) -> None:
        """Compare the index with one that is rebuilt from the log."""
        scratch = self._top / "scratch"
        scratch.mkdir()
        new = nullcontext(f"sqlite:///{scratch / 'index' / 'dfs.db'}")
        environ = {
            name: value for name, value in self._node.environ.items() if name != "LD_PRELOAD"
        }
        with self._database.new_database() if self._database else new as url:
            done = subprocess.run(
                [sys.executable, "-m", "torture.rebuild", str(scratch), url],
                cwd=self._top,
                env=environ,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        shutil.rmtree(scratch)
        if done.returncode:
            text = done.stdout[:2000] or done.stderr[-2000:]
            self._ledger.blame("corrupt", f"the index is not what the log says: {text}")

    def _run_late(self) -> None:
        """See what is left behind when hours have passed, and hours again.

        What a scrub puts aside, a later one removes.
        """
        self._ledger.write("late")
        with self._measured("late"):
            self._disk.shift_clock(LATER_S)
            self._node.start_all()
            self._await_ready()
            for number in range(1, LATE_SCRUBS + 1):
                self._disk.shift_clock(number * LATER_S)
                self._await_scrubs()
                self._settle()
        self._check(share=1.0, is_late=True)

    def _run_fuzz(self) -> None:
        """Send damaged requests, last of all, since what they store is in nobody's ledger."""
        self._ledger.write("fuzz")
        self._node.start_all()
        self._await_ready()
        with self._measured("fuzz"):
            report = fuzz("127.0.0.1", self._node.port, self._options.seed, FUZZ_ROUNDS)
        for fault in report.faults:
            self._ledger.blame("unexplained", f"fuzz: {fault}")
        self._await_ready()
        self._stop()
        self._check_output()

    def _stop(self) -> None:
        for name, status in self._node.stop().items():
            if status:
                self._ledger.blame("unexplained", f"{name} ended with status {status}")

    def _check_output(self) -> None:
        for line in self._node.tracebacks():
            self._ledger.blame("unexplained", f"traceback: {line}")

    def _await_scrubs(self) -> None:
        """Wait until a scrub of each store has begun and ended."""
        seen: dict[str, set[str]] = {name: set() for name in STORES}
        deadline_s = time.monotonic() + SETTLED_S_MAX
        while time.monotonic() < deadline_s:
            status = self._ask("GET", "/admin/replicas/status")
            for store in status["stores"] if status else ():
                # The first that ends may have begun before; and until then an old end is shown.
                seen[store["name"]].add(str(store["scrub"]["last_finished_at"]))
            if all(len(ends) > SCRUBS_AFTER for ends in seen.values()):
                return
            time.sleep(0.2)
        self._ledger.blame("unexplained", f"the scrub does not come around: {seen}")
        raise UnusableError

    @contextmanager
    def _measured(self, phase: str) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            yield
        finally:
            known_s = self.tally.seconds.get(phase, 0.0)
            self.tally.seconds[phase] = known_s + time.monotonic() - started_s


class UnusableError(Exception):
    """The node does not come back, or does not do its work: noted as a finding."""
