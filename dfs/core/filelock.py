"""A lock between threads and processes, which the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dfs.core.durable import storage_error

LOOK_AGAIN_S = 0.005


class FileLock:
    """A lock on a file, made when it is first taken. Not reentrant; open it again after a fork.

    Args:
        path: the file; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._mutex = threading.Lock()  # flock knows open files, not threads

    @contextlib.contextmanager
    def hold(self, *, timeout_s: float) -> Iterator[bool]:
        """Hold the lock inside the block, if it can be had in that time.

        Yields:
            Whether it is held.

        Raises:
            StorageError: the file cannot be made.
        """
        deadline_s = time.monotonic() + timeout_s
        if not self._mutex.acquire(timeout=max(0.0, timeout_s)):
            yield False
            return
        try:
            held = self._lock_file(deadline_s)
            try:
                yield held
            finally:
                if held:
                    fcntl.flock(self._fd, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lock_file(self, deadline_s: float) -> bool:
        """Take the lock between processes. There is no call that waits for a limited time."""
        if self._fd < 0:
            try:
                self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise storage_error(error, path=self._path) from error
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    return False
                time.sleep(LOOK_AGAIN_S)
            else:
                return True
