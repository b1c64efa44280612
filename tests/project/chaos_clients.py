"""Clients that upload, rename, delete and read while a node is mistreated, and remember it all."""

from __future__ import annotations

import hashlib
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import urllib3

from scripts.client import Client, StatusError, WrongAnswerError, for_each

SMALL_BYTES_MAX = 64 << 10
MIDDLE_BYTES_MAX = 1 << 20
LARGE_BYTES_MAX = 20 << 20
PIECE_BYTES = 256 << 10
PAUSE_S = 0.2
"""Before a client asks again."""
DELETED_SHARE, RENAMED_SHARE, READ_SHARE = 0.12, 0.10, 0.15


@dataclass(frozen=True, slots=True)
class Sent:
    """A file as its client knows it."""

    name: str
    sha256: str
    size: int
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Operation:
    """A change that was acknowledged.

    Attributes:
        lsn: of its last record.
        sent: what the file is since then; None: it is deleted.
        answered_s: when the answer was there, in seconds since the epoch.
    """

    lsn: int
    file_id: str
    sent: Sent | None
    answered_s: float


@dataclass(slots=True)
class Journal:
    """What the node was asked, and what it said.

    Attributes:
        live: by id, acknowledged and not deleted. taken: those that a client is busy with.
        deleted: by id, and that was acknowledged, too.
        unanswered: name -> SHA-256 of uploads that brought no answer: they may be there.
        refused: name -> SHA-256 of uploads that were answered with an error.
        operations: acknowledged, in no order.
        doubts: id -> what a change would have made of the file that was never acknowledged.
        faults: what no node may do.
        counts: of answers, by kind.
    """

    live: dict[str, Sent] = field(default_factory=dict)
    taken: dict[str, Sent] = field(default_factory=dict)
    deleted: dict[str, Sent] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    doubts: dict[str, Sent | None] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str) -> None:
        """Count one answer."""
        with self.lock:
            self.counts[kind] = self.counts.get(kind, 0) + 1

    def digests(self) -> set[str]:
        """Return the SHA-256 of all files that must be there."""
        with self.lock:
            return {sent.sha256 for sent in (*self.live.values(), *self.taken.values())}

    def acknowledge(self, lsn: int, file_id: str, sent: Sent | None) -> None:
        """Note a change that the node says is durable."""
        with self.lock:
            self.operations.append(Operation(lsn, file_id, sent, time.time()))

    def state_at(self, lsn: int) -> dict[str, Sent | None]:
        """Return id -> what each file is, by the changes up to a record; None: deleted."""
        operations = sorted(self.operations, key=lambda operation: operation.lsn)
        return {each.file_id: each.sent for each in operations if each.lsn <= lsn}

    def blame(self, what: str) -> None:
        """Note what no node may do."""
        with self.lock:
            self.faults.append(what)


def pick_size(rng: random.Random) -> int:
    """Return a size from 0 to 20 MB, mostly small; about 100 KB on average."""
    share = rng.random()
    if share < 0.01:
        return 0
    if share < 0.87:
        return _pick_log(rng, 1, SMALL_BYTES_MAX)
    if share < 0.992:
        return _pick_log(rng, SMALL_BYTES_MAX, MIDDLE_BYTES_MAX)
    return _pick_log(rng, MIDDLE_BYTES_MAX, LARGE_BYTES_MAX)


def _pick_log(rng: random.Random, least: int, most: int) -> int:
    return int(math.exp(rng.uniform(math.log(least), math.log(most))))


