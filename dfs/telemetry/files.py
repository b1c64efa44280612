"""The files in which the processes of a node count, so that each of them can tell the sum."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog
from prometheus_client import values

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
METRICS_NAME = "metrics"
"""Of their directory, in DFS_RUN_PATH."""
FILE_BYTES = {"counter": 1 << 19, "histogram": 1 << 22, "gauge_liveall": 1 << 16}
"""Size of a process's file for each kind of metric: more than it can fill."""
_FILE_NAME = re.compile(r"[a-z_]+_([0-9]+)\.db")


def reserve_metrics_files(kinds: Iterable[str] = tuple(FILE_BYTES)) -> bool:
    """Give the files that this process will count in their room on disk, before any metric exists.

    prometheus_client maps sparse files into memory; on a full disk the first touch of a new page
    would kill the process with SIGBUS. It takes a file that has a size as it is, so these are made
    whole beforehand. Where that fails, this process counts in its own memory, and its `/metrics`
    covers it alone.

    Returns:
        Whether the files are there.
    """
    directory = Path(os.environ[MULTIPROCESS_VARIABLE])
    paths = {kind: directory / f"{kind}_{os.getpid()}.db" for kind in kinds}
    try:
        for kind, path in paths.items():
            with path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, FILE_BYTES[kind])
    except OSError as error:
        structlog.get_logger().warning("metrics_not_shared", error=str(error))
        for path in paths.values():  # the other processes could not read half a file
            with suppress(OSError):
                path.unlink()
        del os.environ[MULTIPROCESS_VARIABLE]
        values.ValueClass = values.MutexValue  # it chose at its import, which was before the fork
        return False
    pid = os.getpid()
    # By default each count asks for the process's id.
    values.ValueClass = values.MultiProcessValue(lambda: pid)  # type: ignore[no-untyped-call]
    return True


def join_metrics(directory: Path, kinds: Iterable[str]) -> None:
    """Have this process, which serves no `/metrics`, count where those look that do.

    Before any metric exists. Where it fails, nobody sees what this process counts.

    Args:
        kinds: of the metrics that it will have.
    """
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    os.environ[MULTIPROCESS_VARIABLE] = str(directory)
    if reserve_metrics_files(kinds):
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def list_pids(directory: Path) -> set[int]:
    """Return the processes that count, or once did in this life of the node."""
    names = (path.name for path in directory.iterdir())
    return {int(match[1]) for name in names if (match := _FILE_NAME.fullmatch(name))}


def remove_dead_files(directory: Path) -> None:
    """Remove what processes have counted that live no more: another life of the node begins."""
    for path in directory.glob("*"):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None or not _is_alive(int(match[1])):
            with suppress(OSError):
                path.unlink()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
