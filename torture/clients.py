"""Clients that do everything a node offers, from several threads, and believe nothing."""

from __future__ import annotations

import hashlib
import json
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import urllib3

from scripts.client import for_each
from scripts.load_files import Content
from torture.ledger import NOTE, TOKEN, Begun, Entry, Ledger, State

TINY_BYTES_MAX = 4 << 10
SMALL_BYTES_MAX = 64 << 10
MIDDLE_BYTES_MAX = 1 << 20
LARGE_BYTES_MAX = 8 << 20
"""Twice what goes through the kernel's cache of a file: some are written past it."""
TIMEOUT_S = 60.0
NEVER_HAPPENED = ("no_space", "quota_exceeded", "quorum_unreachable")
"""Codes of errors that promise that nothing was stored. After another one of the node's side it may
have been: what was written may be on the disk though its sync failed."""
FORM_BOUNDARY = "torture-3d1f7a"
PAUSE_S = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    Attributes:
        status: 0: there was no answer.
        code: of the problem.
    """

    status: int
    code: str = ""
    body: Any = None

    @property
    def is_refusal(self) -> bool:
        """Whether it says for certain that nothing happened."""
        return 400 <= self.status < 500 or self.code in NEVER_HAPPENED


class Clients:
    """Threads that upload, overwrite, delete, restore, change and read until they are stopped.

    Args:
        label: of this round; no two have the same.
        operations_per_s: of all clients together.
        other_mode: what some writes ask for by the header `DFS-Replication`.
        grace_s: for so long a deleted file can be restored for certain; None: the clock jumps.
    """

    def __init__(
        self,
        url: str,
        ledger: Ledger,
        *,
        label: str,
        seed: int,
        clients: int,
        operations_per_s: float,
        other_mode: str,
        grace_s: Callable[[], float | None],
    ) -> None:
        self._url = url
        self._ledger = ledger
        self._label = label
        self._content = Content(seed)
        self._seed = seed
        self._clients = clients
        self._pause_s = clients / operations_per_s
        self._other_mode = other_mode
        self._grace_s = grace_s
        self._http = urllib3.PoolManager(maxsize=clients, retries=False, timeout=TIMEOUT_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clients")
        self._recent: list[tuple[str, int]] = [(label, 100)]
        self._works: tuple[tuple[float, Callable[[str, random.Random], None]], ...] = (
            (0.45, self._upload),
            (0.05, self._upload_form),
            (0.05, self._upload_taken),
            (0.15, self._delete),
            (0.07, self._restore),
            (0.12, self._patch),
            (0.11, self._read),
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End when the requests in flight have."""
        self._stop.set()
        self._thread.join()
        self._http.clear()

    def _run(self) -> None:
        numbers = iter(range(1 << 30))
        try:
            for_each(self._work, numbers, self._stop, threads=self._clients)
        except BaseException as error:
            self._ledger.blame("unexplained", f"a client ended: {error!r}")
            raise

    def _work(self, number: int) -> None:
        token = f"{self._label}.{number}"
        rng = random.Random(f"{self._seed}/{token}")
        weights = [weight for weight, _ in self._works]
        (_, work) = rng.choices(self._works, weights)[0]
        work(token, rng)
        self._stop.wait(self._pause_s * rng.uniform(0.5, 1.5))

    # Asking

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        try:
            answer = self._http.request(
                method, self._url + path, body=body, headers=dict(headers or {})
            )
        except urllib3.exceptions.HTTPError:
            self._ledger.count_answer(f"{method} unanswered")
            self._stop.wait(PAUSE_S)
            return Answer(0)
        self._ledger.count_answer(f"{method} {answer.status}")
        parsed: Any = None
        with suppress(ValueError):
            parsed = answer.json()
        code = parsed.get("code", "") if isinstance(parsed, dict) else ""
        if answer.status == 500 or (answer.status >= 400 and not code):
            self._ledger.blame(
                "unexplained", f"{method} {path}: {answer.status} {answer.data[:300]!r}"
            )
        if answer.status >= 500:
            self._stop.wait(PAUSE_S)
        return Answer(answer.status, code, parsed)

    def _headers(self, rng: random.Random) -> dict[str, str]:
        return {"DFS-Replication": self._other_mode} if rng.random() < 0.1 else {}

    # Uploads

    def _make_bytes(self, token: str, rng: random.Random) -> bytes:
        """Return the bytes of a file; now and then those of another one."""
        if rng.random() < 0.08:
            label, size = rng.choice(self._recent)
        else:
            label, size = token, _pick_size(rng)
            self._recent = [*self._recent[-30:], (label, size)]
        return b"".join(self._content.pieces(label, size))

    def _upload(self, token: str, rng: random.Random) -> None:
        content = self._make_bytes(token, rng)
        headers = self._headers(rng)
        name = f"overwritten/{rng.randrange(20)}"
        if rng.random() < 0.8:
            name = f"files/{token}"
            if rng.random() < 0.15:
                headers["If-None-Match"] = "*"
        self._send(token, rng, [(name, content)], headers)

    def _upload_form(self, token: str, rng: random.Random) -> None:
        files = [
            (f"forms/{token}-{number}", self._make_bytes(f"{token}-{number}", rng))
            for number in range(rng.randint(2, 4))
        ]
        self._send(token, rng, files, self._headers(rng))

    def _upload_taken(self, token: str, rng: random.Random) -> None:
        """Upload under a name that is taken, if and only if it is not."""
        with self._ledger.take(rng, is_deleted=False) as taken:
            if taken is not None:
                name = taken[1].name
                answer = self._send(token, rng, [(name, b"never")], {"If-None-Match": "*"})
                if answer.status == 201:
                    self._ledger.blame(
                        "lost", f"{name} ({taken[0].id}) was taken and could be uploaded if absent"
                    )

    def _send(
        self,
        token: str,
        rng: random.Random,
        files: list[tuple[str, bytes]],
        headers: Mapping[str, str],
    ) -> Answer:
        metadata = {TOKEN: token, NOTE: ""}
        begun = Begun(
            token,
            tuple(
                (name, hashlib.sha256(content).hexdigest(), len(content)) for name, content in files
            ),
        )
        self._ledger.begin(begun)
        headers = {**headers, "DFS-Metadata": json.dumps(metadata)}
        if len(files) == 1:
            path = f"/upload?{urlencode({'name': files[0][0]})}"
            headers["Content-Type"] = "application/octet-stream"
            answer = self._ask("POST", path, body=files[0][1], headers=headers)
        else:
            headers["Content-Type"] = f"multipart/form-data; boundary={FORM_BOUNDARY}"
            answer = self._ask("POST", "/upload", body=_make_form(files), headers=headers)
        if answer.status == 201:
            self._note_stored(begun, answer)
        elif answer.is_refusal:
            self._ledger.refuse(token, f"{answer.status} {answer.code}")
            if answer.status == 412 and "If-None-Match" not in headers:
                self._ledger.blame("unexplained", f"{token}: 412 without a condition")
        return answer

    def _note_stored(self, begun: Begun, answer: Answer) -> None:
        stored = answer.body.get("files", [answer.body])
        told = sorted((file["name"], file["sha256"], file["size"]) for file in stored)
        if told != sorted(begun.files):
            self._ledger.blame("corrupt", f"acknowledged {told}, sent {begun.files}")
        self._ledger.store(begun.token, stored)

    # Changes

    def _delete(self, token: str, rng: random.Random) -> None:
        with self._ledger.take(rng, is_deleted=False) as taken:
            if taken is not None:
                entry, state = taken
                new = State(state.name, state.note, is_deleted=True)
                self._change("DELETE", f"/files/{entry.id}", None, (entry, state, new), rng)

    def _restore(self, token: str, rng: random.Random) -> None:
        with self._ledger.take(rng, is_deleted=True) as taken:
            if taken is None:
                return
            entry, state = taken
            new = State(state.name, state.note)
            answer = self._ask("POST", f"/files/{entry.id}/restore", headers=self._headers(rng))
            if answer.status == 404:
                grace_s = self._grace_s()
                if grace_s is not None and time.monotonic() < entry.deleted_s + grace_s:
                    self._ledger.blame("lost", f"{entry.id} cannot be restored, so early")
            else:
                self._note_change("restore", answer, entry, new)

    def _patch(self, token: str, rng: random.Random) -> None:
        with self._ledger.take(rng, is_deleted=False) as taken:
            if taken is not None:
                entry, state = taken
                new = State(f"changed/{token}", token)
                metadata = {TOKEN: entry.token, NOTE: token}
                body = json.dumps({"name": new.name, "metadata": metadata}).encode()
                self._change("PATCH", f"/files/{entry.id}", body, (entry, state, new), rng)

    def _change(
        self,
        method: str,
        path: str,
        body: bytes | None,
        change: tuple[Entry, State, State],
        rng: random.Random,
    ) -> None:
        """Change a file that is there for certain; sometimes on a condition, which may not hold."""
        entry, _, new = change
        headers = {**self._headers(rng), "Content-Type": "application/json"}
        is_wrong = False
        if rng.random() < 0.2:
            is_wrong = rng.random() < 0.5
            headers["If-Match"] = f'"{"0" * 64 if is_wrong else entry.sha256}"'
        answer = self._ask(method, path, body=body, headers=headers)
        if answer.status == 404:
            self._ledger.blame("lost", f"{method} {entry.id}: not found")
        elif is_wrong:
            if 200 <= answer.status < 300:
                self._ledger.blame("unexplained", f"{method} {entry.id}: done against If-Match")
        elif answer.status == 412:
            self._ledger.blame("corrupt", f"{method} {entry.id}: has another ETag")
        else:
            self._note_change(method, answer, entry, new)

    def _note_change(self, kind: str, answer: Answer, entry: Entry, new: State) -> None:
        if 200 <= answer.status < 300:
            self._ledger.change(entry, new, kind)
        elif not answer.is_refusal:
            self._ledger.doubt(entry, new, f"{answer.status} {answer.code}")

    # Reading

    def _read(self, token: str, rng: random.Random) -> None:
        with self._ledger.take(rng, is_deleted=False) as taken:
            if taken is not None:
                check_download(self._http, self._url, taken[0], self._ledger, must_answer=False)


