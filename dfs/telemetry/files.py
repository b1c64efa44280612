"""The files in which the processes of a node count, so that each of them can tell the sum.

Each is locked as long as its process lives, from before others see it. They are named by process
ids. Processes in containers of their own have ids of their own, and cannot see each other: so a
file of one that joins has the number of its PID namespace, too.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import values

from dfs.core.signs import is_shown
from dfs.telemetry.ended import fold_ended, list_ended

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
METRICS_NAME = "metrics"
"""Of their directory, in DFS_RUN_PATH."""
FILE_BYTES = {"counter": 1 << 19, "histogram": 1 << 22, "gauge_liveall": 1 << 16}
"""Size of a process's file for each kind of metric: more than it can fill."""
_NAMESPACE_PATH = Path("/proc/self/ns/pid")
_NUMBER = struct.Struct("dd")
"""How prometheus_client keeps a number in its file: the value, and when it was set, if ever."""
_FILE_NAME = re.compile(r"[a-z_]+_([0-9]+)(?:-([0-9]+))?\.db")


def reserve_metrics_files(
    kinds: Iterable[str] = tuple(FILE_BYTES), *, name: str | None = None
) -> bool:
    """Give the files that this process will count in their room on disk, before any metric exists.

    prometheus_client maps sparse files into memory; on a full disk the first touch of a new page
    would kill the process with SIGBUS. It takes a file that has a size as it is, so these are made
    whole beforehand. Where that fails, this process counts in its own memory, and its `/metrics`
    covers it alone.

    Args:
        name: of this process; None: its id.

    Returns:
        Whether the files are there.
    """
    name = name or str(os.getpid())
    directory = Path(os.environ[MULTIPROCESS_VARIABLE])
    paths = {kind: directory / f"{kind}_{name}.db" for kind in kinds}
    try:
        for kind, path in paths.items():
            _make_file(path, FILE_BYTES[kind])
    except OSError as error:
        structlog.get_logger().warning("metrics_not_shared", error=str(error))
        for path in paths.values():
            with suppress(OSError):
                path.unlink()
        del os.environ[MULTIPROCESS_VARIABLE]
        values.ValueClass = values.MutexValue  # it chose at its import, which was before the fork
        return False
    values.ValueClass = _make_value_class(name)
    return True


def _make_value_class(name: str) -> type:
    """Return the class of the numbers that a process of that name counts in its files.

    The library's own looks with each count whether the process was forked, and up where the
    number lies: an upload counts some twenty times.
    """
    lock = threading.Lock()
    library_value: Any = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]

    class SharedValue(library_value):  # type: ignore[misc] # made by a function without types
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._place = self._file._positions[self._key]

        def inc(self, amount: float) -> None:
            with lock:
                self._value += amount
                _NUMBER.pack_into(self._file._m, self._place, self._value, 0.0)

    return SharedValue


def join_metrics(directory: Path, kinds: Iterable[str]) -> None:
    """Have this process, which serves no `/metrics`, count where those look that do.

    Before any metric exists. Where it fails, nobody sees what this process counts.

    Args:
        kinds: of the metrics that it will have.
    """
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    fold_ended(directory)  # one that cannot start, and is started again and again, fills no disk
    os.environ[MULTIPROCESS_VARIABLE] = str(directory)
    reserve_metrics_files(tuple(kinds), name=f"{os.getpid()}-{_read_namespace()}")


def list_pids(directory: Path) -> set[int]:
    """Return the processes that count, or did in this life of the node, as far as it sees them."""
    namespace = _read_namespace()
    matches = (_FILE_NAME.fullmatch(path.name) for path in directory.iterdir())
    return {int(match[1]) for match in matches if match and match[2] in (None, namespace)}


def count_elsewhere(directory: Path) -> int:
    """Return how many processes live and count that it cannot see: those of other containers."""
    namespace = _read_namespace()
    matches = ((path, _FILE_NAME.fullmatch(path.name)) for path in directory.iterdir())
    return len(
        {
            match.groups()
            for path, match in matches
            if match and match[2] not in (None, namespace) and is_shown(path)
        }
    )


def remove_dead_files(directory: Path) -> None:
    """Remove what processes have counted that live no more: another life of the node begins."""
    for path in list_ended(directory, "*"):
        with suppress(OSError):
            path.unlink()


def _make_file(path: Path, size: int) -> None:
    """Make a file whole and locked before anybody sees it. Raises OSError."""
    draft = path.with_suffix(".draft")
    fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(fd, 0, size)
        draft.rename(path)
    except OSError:
        os.close(fd)
        draft.unlink(missing_ok=True)
        raise
    # It stays open: the kernel lets go of the lock when the process ends.


def _read_namespace() -> str:
    """Return the number of this process's PID namespace; 0 where there are none."""
    try:
        return str(_NAMESPACE_PATH.stat().st_ino)
    except OSError:
        return "0"
