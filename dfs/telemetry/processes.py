"""Metrics of the processes of a node, as the kernel tells them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfs.telemetry.lookup import Lookup, LookupCollector, Values

PROC_PATH = Path("/proc")
ROLES = (MASTER, WEB, WORKER) = ("master", "web", "worker")
_WORKER_WORD, _WEB_WORD = b"workers.run", b"gunicorn"


@dataclass(frozen=True, slots=True)
class ProcessGauges:
    """What one process takes.

    Attributes:
        role: of `ROLES`.
        cpu_s: of the processor, by user and kernel together.
        started_at_s: Unix time.
    """

    pid: int
    role: str
    cpu_s: float
    resident_bytes: int
    threads: int
    open_fds: int
    started_at_s: float


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a node.

    Attributes:
        seen: those that can be looked at.
        workers_elsewhere: those that run jobs in another container, of which no more is known.
    """

    seen: Sequence[ProcessGauges]
    workers_elsewhere: int = 0


def read_processes(pids: Iterable[int], *, own_pid: int) -> list[ProcessGauges]:
    """Return how these processes are, and the masters of those that serve.

    Args:
        pids: of processes that count, or once did: those that live no more are passed over, and so
            is any other program that has the number of one by now.
        own_pid: whoever asks; it serves, whatever it is called.
    """
    since_s = _read_boot_time()
    found: dict[int, ProcessGauges] = {}
    masters: set[int] = set()
    for pid in {*pids, own_pid}:
        role = WEB if pid == own_pid else find_role(pid)
        stat = _read_stat(pid)
        if role is None or stat is None:
            continue
        found[pid] = _describe(pid, role, stat, since_s)
        if role == WEB and find_role(stat.parent) == WEB:
            masters.add(stat.parent)
    for pid in masters - found.keys():
        stat = _read_stat(pid)
        if stat is not None:
            found[pid] = _describe(pid, MASTER, stat, since_s)
    return [found[pid] for pid in sorted(found)]


def find_role(pid: int) -> str | None:
    """Return what a process is for, by its command line; None if it is none of a node."""
    try:
        command = (PROC_PATH / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    if _WORKER_WORD in command:
        return WORKER
    return WEB if _WEB_WORD in command else None


@dataclass(frozen=True, slots=True)
class _Stat:
    parent: int
    cpu_s: float
    threads: int
    started_s: float
    resident_bytes: int


def _read_stat(pid: int) -> _Stat | None:
    """Read what the kernel tells of a process. Source: proc(5), /proc/PID/stat."""
    try:
        text = (PROC_PATH / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may have any character
    ticks = os.sysconf("SC_CLK_TCK")
    return _Stat(
        parent=int(fields[1]),
        cpu_s=(int(fields[11]) + int(fields[12])) / ticks,
        threads=int(fields[17]),
        started_s=int(fields[19]) / ticks,
        resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
    )


def _read_boot_time() -> float:
    """Return when this machine started, in Unix time."""
    for line in (PROC_PATH / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _describe(pid: int, role: str, stat: _Stat, boot_s: float) -> ProcessGauges:
    try:
        open_fds = len(os.listdir(PROC_PATH / str(pid) / "fd"))  # noqa: PTH208 # only how many
    except OSError:
        open_fds = 0
    return ProcessGauges(
        pid=pid,
        role=role,
        cpu_s=stat.cpu_s,
        resident_bytes=stat.resident_bytes,
        threads=stat.threads,
        open_fds=open_fds,
        started_at_s=boot_s + stat.started_s,
    )


def _of_each(
    name: str, text: str, find: Callable[[ProcessGauges], float], *, is_counter: bool = False
) -> Lookup[Processes]:
    def find_values(found: Processes) -> Values:
        return {(row.role, str(row.pid)): float(find(row)) for row in found.seen}

    return Lookup(name, text, ("role", "pid"), find_values, is_counter)


def _count_roles(found: Processes) -> Values:
    counts = {role: sum(row.role == role for row in found.seen) for role in ROLES}
    counts[WORKER] += found.workers_elsewhere
    return {(role,): float(count) for role, count in counts.items()}


_METRICS: tuple[Lookup[Processes], ...] = (
    Lookup(
        "dfs_processes",
        "Processes of the node: its master, those that serve, and those that run jobs",
        ("role",),
        _count_roles,
    ),
    _of_each(
        "dfs_process_cpu_seconds",
        "Seconds of the processor that the process has used",
        lambda row: row.cpu_s,
        is_counter=True,
    ),
    _of_each(
        "dfs_process_resident_memory_bytes",
        "Memory that the process has in use, what it shares with others included",
        lambda row: row.resident_bytes,
    ),
    _of_each("dfs_process_threads", "Threads of the process", lambda row: row.threads),
    _of_each(
        "dfs_process_open_fds",
        "Files and sockets that the process has open",
        lambda row: row.open_fds,
    ),
    _of_each(
        "dfs_process_start_time_seconds",
        "Unix time at which the process was started",
        lambda row: row.started_at_s,
    ),
)


def collect_processes(read: Callable[[], Processes | None]) -> LookupCollector[Processes]:
    """Return what tells how the processes of the node are."""
    return LookupCollector(read, _METRICS, name="process")