def check_download(
    http: urllib3.PoolManager, url: str, entry: Entry, ledger: Ledger, *, must_answer: bool
) -> None:
    """Read a file that is there for certain, and compare its bytes.

    Args:
        must_answer: nothing is wrong with the node, so that it has no excuse.
    """
    digest = hashlib.sha256()
    try:
        answer = http.request("GET", f"{url}/download/{entry.id}", preload_content=False)
        if answer.status == 200:
            for piece in answer.stream(1 << 20):
                digest.update(piece)
        else:
            answer.read()
        answer.release_conn()
    except urllib3.exceptions.HTTPError as error:
        ledger.count_answer("GET unanswered")
        if must_answer:
            ledger.blame("lost", f"{entry.id} cannot be read: {error!r}")
        return
    ledger.count_answer(f"GET {answer.status}")
    if answer.status == 200 and digest.hexdigest() != entry.sha256:
        ledger.blame("corrupt", f"{entry.id} was read with other bytes")
    elif answer.status in (404, 500) or (must_answer and answer.status != 200):
        ledger.blame("lost", f"{entry.id} cannot be read: {answer.status}")


def _pick_size(rng: random.Random) -> int:
    share = rng.random()
    if share < 0.02:
        return 0
    if share < 0.40:
        return _pick_log(rng, 1, TINY_BYTES_MAX)
    if share < 0.75:
        return _pick_log(rng, TINY_BYTES_MAX, SMALL_BYTES_MAX)
    if share < 0.98:
        return _pick_log(rng, SMALL_BYTES_MAX, MIDDLE_BYTES_MAX)
    return _pick_log(rng, MIDDLE_BYTES_MAX, LARGE_BYTES_MAX)


def _pick_log(rng: random.Random, least: int, most: int) -> int:
    return int(math.exp(rng.uniform(math.log(least), math.log(most))))


def _make_form(files: list[tuple[str, bytes]]) -> bytes:
    parts = [
        f'--{FORM_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join([*parts, f"--{FORM_BOUNDARY}--\r\n".encode()])
