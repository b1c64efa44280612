"""The drill for the loss of the primary: its directories vanish while files are being written.

    python -m tests.project.disaster --operations 2000 --sync --directory /tmp/disaster

A real node with two replicas runs in a directory of its own. While clients upload, rename, delete
and read, `STORAGE_PATH`, `WAL_PATH` and the database are removed; its processes go on for a while,
then all of them are killed. The node is started again, restores itself from the replicas, and must
be what the clients were told:

- synchronous writes, acknowledged by two of three stores: every change that was acknowledged;
- asynchronous ones: every change up to the last record that a replica had when the processes ended,
  as a reader finds that shares no code with the node (`independent.py`), and nothing else. Files of
  which no replica had the bytes yet answer that they are lost, until somebody uploads them again.
  All of that was acknowledged within the lag that the node had reported, or after it had. For the
  replicas to lack something, the worker process is stopped some time before the loss.

With `--reborn` one web worker is killed after the loss, so that its successor restores the node
while the other one still serves: two lives side by side, and still nothing may be lost.

Then clients write again, what is owed is paid, and all three stores are compared. Prints a summary
in JSON. Exit status: 0 all is well, 1 it is not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import urllib3

from scripts.client import Client, StatusError
from tests.project.chaos_clients import Clients, Journal, Sent, wait_until
from torture.independent import (
    StoredLog,
    find_bad_files,
    find_differences,
    read_log,
)
from torture.node import WORKER, ChaosNode

REPLICAS = ("replica1", "replica2")
LOST = ("primary", "wal", "index")
PATIENCE_S = 60.0
ROUNDING_S = 0.01
"""Times in records are whole milliseconds."""
REFUSALS = 1
"""So many writes are refused after the loss before the processes, which end, too, are killed."""
LAG_OPERATIONS = 20
"""So many are acknowledged, asynchronously, after the replicas stopped to follow."""
REBORN_OPERATIONS = 20
"""So many are acknowledged in the new life while a process of the old one still runs."""
LATER_FILES = 12


@dataclass(frozen=True, slots=True)
class Options:
    """What a drill is like.

    Attributes:
        operations: at least so many are acknowledged before the loss.
        files_per_s: no more than so many; 0: as fast as it goes.
    """

    directory: Path
    operations: int = 150
    clients: int = 8
    seed: int = 1
    sync: bool = False
    reborn: bool = False
    files_per_s: float = 0.0
    segment_bytes: int = 256 << 10


@dataclass(slots=True)
class Summary:
    """What came of a drill. All is well if `faults` is empty and something was checked.

    Attributes:
        acknowledged: changes, before the processes were killed. lost: those of them that are gone.
        hollow: files that are there, but their bytes are not.
        kept_lsn: of the last record that a replica had at the end of the processes.
        lag_s: of the better replica, as the node said before the loss.
        later: changes acknowledged after the node was restored.
        asked: answers to the clients.
        faults: promises that were broken.
    """

    acknowledged: int = 0
    lost: int = 0
    hollow: int = 0
    kept_lsn: int = 0
    lag_s: float = 0.0
    later: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    def is_well(self) -> bool:
        """Return whether the node kept its promises."""
        return not self.faults and self.acknowledged > 0 and self.later > 0


class Drill:
    """One drill, from an empty directory to the verdict."""

    def __init__(self, options: Options) -> None:
        self.summary = Summary()
        self._options = options
        self._top = options.directory
        self._http = urllib3.PoolManager(retries=False, timeout=30)
        self._safe_until_s = 0.0  # what was answered before must be there, whatever is lost
        self._later: dict[str, Sent | None] = {}  # files made or changed after the restoring

    def run(self) -> Summary:
        """Do it all. Nothing is left running, whatever happens."""
        started_s = time.monotonic()
        node = ChaosNode(self._top, self._settings())
        try:
            clients = self._lose_primary(node)
            copy = max(map(self._read_copy, REPLICAS), key=lambda copy: copy.lsn)
            self._await_ready(node)
            self._judge(node, clients, copy)
            self._write_again(node)
            self._settle(node)
            self._note(any(node.stop().values()), "a process did not end with status 0")
            self._compare_stores(clients.journal)
        finally:
            node.kill_all()
            self._http.clear()
        self.summary.seconds = round(time.monotonic() - started_s, 1)
        return self.summary

    def _settings(self) -> dict[str, str]:
        return {
            "WEB_CONCURRENCY": "2",
            "DATABASE_URL": f"sqlite:///{self._top / 'index' / 'dfs.db'}",
            "STORAGE_PATH": str(self._top / "primary"),
            "WAL_PATH": str(self._top / "wal"),
            **{f"{name.upper()}_PATH": str(self._top / name) for name in REPLICAS},
            "DFS_RUN_PATH": str(self._top / "run"),
            "DFS_WAL_SEGMENT_BYTES": str(self._options.segment_bytes),
            "DFS_WAL_PREALLOCATE_BYTES": str(64 << 10),
            "DFS_REPLICATION": "sync" if self._options.sync else "async",
        }

    # The loss

    def _lose_primary(self, node: ChaosNode) -> Clients:
        """Let clients write until the primary is gone and the processes are killed."""
        options = self._options
        clients = self._make_clients(node, files=1 << 30, seed=options.seed)
        journal = clients.journal
        self._await_ready(node)
        clients.start()
        try:
            self._await_operations(journal, options.operations)
            if not options.sync:
                self._let_replicas_follow(node, max(each.lsn for each in journal.operations))
                node.freeze_outside(self._top / "wal" / "control", WORKER)  # the node's lock
                self._await_operations(journal, len(journal.operations) + LAG_OPERATIONS)
            for name in LOST:
                shutil.rmtree(self._top / name, ignore_errors=True)  # some may appear anew
            refused = _count_refusals(journal) + REFUSALS
            self._await(lambda: _count_refusals(journal) >= refused, "writes are refused")
            if options.reborn:
                os.kill(node.web_workers()[0], signal.SIGKILL)
                self._await_operations(journal, len(journal.operations) + REBORN_OPERATIONS)
        finally:
            node.kill_all()
            clients.stop()
        self.summary.acknowledged = len(journal.operations)
        self.summary.asked = dict(sorted(journal.counts.items()))
        self.summary.faults.extend(journal.faults)
        return clients

    def _make_clients(self, node: ChaosNode, *, files: int, seed: int) -> Clients:
        options = self._options
        return Clients(
            node.url,
            files=files,
            clients=options.clients,
            seed=seed,
            files_per_s=options.files_per_s,
            keep_alive=False,
        )

    def _await_operations(self, journal: Journal, count: int) -> None:
        self._await(lambda: len(journal.operations) >= count, f"{count} changes are made")

    def _await(self, is_true: Callable[[], bool], what: str) -> None:
        if not wait_until(is_true, timeout_s=PATIENCE_S, pause_s=0.02):
            raise RuntimeError(f"waited in vain until {what}")

    def _await_ready(self, node: ChaosNode) -> None:
        node.start_all()
        self._await(lambda: self._ask(node, "GET", "/ready") is not None, "the node is ready")

    def _ask(self, node: ChaosNode, method: str, path: str) -> Any:
        """Return what the node answers, or None for an error."""
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            answer = self._http.request(method, node.url + path)
            if answer.status in (200, 202):
                return answer.json()
        return None

    def _let_replicas_follow(self, node: ChaosNode, lsn: int) -> None:
        """Wait until a replica has the log up to `lsn`; note how far behind the better one is."""

        def has_followed() -> bool:
            asked_s = time.time()
            stores = self._ask(node, "GET", "/admin/replicas/status")["stores"]
            positions = {store["name"]: store["position"] for store in stores}
            self.summary.lag_s = min(
                store["oldest_debt_s"] or 0.0 for store in stores if positions[store["name"]]
            )
            self._safe_until_s = asked_s - self.summary.lag_s - ROUNDING_S
            return any(position and position["lsn"] >= lsn for position in positions.values())

        self._await(has_followed, f"a replica has LSN {lsn}")

    def _read_copy(self, name: str) -> StoredLog:
        return read_log(self._top / name / "segments", may_be_torn=True)

    # The verdict

    def _judge(self, node: ChaosNode, clients: Clients, copy: StoredLog) -> None:
        """Compare what the restored node serves with what it had acknowledged."""
        summary, journal = self.summary, clients.journal
        lost = [operation for operation in journal.operations if operation.lsn > copy.lsn]
        # Of deleted files, too: their bytes are owed as well, for as long as they may come back.
        every = replace(copy, files=copy.files | copy.deleted)
        hollow = set.intersection(
            *(
                {file_id for file_id, _ in find_bad_files(every, self._top / name)}
                for name in REPLICAS
            )
        )
        summary.kept_lsn, summary.lost, summary.hollow = copy.lsn, len(lost), len(hollow)
        lost += [operation for operation in journal.operations if operation.file_id in hollow]
        with contextlib.closing(Client(node.url, connections=1)) as client:
            served = {file["id"]: _described(file) for file in client.list_files("")}
            for file_id, sent in served.items():
                is_read = self._read_back(client, file_id, sent)
                self._note(is_read == (file_id in hollow), f"{file_id} ({sent.name}) is {is_read}")
            self._compare("the node", served, journal)
            if self._options.sync:
                self._note(bool(lost), f"acknowledged by the quorum, and lost: {lost}")
                return
            self._note(not lost, "the replicas lacked nothing: the drill shows nothing")
            early = [operation for operation in lost if operation.answered_s < self._safe_until_s]
            self._note(bool(early), f"lost, though older than the lag: {early}")
            self._note(served != _stored(copy), "the node does not serve what the replica had")
            for sha256 in {every.files[file_id].sha256 for file_id in hollow}:
                self._upload_again(client, clients.content(sha256))
            for file_id in hollow & served.keys():
                self._note(
                    not self._read_back(client, file_id, served[file_id]),
                    f"{file_id} is not whole, though its bytes were uploaded again",
                )

    def _read_back(self, client: Client, file_id: str, sent: Sent) -> bool:
        """Return whether a file can be read; what is read must be what was sent."""
        try:
            found = client.download(file_id)
        except StatusError as error:
            self._note(error.status != 500, f"{file_id} ({sent.name}): {error}")
            return False
        self._note(found != (sent.sha256, sent.size), f"{file_id} is read with other bytes")
        return True

    def _upload_again(self, client: Client, content: bytes) -> None:
        stored = client.upload([content], len(content), "again")
        self._later[stored.id] = Sent("again", stored.sha256, stored.size)

    def _compare(self, where: str, found: Mapping[str, Sent], journal: Journal) -> None:
        """Compare files with what the clients were told, up to the last record that was kept."""
        expected = journal.state_at(self.summary.kept_lsn)
        for file_id, sent in expected.items():
            if file_id in self._later:
                continue
            allowed = [sent, journal.doubts.get(file_id, sent)]
            file = found.get(file_id)
            self._note(file not in allowed, f"{where}: {file_id} is {file}, not {sent}")
        for file_id in found.keys() - expected.keys():
            file = found[file_id]
            is_known = file.sha256 in (
                journal.unanswered.get(file.name),
                journal.refused.get(file.name),
            )
            self._note(not is_known, f"{where}: nobody was told of {file_id}: {file}")

    # Going on

    def _write_again(self, node: ChaosNode) -> None:
        """Let clients write to the restored node, which refuses nothing."""
        clients = self._make_clients(node, files=LATER_FILES, seed=self._options.seed + 1)
        clients.start()
        self._await(lambda: not clients.is_running(), "the clients are through")
        clients.stop()
        journal = clients.journal
        self.summary.later = len(journal.operations)
        self.summary.faults.extend(journal.faults)
        self._note(bool(journal.doubts or journal.refused), "a restored node refuses writes")
        self._later.update(journal.state_at(sys.maxsize))

    def _settle(self, node: ChaosNode) -> None:
        """Wait until nothing is owed."""

        def is_settled() -> bool:
            answer = self._ask(node, "POST", "/admin/replicas/sync?wait=10")
            return answer is not None and bool(answer["done"])

        self._await(is_settled, "nothing is owed")
        self.summary.faults.extend(node.tracebacks())

    def _compare_stores(self, journal: Journal) -> None:
        """Compare what each store holds with what the clients were told, before and after."""
        log = read_log(self._top / "wal" / "segments", self._top / "wal" / "wal.active")
        for name in ("primary", *REPLICAS):
            copy = log if name == "primary" else read_log(self._top / name / "segments")
            faults = [] if copy is log else list(find_differences(log, copy))
            faults += [why for _, why in find_bad_files(copy, self._top / name)]
            stored = _stored(copy)
            for file_id, sent in self._later.items():
                found = stored.pop(file_id, None)
                if found != sent:
                    faults.append(f"{file_id} is {found}, not {sent}")
            self.summary.faults.extend(f"{name}: {fault}" for fault in faults)
            self._compare(name, stored, journal)

    def _note(self, is_fault: bool, what: str) -> None:
        if is_fault:
            self.summary.faults.append(what)


def _count_refusals(journal: Journal) -> int:
    """Return how many writes were answered with 503."""
    kinds = ("upload 503", "PATCH 503", "DELETE 503")
    return sum(journal.counts.get(kind, 0) for kind in kinds)


def _described(file: Mapping[str, Any]) -> Sent:
    """Return a file as a listing describes it."""
    return Sent(file["name"], file["sha256"], file["size"], file["metadata"])


def _stored(log: StoredLog) -> dict[str, Sent]:
    """Return id -> file, as a log tells of them."""
    return {
        file_id: Sent(file.name, file.sha256, file.size, file.metadata)
        for file_id, file in log.files.items()
    }


def run_drill(options: Options) -> Summary:
    """Run a drill in an empty directory. Returns what came of it."""
    options.directory.mkdir(parents=True, exist_ok=True)
    if any(options.directory.iterdir()):
        raise FileExistsError(f"{options.directory} is not empty")
    return Drill(options).run()


def parse_options(arguments: Sequence[str] | None) -> Options:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.project.disaster",
        description="Removes the primary while files are being written, then checks every store.",
    )
    parser.add_argument("--operations", type=int, default=2000, help="before the loss")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True, help="empty or not there")
    parser.add_argument("--sync", action="store_true", help="writes wait for two stores")
    parser.add_argument("--reborn", action="store_true", help="a web worker begins a new life")
    parser.add_argument("--files-per-s", type=float, default=0.0, help="at most; 0: no limit")
    given = vars(parser.parse_args(arguments))
    return Options(**{**given, "directory": given["directory"].absolute()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a drill and print what came of it. Returns the exit status."""
    summary = run_drill(parse_options(arguments))
    sys.stdout.write(json.dumps(asdict(summary), indent=2) + "\n")
    return 0 if summary.is_well() else 1


if __name__ == "__main__":
    sys.exit(main())
