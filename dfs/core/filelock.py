"""Locks between threads and processes, which the kernel releases when their holder dies."""

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
        """Close the file. Safe to call twice. A thread that holds the lock keeps both."""
        if not self._mutex.acquire(blocking=False):
            return
        try:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        finally:
            self._mutex.release()

    def _lock_file(self, deadline_s: float) -> bool:
        if self._fd < 0:
            self._fd = _open_file(self._path)
        return _lock_within(self._fd, deadline_s=deadline_s)


class Gate:
    """A lock on a file that many may pass at a time, or one may shut. Needs no closing.

    Each use opens the file anew, because flock knows open files, not threads.

    Args:
        path: the file, made when it is needed; its directory exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def passing(self) -> Iterator[None]:
        """Keep the gate from being shut inside the block; waits while it is.

        Raises:
            StorageError: the file cannot be made.
        """
        with self._open() as fd:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def shut(self, *, timeout_s: float) -> Iterator[bool]:
        """Keep everybody from passing inside the block, if nobody does within that time.

        Yields:
            Whether it is shut.

        Raises:
            StorageError: the file cannot be made.
        """
        with self._open() as fd:
            yield _lock_within(fd, deadline_s=time.monotonic() + timeout_s)

    @contextlib.contextmanager
    def _open(self) -> Iterator[int]:
        fd = _open_file(self._path)
        try:
            yield fd
        finally:
            os.close(fd)  # and with it the lock


def _open_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise storage_error(error, path=path) from error


def _lock_within(fd: int, *, deadline_s: float) -> bool:
    """Take the lock between processes. There is no call that waits for a limited time."""
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(LOOK_AGAIN_S)
        else:
            return True
