"""The drill for replication: files go up while everything fails that may fail.

    python -m tests.project.replica_chaos --files 20000 --clients 8 --seed 1 --directory /tmp/drill

A real node with two replicas runs in a directory of its own. While clients upload, rename, delete
and read, its processes are killed, its queue is emptied, and its replicas are taken away, filled,
made read-only, emptied and spoiled, and now and then a blob file of the primary, too; never the
last whole copy of anything. Then all of that ends, the node gets time to pay what it owes, and a
reader that shares no code with it (`independent.py`) compares what the stores hold with what the
clients were told. Prints a summary in JSON. Exit status: 0 all is well, 1 it is not.

As root, `replica1` is a file system in memory, so that it can be full, read-only and unmounted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import urllib3

from tests.mounts import can_mount
from tests.project.chaos_clients import Clients, Journal, wait_until
from tests.project.chaos_faults import Chaos
from tests.project.chaos_stores import Bucket, Directory, OwnDisk, Victim
from tests.s3 import S3Server, running_s3
from torture.independent import (
    FormatError,
    StoredFile,
    StoredLog,
    find_bad_files,
    find_differences,
    read_log,
)
from torture.node import ChaosNode

FILE_BYTES_MEAN = 130_000
SCRUBS_AFTER = 2
"""The second scrub that ends after the last fault has begun after it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a drill is like.

    Attributes:
        pause_s: from one fault to the next, on average.
        settle_s: so long the node may take in the end to pay what it owes.
        files_per_s: no more than so many; 0: as fast as it goes.
    """

    files: int
    directory: Path
    clients: int = 8
    seed: int = 1
    s3: bool = False
    sync: bool = False
    pause_s: float = 1.0
    settle_s: float = 900.0
    files_per_s: float = 0.0
    segment_bytes: int = 4 << 20


@dataclass(slots=True)
class Summary:
    """What came of a drill. All is well if the lists are empty and the node settled.

    Attributes:
        faults: how often each happened.
        lost, corrupt, resurrected, unexpected: what the stores hold against what was said.
        broken: other promises.
        asked: answers of the node to the clients.
        refused_but_there: uploads that were answered with an error and are there nevertheless.
    """

    files: int = 0
    deleted: int = 0
    bytes: int = 0
    unanswered: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    settled: bool = False
    repair_status: int = -1
    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    resurrected: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    refused_but_there: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    tracebacks: list[str] = field(default_factory=list)

    def is_well(self) -> bool:
        """Return whether the node kept its promises."""
        return (
            self.settled
            and self.repair_status == 0
            and not (self.lost or self.corrupt or self.resurrected or self.unexpected)
            and not (self.refused_but_there or self.broken or self.tracebacks)
        )


class Drill:
    """One drill, from an empty directory to the verdict."""

    def __init__(self, options: Options) -> None:
        self.summary = Summary()
        self._options = options
        self._top = options.directory
        self._primary = self._top / "primary"
        self._wal = self._top / "wal"
        self._http = urllib3.PoolManager(retries=False, timeout=120)

    def run(self) -> Summary:
        """Do it all. Nothing is left running or mounted, whatever happens."""
        with contextlib.ExitStack() as stack:
            replicas, settings = self._make_replicas(stack)
            node = ChaosNode(self._top, {**self._settings(), **settings})
            stack.callback(node.kill_all)
            clients = self._upload(node, replicas)
            with self._measured("settle"):
                self._settle(node)
            self.summary.restarts = dict(node.restarts)
            self._compare_listing(clients)
            clients.stop()
            with self._measured("repair_script"):
                self._run_repair(node)
            self._note(any(node.stop().values()), "a process did not end with status 0")
            self.summary.tracebacks = node.tracebacks()
            with self._measured("check"):
                self._check(clients.journal, replicas)
        return self.summary

    def _settings(self) -> dict[str, str]:
        options = self._options
        return {
            "WEB_CONCURRENCY": "2",
            "DATABASE_URL": f"sqlite:///{self._top / 'dfs.db'}",
            "STORAGE_PATH": str(self._primary),
            "WAL_PATH": str(self._wal),
            "DFS_RUN_PATH": str(self._top / "run"),
            "DFS_WAL_SEGMENT_BYTES": str(options.segment_bytes),
            "DFS_WAL_PREALLOCATE_BYTES": str(min(1 << 20, options.segment_bytes)),
            "DFS_REPLICATION": "sync" if options.sync else "async",
            "DFS_SCRUB_BYTES_PER_S": str(256 << 20),
            "DFS_SCRUB_INTERVAL_S": "5",
            "DFS_REPLICA_TIMEOUT_S": "5",
        }

    def _make_replicas(self, stack: contextlib.ExitStack) -> tuple[list[Victim], dict[str, str]]:
        """Return the replicas, and the settings that name them."""
        first: Victim
        path = self._top / "replica1"
        if can_mount(self._top):
            size_bytes = self._options.files * FILE_BYTES_MEAN * 3 // 2 + (256 << 20)
            disk = self._top / "disk1"
            first = own = OwnDisk("replica1", path, disk=disk, size_bytes=size_bytes)
            stack.callback(own.close)
        else:
            first = Directory("replica1", path, is_replica=True)
        settings = {"REPLICA1_PATH": str(path)}
        if self._options.s3:
            server, pid = stack.enter_context(running_s3_process())
            second = Bucket("replica2", server, server_pid=pid)
            return [first, second], {**settings, **second.settings(), "REPLICA2_PATH": second.url}
        path = self._top / "replica2"
        settings["REPLICA2_PATH"] = str(path)
        return [first, Directory("replica2", path, is_replica=True)], settings

    # While it happens

    def _upload(self, node: ChaosNode, replicas: Sequence[Victim]) -> Clients:
        """Let the clients work, and what may fail fail, until both are through."""
        options = self._options
        rng = random.Random(options.seed)
        primary = Directory("primary", self._primary, is_replica=False)
        clients = Clients(
            node.url,
            files=options.files,
            clients=options.clients,
            seed=options.seed,
            files_per_s=options.files_per_s,
        )
        chaos = Chaos(node, primary, replicas, wanted=clients.journal.digests, rng=rng)
        node.start_all()
        try:
            self._await_ready(node)
            with self._measured("upload"):
                clients.start()
                deadline_s = time.monotonic() + options.settle_s
                while clients.is_running() or not chaos.is_through():
                    time.sleep(options.pause_s * rng.uniform(0.5, 1.5))
                    chaos.strike()
                    if not clients.is_running() and time.monotonic() > deadline_s:
                        self._note(True, f"could not happen: {chaos.missing()}")
                        break
        except BaseException:
            clients.stop()
            raise
        finally:
            chaos.end_all()
        self.summary.faults = dict(sorted(chaos.counts.items()))
        return clients

    def _await_ready(self, node: ChaosNode) -> None:
        if not wait_until(lambda: self._ask(node, "GET", "/ready") is not None, timeout_s=60):
            raise RuntimeError("the node did not get ready")

    def _ask(self, node: ChaosNode, method: str, path: str) -> Any:
        """Return what the node answers, or None for an error."""
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            answer = self._http.request(method, node.url + path)
            if answer.status in (200, 202):
                return answer.json()
        return None

    # Afterwards

    def _settle(self, node: ChaosNode) -> None:
        """Wait until nothing is owed, and every store was read through since the last fault."""
        self._await_ready(node)
        scrubs: dict[str, list[str]] = {}

        def is_settled() -> bool:
            node.look_after()
            self._ask(node, "POST", "/admin/replicas/sync?wait=5")
            status = self._ask(node, "GET", "/admin/replicas/status")
            if status is None:
                return False
            for store in status["stores"]:
                ends = scrubs.setdefault(store["name"], [])
                end = store["scrub"]["last_finished_at"]
                if end is not None and end not in ends:
                    ends.append(end)
            return all(
                _owes_nothing(store)
                and store["scrub"]["last_damaged"] == 0
                and len(scrubs[store["name"]]) > SCRUBS_AFTER
                for store in status["stores"]
            )

        self.summary.settled = wait_until(is_settled, timeout_s=self._options.settle_s)
        if not self.summary.settled:
            self.summary.broken.append(str(self._ask(node, "GET", "/admin/replicas/status")))

    def _compare_listing(self, clients: Clients) -> None:
        listed = clients.list_ids()
        for file_id, sent in clients.journal.live.items():
            if listed.get(file_id) != sent.name:
                self._note(True, f"{file_id} ({sent.name}) is listed as {listed.get(file_id)}")
        for file_id in clients.journal.deleted:
            self._note(file_id in listed, f"{file_id} was deleted and is listed")

    def _run_repair(self, node: ChaosNode) -> None:
        status, printed = node.run_script(
            "scripts.repair_replicas", "--json", timeout_s=self._options.settle_s
        )
        self.summary.repair_status = status
        self._note(status != 0, f"repair_replicas: {printed[:4000]}")

    def _check(self, journal: Journal, replicas: Sequence[Victim]) -> None:
        """Compare what the stores hold with what the clients were told."""
        summary = self.summary
        summary.files, summary.deleted = len(journal.live), len(journal.deleted)
        summary.bytes = sum(sent.size for sent in journal.live.values())
        summary.unanswered = len(journal.unanswered)
        summary.asked = dict(sorted(journal.counts.items()))
        summary.broken.extend(journal.faults)
        log = read_log(self._wal / "segments", self._wal / "wal.active")
        self._compare("primary", self._primary, log, journal)
        for store in replicas:
            path = self._top / store.name
            try:
                if isinstance(store, Bucket):
                    store.download(path)
                copy = read_log(path / "segments")
            except (FormatError, OSError) as error:
                summary.corrupt.append(f"{store.name}: {error}")
                continue
            self._compare(store.name, path, copy, journal)
            summary.corrupt.extend(f"{store.name}: {what}" for what in find_differences(log, copy))

    def _compare(self, name: str, path: Path, log: StoredLog, journal: Journal) -> None:
        summary = self.summary
        for file_id, sent in journal.live.items():
            file = log.files.get(file_id)
            if file is None:
                summary.lost.append(f"{name}: {file_id} ({sent.name})")
            elif (file.name, file.sha256, file.size) != (sent.name, sent.sha256, sent.size):
                summary.corrupt.append(f"{name}: {file_id} is {file}, not {sent}")
        for file_id, file in log.files.items():
            if file_id in journal.deleted:
                summary.resurrected.append(f"{name}: {file_id} ({file.name})")
            elif file_id not in journal.live:
                self._note_other(name, file, journal)
        summary.corrupt.extend(f"{name}: {why}" for _, why in find_bad_files(log, path))

    def _note_other(self, name: str, file: StoredFile, journal: Journal) -> None:
        """Note a file that nobody was told is there."""
        if journal.unanswered.get(file.name) == file.sha256:
            return
        is_refused = journal.refused.get(file.name) == file.sha256
        found = self.summary.refused_but_there if is_refused else self.summary.unexpected
        found.append(f"{name}: {file.name}")

    def _note(self, is_so: bool, what: str) -> None:
        if is_so:
            self.summary.broken.append(what)

    @contextlib.contextmanager
    def _measured(self, phase: str) -> Iterator[None]:
        started_s = time.monotonic()
        sys.stderr.write(f"{phase} ...\n")
        try:
            yield
        finally:
            self.summary.seconds[phase] = round(time.monotonic() - started_s, 1)


def _owes_nothing(store: Mapping[str, Any]) -> bool:
    """Tell whether the status of a store says that all is paid."""
    counts = [debt["count"] for debt in store["debts"].values()]
    return store["reachable"] and not any(counts) and not store["lag_records"]


@contextlib.contextmanager
def running_s3_process() -> Iterator[tuple[S3Server, int]]:
    """Yield an S3 server of our own and the id of its process."""
    before = _children()
    with running_s3() as server:
        (pid,) = _children() - before
        try:
            yield server, pid
        finally:
            os.kill(pid, signal.SIGCONT)


def _children() -> set[int]:
    pid = os.getpid()
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return {int(child) for child in found.split()}


def run_drill(options: Options) -> Summary:
    """Run a drill in an empty directory. Returns what came of it."""
    options.directory.mkdir(parents=True, exist_ok=True)
    if any(options.directory.iterdir()):
        raise FileExistsError(f"{options.directory} is not empty")
    return Drill(options).run()


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.project.replica_chaos",
        description="Uploads files while everything fails that may fail, then checks every store.",
    )
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True, help="empty or not there")
    parser.add_argument("--s3", action="store_true", help="replica2 is a bucket")
    parser.add_argument("--sync", action="store_true", help="writes wait for two stores")
    parser.add_argument("--pause-s", type=float, default=1.0, help="between faults, on average")
    parser.add_argument("--settle-s", type=float, default=900.0, help="to pay debts in the end")
    parser.add_argument("--files-per-s", type=float, default=0.0, help="at most; 0: no limit")
    given = vars(parser.parse_args(arguments))
    return Options(**{**given, "directory": given["directory"].absolute()})


def end_in_order(signal_number: int, frame: FrameType | None) -> None:
    """Let SIGTERM end the drill as Ctrl-C does: with nothing left behind."""
    raise SystemExit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a drill and print what came of it. Returns the exit status."""
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, end_in_order)
    summary = run_drill(options)
    sys.stdout.write(json.dumps(asdict(summary), indent=2) + "\n")
    return 0 if summary.is_well() else 1


if __name__ == "__main__":
    sys.exit(main())
