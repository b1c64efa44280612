"""What must hold when a round is over: seen through the node, and in its files at rest.

The files are read by `independent`, which knows the documented formats and nothing of dfs.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import urllib3

from scripts.client import for_each
from torture.clients import check_download
from torture.independent import (
    FormatError,
    StoredLog,
    find_bad_files,
    find_differences,
    read_log,
)
from torture.ledger import NOTE, TOKEN, Entry, Ledger, State, state_of

THREADS = 6
GONE_CHECKED = 30
LOG_NAMES = ("wal.active", "wal.next", "control", "segments", "damaged", "restore")
STORE_NAMES = ("blobs", "segments", "damaged", "tmp", "dfs.json")


# Through the node


def compare_listing(files: Iterable[Mapping[str, Any]], ledger: Ledger) -> None:
    """Hold all that the node lists against the ledger, and settle what nobody was told."""
    listed = {file["id"]: file for file in files}
    for entry in ledger.entries.values():
        _compare_entry(entry, listed.get(entry.id), ledger)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for file in listed.values():
        if file["id"] not in ledger.entries:
            found.setdefault(str(file["metadata"].get(TOKEN)), []).append(file)
    for token, strangers in found.items():
        _adopt(token, strangers, ledger)
    for token in list(ledger.begun):
        ledger.refuse(token, "not there after a round")


def _compare_entry(entry: Entry, file: Mapping[str, Any] | None, ledger: Ledger) -> None:
    if file is None:
        if not any(state.is_deleted for state in entry.states):
            ledger.blame("lost", f"{entry.id} is not listed; it must be {entry.states}")
        entry.states = {state for state in entry.states if state.is_deleted} or entry.states
        return
    state = state_of(file)
    if state not in entry.states:
        is_back = all(known.is_deleted for known in entry.states)
        kind = "resurrected" if is_back else "corrupt"
        ledger.blame(kind, f"{entry.id} is listed as {state}; it must be {entry.states}")
    if (file["sha256"], file["size"]) != (entry.sha256, entry.size):
        ledger.blame("corrupt", f"{entry.id} is listed with other bytes: {file}")
    entry.states = {state}


def _adopt(token: str, files: Sequence[Mapping[str, Any]], ledger: Ledger) -> None:
    """Take files into the ledger whose upload had no answer; there may be no others."""
    begun = ledger.begun.get(token)
    told = sorted((file["name"], file["sha256"], file["size"]) for file in files)
    if begun is not None and told == sorted(begun.files):
        ledger.store(token, list(files), is_answer=False)
    elif begun is not None:
        ledger.blame("corrupt", f"a part of an upload is there: {told} of {begun.files}")
    elif token in ledger.absent:
        ledger.blame("resurrected", f"{told} is there: {ledger.absent[token]}")
    else:
        ledger.blame("unexplained", f"nobody uploaded {files}")


def check_downloads(url: str, ledger: Ledger, *, share: float, rng: random.Random) -> int:
    """Read what was touched since the last time, and a share of the rest. Returns how many."""
    with urllib3.PoolManager(maxsize=THREADS, retries=False, timeout=60) as http:
        live = [
            entry
            for entry in ledger.entries.values()
            if entry.state is not None
            and not entry.state.is_deleted
            and (entry.is_touched or rng.random() < share)
        ]

        def check(entry: Entry) -> None:
            check_download(http, url, entry, ledger, must_answer=True)
            entry.is_touched = False

        for_each(check, live, threading.Event(), threads=THREADS)
        gone = [e for e in ledger.entries.values() if e.state is not None and e.state.is_deleted]
        for entry in rng.sample(gone, min(GONE_CHECKED, len(gone))):
            status = http.request("GET", f"{url}/download/{entry.id}").status
            if status != 404:
                ledger.blame("resurrected", f"{entry.id} is deleted and answers {status}")
    return len(live)


# In the files


def has_followed(wal: Path, copies: Sequence[Path]) -> bool:
    """Tell whether some copies of the log are what it is; one that does not verify is, too."""
    try:
        log = read_log(wal / "segments", wal / "wal.active")
        return not any(any(find_differences(log, read_log(copy))) for copy in copies)
    except (FormatError, OSError):
        return True


def check_stores(
    wal: Path, stores: Mapping[str, Path], ledger: Ledger, *, is_late: bool
) -> StoredLog | None:
    """Read the log and all stores of a node that stands still.

    Args:
        stores: the primary and the replicas, by name.
        is_late: enough time has passed for all that is swept, removed or put aside.

    Returns:
        The log; None if it does not verify.
    """
    try:
        log = read_log(wal / "segments", wal / "wal.active")
    except (FormatError, OSError) as error:
        ledger.blame("corrupt", f"the log does not verify: {error}")
        return None
    _compare_log(log, ledger)
    for name, path in stores.items():
        try:
            copy = log if name == "primary" else read_log(path / "segments")
        except (FormatError, OSError) as error:
            ledger.blame("corrupt", f"{name}: the log does not verify: {error}")
            continue
        # Of deleted files, too: their bytes are owed for as long as they may come back.
        every = replace(copy, files=copy.files | copy.deleted)
        faults = [why for _, why in find_bad_files(every, path)]
        if copy is not log:
            faults += find_differences(log, copy)
        for fault in faults:
            ledger.blame("corrupt", f"{name}: {fault}")
        leaks = _find_leaks(path, log) if is_late else _find_strangers(path, STORE_NAMES)
        for leak in leaks:
            ledger.blame("unexplained", f"{name}: left behind: {leak}")
    for leak in _find_strangers(wal, LOG_NAMES):
        ledger.blame("unexplained", f"log: left behind: {leak}")
    return log


def _compare_log(log: StoredLog, ledger: Ledger) -> None:
    """The log tells of the same files as the node did."""
    told = {
        file_id: (State(file.name, str(file.metadata.get(NOTE, ""))), file.sha256, file.size)
        for file_id, file in log.files.items()
    }
    known = {
        entry.id: (entry.state, entry.sha256, entry.size)
        for entry in ledger.entries.values()
        if entry.state is None or not entry.state.is_deleted
    }
    for file_id in told.keys() | known.keys():
        if told.get(file_id) == known.get(file_id):
            continue
        kind = "lost" if file_id not in told else "corrupt"
        if file_id in ledger.entries and file_id not in known:
            kind = "resurrected"
        text = f"the log says that {file_id} is {told.get(file_id)}, not {known.get(file_id)}"
        ledger.blame(kind, text)


def _find_strangers(directory: Path, names: Sequence[str]) -> Iterator[str]:
    """Yield what lies in a directory that has no business there."""
    for path in sorted(directory.iterdir()):
        if path.name not in names and path.suffix not in (".lock", ".copying"):
            yield path.name


def _find_leaks(store: Path, log: StoredLog) -> Iterator[str]:
    """Yield what a store holds that nobody needs, and what it lacks."""
    yield from _find_strangers(store, STORE_NAMES)
    for place in ("tmp", "damaged"):
        yield from (f"{place}/{path.name}" for path in sorted((store / place).glob("*")))
    wanted = {digest.hex() for digest, blob in log.blobs.items() if blob.place is None}
    found = {path.name for path in (store / "blobs").rglob("*") if path.is_file()}
    yield from (f"orphan {name}" for name in sorted(found - wanted))
    yield from (f"missing {name}" for name in sorted(wanted - found))
