"""A node of its own for each test, and what the tests do with it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dfs.core.clock import now_ms
from dfs.core.config import Config, load_config
from dfs.core.model import File
from dfs.core.steps import OnStep, ignore_step
from dfs.services import breaker
from dfs.services.changes import Upload
from dfs.services.files import Stored
from dfs.wiring import Services, open_services

Opener = Callable[..., Services]


def make_config(directory: Path, index_url: str, **changes: object) -> Config:
    """Return settings for a node below `directory`, with small segments."""
    environ = {"DATABASE_URL": index_url, "REPLICA1_PATH": "", "REPLICA2_PATH": ""}
    config = load_config(environ, env_file="/nonexistent")
    small = {"wal_segment_bytes": 1 << 20, "wal_preallocate_bytes": 1 << 16}
    return replace(
        config,
        storage_path=directory / "primary",
        wal_path=directory / "wal",
        run_path=directory / "run",
        **{**small, **changes},
    )


def store_bytes(services: Services, key: str, data: bytes, **upload: object) -> Stored:
    """Store one file as a client would."""
    blob = services.files.new_blob()
    try:
        for start in range(0, len(data), 1 << 20):
            blob.write(data[start : start + (1 << 20)])
        return services.files.store([Upload(blob, key, "text/plain", **upload)])
    finally:
        blob.discard()


def read_bytes(services: Services, file_id: str) -> bytes:
    """Read one file as a client would."""
    download = services.files.open(file_id)
    try:
        return b"".join(download.read(0, download.file.size))
    finally:
        download.close()


def lose_index(services: Services) -> None:
    """End a node, and lose its index."""
    services.index.destroy()
    services.close()


def list_whole(services: Services, *, deleted: bool = False) -> list[File]:
    """Return all that the index has of the files, or of those in the trash, as they are listed."""
    ids = [file.id for file in services.files.list(limit=10_000, deleted=deleted).files]
    with services.index.begin() as transaction:
        transaction.preload(file_ids=ids, digests=[])
        found = [transaction.file(file_id) for file_id in ids]
    return [file for file in found if file is not None]


def list_keys(services: Services) -> dict[str, str]:
    """Return id -> SHA-256 in hexadecimal of the bytes read, for every file of the node."""
    found: dict[str, str] = {}
    after = None
    while True:
        page = services.files.list(after=after, limit=100)
        for file in page.files:
            data = read_bytes(services, file.id)
            assert hashlib.sha256(data).hexdigest() == file.etag
            found[file.id] = file.etag
        after = page.next
        if after is None:
            return found


@pytest.fixture
def open_node(tmp_path: Path, index_url: str) -> Iterator[Opener]:
    """Open the services of one node, again and again; all are closed at the end."""
    opened: list[Services] = []

    def open_it(on_step: OnStep = ignore_step, **changes: object) -> Services:
        services = open_services(make_config(tmp_path, index_url, **changes), on_step=on_step)
        opened.append(services)
        return services

    yield open_it
    for services in opened:
        services.close()


@pytest.fixture
def node(open_node: Opener) -> Services:
    """One open node."""
    return open_node()


@pytest.fixture
def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store that failed be tried again at once."""
    monkeypatch.setattr(breaker, "PAUSE_MS", 0)


class Clock:
    """The wall clock of a node under test: the real one, and as much as it was put forward."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        """Return the time as the node sees it."""
        return now_ms() + self.ahead_ms

    def advance(self, *, seconds: float) -> None:
        """Put it forward."""
        self.ahead_ms += int(1000 * seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let all of dfs that is imported by now look at a clock that can be put forward."""
    clock = Clock()
    for name, module in list(sys.modules.items()):
        if name.startswith("dfs.") and getattr(module, "now_ms", None) is now_ms:
            monkeypatch.setattr(module, "now_ms", clock.now_ms)
    return clock