class Clients:
    """Uploads files from several threads, and does other things to those it has uploaded.

    Args:
        seed: decides sizes, contents and what is done with them.
        files_per_s: no more than so many; 0: as fast as it goes.
        keep_alive: send many requests over one connection, so that one process answers them all.
    """

    def __init__(
        self,
        url: str,
        *,
        files: int,
        clients: int,
        seed: int,
        files_per_s: float = 0,
        keep_alive: bool = True,
    ) -> None:
        self.journal = Journal()
        self._url = url
        self._files = files
        self._threads = clients
        self._seed = seed
        self._files_per_s = files_per_s
        headers = {} if keep_alive else {"Connection": "close"}
        self._client = Client(url, connections=clients, write_headers=headers)
        self._http = urllib3.PoolManager(
            maxsize=clients, retries=False, timeout=60, headers=headers
        )
        self._stop = threading.Event()
        self._main = threading.Thread(target=self._run, name="clients")
        self._started_s = time.monotonic()
        self._sources: dict[str, int] = {}  # SHA-256 -> number of the file that had it first

    def start(self) -> None:
        """Begin."""
        self._started_s = time.monotonic()
        self._main.start()

    def is_running(self) -> bool:
        """Tell whether there is something to upload still."""
        return self._main.is_alive()

    def stop(self) -> None:
        """End soon, whatever is left to do, and close the connections."""
        self._stop.set()
        if self._main.ident is not None:
            self._main.join()
        self._client.close()
        self._http.clear()

    def list_ids(self) -> dict[str, str]:
        """Return id -> name of all that the node lists."""
        return {file["id"]: file["name"] for file in self._client.list_files("")}

    def _run(self) -> None:
        try:
            for_each(self._work, range(self._files), self._stop, threads=self._threads)
        except BaseException as error:
            self.journal.blame(f"a client ended: {error!r}")
            raise

    def _work(self, number: int) -> None:
        if self._files_per_s:
            due_s = self._started_s + number / self._files_per_s
            self._stop.wait(max(0.0, due_s - time.monotonic()))
        rng = random.Random(f"{self._seed}/{number}")
        self._upload(number, rng)
        share = rng.random()
        for most, do in (
            (DELETED_SHARE, self._delete_one),
            (RENAMED_SHARE, self._rename_one),
            (READ_SHARE, self._read_one),
        ):
            if share < most:
                do(number, rng)
                return
            share -= most

    def content(self, sha256: str) -> bytes:
        """Return the bytes of a file that was uploaded."""
        return self._make_content(self._sources[sha256])

    def _make_content(self, number: int) -> bytes:
        source = random.Random(f"{self._seed}/{number}/content")
        return source.randbytes(pick_size(source))

    def _upload(self, number: int, rng: random.Random) -> None:
        """Upload a file; now and then one with the bytes of an earlier one."""
        source = rng.randrange(number) if number and rng.random() < 0.03 else number
        content = self._make_content(source)
        sha256 = hashlib.sha256(content).hexdigest()
        self._sources[sha256] = source
        attempt = 0
        while not self._stop.is_set():
            name = f"files/{number:06d}-{attempt}"
            pieces = [content[n : n + PIECE_BYTES] for n in range(0, len(content), PIECE_BYTES)]
            try:
                stored = self._client.upload(pieces, len(content), name)
            except StatusError as error:
                self._note_status(name, sha256, error)
            except WrongAnswerError as error:
                self.journal.blame(str(error))
                return
            except urllib3.exceptions.HTTPError:
                self.journal.count("upload unanswered")
                with self.journal.lock:
                    self.journal.unanswered[name] = sha256
            else:
                self.journal.count("uploaded")
                sent = Sent(name, sha256, len(content))
                self.journal.acknowledge(stored.lsn, stored.id, sent)
                with self.journal.lock:
                    self.journal.live[stored.id] = sent
                return
            attempt += 1
            self._stop.wait(PAUSE_S)

    def _note_status(self, name: str, sha256: str, error: StatusError) -> None:
        self.journal.count(f"upload {error.status}")
        with self.journal.lock:
            self.journal.refused[name] = sha256
        if error.status not in (503, 507):
            self.journal.blame(f"{name}: {error}")

    def _take(self, rng: random.Random) -> tuple[str, Sent] | None:
        """Take a file out of the journal, so that no other client changes it meanwhile."""
        with self.journal.lock:
            if not self.journal.live:
                return None
            file_id = rng.choice(list(self.journal.live)[-500:])
            sent = self.journal.taken[file_id] = self.journal.live.pop(file_id)
            return file_id, sent

    def _delete_one(self, number: int, rng: random.Random) -> None:
        taken = self._take(rng)
        if taken is not None:
            self._change("DELETE", *taken, None, done=(204,), done_before=(404,))

    def _rename_one(self, number: int, rng: random.Random) -> None:
        taken = self._take(rng)
        if taken is not None:
            file_id, sent = taken
            changed = replace(sent, name=f"renamed/{number:06d}", metadata={"number": str(number)})
            self._change("PATCH", file_id, sent, changed, done=(200,))

    def _change(
        self,
        method: str,
        file_id: str,
        sent: Sent,
        changed: Sent | None,
        *,
        done: tuple[int, ...],
        done_before: tuple[int, ...] = (),
    ) -> None:
        """Change a file that was taken, and give it back.

        Args:
            changed: what it is then; None: deleted.
            done_before: statuses that say so when an earlier request had no answer.
        """
        body = {} if changed is None else {"name": changed.name, "metadata": changed.metadata}
        lsn = self._repeat(method, f"/files/{file_id}", body, done=done, done_before=done_before)
        if lsn:
            self.journal.acknowledge(lsn, file_id, changed)
        with self.journal.lock:
            del self.journal.taken[file_id]
            if lsn is None:
                self.journal.doubts[file_id] = changed
                self.journal.live[file_id] = sent
            elif changed is None:
                self.journal.deleted[file_id] = sent
            else:
                self.journal.live[file_id] = changed

    def _repeat(
        self,
        method: str,
        path: str,
        body: dict[str, Any],
        *,
        done: tuple[int, ...],
        done_before: tuple[int, ...],
    ) -> int | None:
        """Ask until there is an answer, or the clients are stopped.

        Returns:
            LSN of the change; 0 if an earlier request without an answer has made it; None if it is
            not known to be made.
        """
        options = {"json": body} if body else {}
        wanted = done
        while True:
            try:
                answer = self._http.request(method, self._url + path, **options)
            except urllib3.exceptions.HTTPError:
                self.journal.count(f"{method} unanswered")
                wanted = (*done, *done_before)
            else:
                if answer.status in wanted:
                    self.journal.count(method)
                    return int(answer.headers.get("DFS-LSN", 0))
                self.journal.count(f"{method} {answer.status}")
                if answer.status != 503:
                    self.journal.blame(f"{method} {path}: {answer.status} {answer.data[:200]!r}")
                    return None
            if self._stop.wait(PAUSE_S):
                return None

    def _read_one(self, number: int, rng: random.Random) -> None:
        """Read a file once. An error is counted; other bytes are a broken promise."""
        taken = self._take(rng)
        if taken is None:
            return
        file_id, sent = taken
        try:
            if self._client.download(file_id) != (sent.sha256, sent.size):
                self.journal.blame(f"{file_id} ({sent.name}) was read with other bytes")
            self.journal.count("read")
        except StatusError as error:
            self.journal.count(f"read {error.status}")
            if error.status == 404:
                self.journal.blame(f"{file_id} ({sent.name}) was acknowledged and is not found")
        except urllib3.exceptions.HTTPError:
            self.journal.count("read unanswered")
        finally:
            with self.journal.lock:
                self.journal.live[file_id] = self.journal.taken.pop(file_id)


def wait_until(is_true: Callable[[], bool], *, timeout_s: float, pause_s: float = 0.25) -> bool:
    """Ask again and again. Returns whether it became true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(pause_s)
    return True
