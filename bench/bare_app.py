"""The least that an upload costs a Python program that keeps the promise, as a WSGI application.

A small body is hashed, appended to a log, synced and put into an index in SQLite; a large one is
hashed and written to a file of its own, which is synced, renamed, and its directory synced. Nothing
else is done: no format, no check, no key, no answer, no other process to agree with, nothing that
could be read back. It shows how much of a miss is dfs's own, and how much nobody is spared.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PIECE_BYTES = 256 << 10
SMALL_BYTES_MAX = 64 << 10
LOG_BYTES = 64 << 20
_SCHEMA = """
    PRAGMA journal_mode = wal;
    PRAGMA synchronous = 1;
    PRAGMA wal_autocheckpoint = 16000;
    CREATE TABLE file (id TEXT PRIMARY KEY, key TEXT, size INTEGER, digest BLOB) WITHOUT ROWID;
    CREATE INDEX file_key ON file (key, id);
    CREATE TABLE blob (digest BLOB PRIMARY KEY, offset INTEGER) WITHOUT ROWID;
    CREATE TABLE state (id INTEGER PRIMARY KEY, applied INTEGER);
    INSERT INTO state VALUES (1, 0);
"""


class BareStore:
    """The application. Each process has a log and an index of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._log: _Log | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Store the body, if there is one."""
        size = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"]
        if size > SMALL_BYTES_MAX:
            self._store_file(body, size)
        elif size:
            data = body.read(size)
            digest = hashlib.sha256(data).digest()
            with self._lock:
                if self._log is None:  # here, since it is not shared with the parent
                    self._log = _Log(self._directory / f"bare-{os.getpid()}")
                self._log.append(data, digest, environ["QUERY_STRING"])
        start_response("201 Created" if size else "200 OK", [("Content-Length", "0")])
        return (b"",)

    def _store_file(self, body: IO[bytes], size: int) -> None:
        path = self._directory / f"bare-{os.getpid()}-{next(self._numbers)}"
        temporary = path.with_suffix(".tmp")
        digest = hashlib.sha256()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT, 0o600)
        while size:
            piece = body.read(min(size, PIECE_BYTES))
            digest.update(piece)
            os.write(fd, piece)
            size -= len(piece)
        os.fdatasync(fd)
        os.close(fd)
        temporary.rename(path)
        directory_fd = os.open(self._directory, os.O_RDONLY)
        os.fsync(directory_fd)
        os.close(directory_fd)


class _Log:
    """A preallocated file, written again from its start when it is full, and an index."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(f"{path}.log", os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(self._fd, bytes(LOG_BYTES), 0)
        os.fsync(self._fd)
        self._index = sqlite3.connect(f"{path}.db", isolation_level=None, check_same_thread=False)
        self._index.executescript(_SCHEMA)
        self._offset, self._number = 0, 0

    def append(self, data: bytes, digest: bytes, key: str) -> None:
        """Append, sync, and commit the index."""
        if self._offset + len(data) > LOG_BYTES:
            self._offset = 0
        os.pwrite(self._fd, data, self._offset)
        os.fdatasync(self._fd)
        self._number += 1
        run = self._index.execute
        run("BEGIN IMMEDIATE")
        run("INSERT INTO file VALUES (?, ?, ?, ?)", (f"{self._number:026}", key, len(data), digest))
        run("INSERT INTO blob VALUES (?, ?)", (digest, self._offset))
        run("UPDATE state SET applied = ?", (self._number,))
        run("COMMIT")
        self._offset += len(data)


def create_app() -> BareStore:
    """Return the application; what it stores goes to the directory of a node's files."""
    directory = Path(os.environ["STORAGE_PATH"])
    directory.mkdir(parents=True, exist_ok=True)
    return BareStore(directory)
