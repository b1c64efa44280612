"""The directory beside the log in which files for it are built."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from dfs.core.durable import make_directory_durably
from dfs.core.errors import StorageError, WalError
from dfs.core.filelock import FileLock

WORKSHOP_NAME = "restore"
LOCK_NAME = "restore.lock"


@contextlib.contextmanager
def workshop(wal_path: Path, *, timeout_s: float) -> Iterator[Path]:
    """Have an empty directory beside the log for oneself; what is left in it goes.

    Raises:
        WalError: another process works there, and did not end in that time.
        StorageError.
    """
    lock = FileLock(wal_path / LOCK_NAME)
    directory = wal_path / WORKSHOP_NAME
    try:
        with lock.hold(timeout_s=timeout_s) as held:
            if not held:
                raise WalError("Another process is restoring segments of the log.", path=directory)
            shutil.rmtree(directory, ignore_errors=True)
            make_directory_durably(directory)
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    finally:
        lock.close()


def sweep_workshop(wal_path: Path) -> None:
    """Remove what a process left that died while it worked there; nothing if one works there."""
    if (wal_path / WORKSHOP_NAME).exists():
        with contextlib.suppress(WalError, StorageError), workshop(wal_path, timeout_s=0):
            pass
