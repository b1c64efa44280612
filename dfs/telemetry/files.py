"""The files in which the processes of a node count, so that each of them can tell the sum.

They are named by process ids. Processes in containers of their own have ids of their own, and
cannot see each other: so a file of one that joins has the number of its PID namespace, too, and is
locked as long as the process lives.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import structlog
from prometheus_client import values

from dfs.core.signs import is_shown

MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
METRICS_NAME = "metrics"
"""Of their directory, in DFS_RUN_PATH."""
FILE_BYTES = {"counter": 1 << 19, "histogram": 1 << 22, "gauge_liveall": 1 << 16}
"""Size of a process's file for each kind of metric: more than it can fill."""
_NAMESPACE_PATH = Path("/proc/self/ns/pid")
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
    # By default each count asks for the process's id.
    values.ValueClass = values.MultiProcessValue(lambda: name)  # type: ignore[no-untyped-call]
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
    kinds, name = tuple(kinds), f"{os.getpid()}-{_read_namespace()}"
    if reserve_metrics_files(kinds, name=name):
        for kind in kinds:
            # Never closed: the kernel lets go of the lock when the process ends.
            with suppress(OSError):
                fd = os.open(directory / f"{kind}_{name}.db", os.O_RDWR | os.O_CLOEXEC)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


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
    namespace = _read_namespace()
    for path in directory.glob("*"):
        match = _FILE_NAME.fullmatch(path.name)
        if match is not None:
            is_near = match[2] in (None, namespace)
            if _is_alive(int(match[1])) if is_near else is_shown(path):
                continue
        with suppress(OSError):
            path.unlink()


def _read_namespace() -> str:
    """Return the number of this process's PID namespace; 0 where there are none."""
    try:
        return str(_NAMESPACE_PATH.stat().st_ino)
    except OSError:
        return "0"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
