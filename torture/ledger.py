"""What clients asked for and were told, kept outside of whatever the node may lose.

Of each file the ledger knows what it may be: one thing, if the last change of it was answered;
more, if one was not. What it turns out to be after that, it must stay.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

TOKEN, NOTE = "upload", "note"
"""Keys of the metadata by which a file is known again, and a change of it."""


@dataclass(frozen=True, slots=True)
class State:
    """What a file is."""

    name: str
    note: str
    is_deleted: bool = False


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload: of one file, or of several in one form.

    Attributes:
        files: (name, SHA-256 in hexadecimal, size) of each.
    """

    token: str
    files: tuple[tuple[str, str, int], ...]


@dataclass(slots=True)
class Entry:
    """A file that was acknowledged, or was found to be there.

    Attributes:
        states: what it may be now.
        deleted_s: when its deletion was acknowledged, on the monotonic clock.
        is_taken: some client is busy with it.
        is_touched: it was changed since the last check.
    """

    id: str
    token: str
    sha256: str
    size: int
    states: set[State]
    deleted_s: float = 0.0
    is_taken: bool = False
    is_touched: bool = True

    @property
    def state(self) -> State | None:
        """What it is for certain, or None."""
        return next(iter(self.states)) if len(self.states) == 1 else None


@dataclass(slots=True)
class Findings:
    """Promises that were broken, by kind."""

    lost: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)
    resurrected: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lost or self.corrupt or self.resurrected or self.unexplained)


class Ledger:
    """Shared by all clients of a torture.

    Args:
        path: of the file that keeps every line of it, for whoever looks for the cause of a finding.

    Attributes:
        entries: by id.
        begun: by token: uploads whose answer is not there, or did not say what became of them.
        absent: tokens of uploads that did not happen: they were refused, or not found afterwards.
        acknowledged: changes, by kind. answers: of all kinds, by what was asked and the status.
        doubtful: changes that were answered with an error which leaves open whether they happened,
            and did.
    """

    def __init__(self, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self.begun: dict[str, Begun] = {}
        self.absent: dict[str, str] = {}
        self.acknowledged: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.findings = Findings()
        self._lock = threading.Lock()
        self._file = path.open("a", buffering=1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write(self, event: str, **fields: Any) -> None:
        """Write a line."""
        line = json.dumps({"at": round(time.time(), 4), "event": event, **fields})
        with self._lock:
            self._file.write(f"{line}\n")

    def blame(self, kind: str, text: str) -> None:
        """Note a broken promise. `kind`: an attribute of Findings."""
        self.write("finding", kind=kind, text=text)
        with self._lock:
            getattr(self.findings, kind).append(text)

    def count_answer(self, what: str) -> None:
        """Count an answer."""
        with self._lock:
            self.answers[what] += 1

    def begin(self, upload: Begun) -> None:
        """Note an upload that is about to be sent."""
        self.write("begin", token=upload.token, files=upload.files)
        with self._lock:
            self.begun[upload.token] = upload

    def refuse(self, token: str, why: str) -> None:
        """Note that an upload did not happen, and must never be seen."""
        self.write("refused", token=token, why=why)
        with self._lock:
            del self.begun[token]
            self.absent[token] = why

    def store(self, token: str, files: list[Mapping[str, Any]], *, is_answer: bool = True) -> None:
        """Note files that are there: their upload was acknowledged, or they were found."""
        self.write("stored", token=token, ids=[file["id"] for file in files], answer=is_answer)
        with self._lock:
            self.begun.pop(token, None)
            self.acknowledged["upload"] += is_answer
            for file in files:
                self.entries[file["id"]] = Entry(
                    file["id"], token, file["sha256"], file["size"], {state_of(file)}
                )

    def change(self, entry: Entry, state: State, kind: str) -> None:
        """Note a change that was acknowledged."""
        self.write(kind, id=entry.id, state=str(state))
        with self._lock:
            self.acknowledged[kind] += 1
            entry.states = {state}
            entry.is_touched = True
            if state.is_deleted:
                entry.deleted_s = time.monotonic()

    def doubt(self, entry: Entry, state: State, why: str) -> None:
        """Note a change that may or may not have happened."""
        self.write("doubt", id=entry.id, state=str(state), why=why)
        with self._lock:
            entry.states = {*entry.states, state}
            entry.is_touched = True

    @contextmanager
    def take(self, rng: Random, *, is_deleted: bool) -> Iterator[tuple[Entry, State] | None]:
        """Take a file that is for certain in the trash, or not, from all other clients; or None."""
        chosen: Entry | None = None
        state: State | None = None
        with self._lock:
            keys = list(self.entries)
            for _ in range(20):
                if not keys:
                    break
                entry = self.entries[rng.choice(keys)]
                state = entry.state
                if state and state.is_deleted == is_deleted and not entry.is_taken:
                    chosen = entry
                    chosen.is_taken = True
                    break
        try:
            yield (chosen, state) if chosen is not None and state is not None else None
        finally:
            if chosen is not None:
                chosen.is_taken = False


def state_of(file: Mapping[str, Any]) -> State:
    """Return what a file is that the node describes."""
    note = str(file["metadata"].get(NOTE, ""))
    return State(file["name"], note, is_deleted=file["deleted_at"] is not None)
