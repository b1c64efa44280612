"""Finding the processes of a node: Gunicorn's masters, of which one may replace another."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dfs.core.signs import WEB_PID_NAME


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of a process; none if there is no such process."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(child) for child in children.split()]
    return []


def find_successor(master: int, *, among: Iterable[int]) -> int | None:
    """Return the process that a master has started to replace it, or None.

    Gunicorn tells its successor who it is by the variable GUNICORN_PID.
    """
    wanted = f"GUNICORN_PID={master}".encode()
    for pid in among:
        with suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                return pid
    return None


def find_predecessor(master: int) -> int | None:
    """Return the master that this one was started to replace, if it has not ended; or None."""
    with suppress(OSError, ValueError, IndexError):
        parent = int(Path(f"/proc/{master}/stat").read_text().rpartition(")")[2].split()[1])
        return parent if find_successor(parent, among=[master]) is not None else None
    return None


def read_web_pid(run_path: Path) -> int | None:
    """Return the process id of the master that serves; None if none does."""
    with suppress(OSError, ValueError):
        pid = int((run_path / WEB_PID_NAME).read_text())
        if b"gunicorn" in Path(f"/proc/{pid}/cmdline").read_bytes():  # not an old number, reused
            return pid
    return None
