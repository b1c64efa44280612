"""What the kernel knows of the processes of a server: which they are, and their memory."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLE_INTERVAL_S = 0.05


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of some processes together, in bytes.

    Attributes:
        pss: resident, each shared page divided among those that share it.
        rss: resident, shared pages counted once for every process.
    """

    pss: int
    rss: int


@dataclass(slots=True)
class Watched:
    """Memory of a process tree before a load and at its highest. Complete when the watch ends."""

    before: Memory
    peak: Memory

    @property
    def growth(self) -> Memory:
        """How far it rose."""
        return Memory(pss=self.peak.pss - self.before.pss, rss=self.peak.rss - self.before.rss)


def find_tree(root_pid: int) -> list[int]:
    """Return the ids of a process and of all that descend from it."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    tree = [root_pid]
    for pid in tree:
        tree.extend(children.get(pid, ()))
    return tree


def read_cpu_s(pids: list[int]) -> float:
    """Return the seconds of processor time that these processes have used since they began."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def read_memory(pids: list[int]) -> Memory:
    """Return what these processes hold now. One that has ended counts nothing."""
    totals = {"Pss:": 0, "Rss:": 0}
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(" ")
                if name in totals:
                    totals[name] += int(rest.split()[0]) << 10
    return Memory(pss=totals["Pss:"], rss=totals["Rss:"])


@dataclass(slots=True)
class Use:
    """What a load has used of the machine. Complete when the watch ends.

    Attributes:
        cpu_s: processor time. rss_peak_bytes: sum of the highest resident memory of each process.
    """

    cpu_s: float = 0.0
    rss_peak_bytes: int = 0


@contextlib.contextmanager
def watch_use(root_pid: int) -> Iterator[Use]:
    """Have the kernel take down what a process tree uses while the body runs."""
    pids = find_tree(root_pid)
    use = Use()
    reset_peaks(pids)
    before_s = read_cpu_s(pids)
    yield use
    use.cpu_s = read_cpu_s(pids) - before_s
    use.rss_peak_bytes = sum(map(read_peak, pids))


def reset_peaks(pids: list[int]) -> None:
    """Have the kernel look for the highest memory of these processes anew."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def read_peak(pid: int) -> int:
    """Return the highest resident memory of a process since then, in bytes. 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return 0


def read_command(pid: int) -> str:
    """Return the command line of a process. Empty if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


@contextlib.contextmanager
def watch_memory(root_pid: int) -> Iterator[Watched]:
    """Sample the memory of a process tree while the body runs."""
    pids = find_tree(root_pid)
    before = read_memory(pids)
    watched = Watched(before, before)
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(SAMPLE_INTERVAL_S):
            now, peak = read_memory(pids), watched.peak
            watched.peak = Memory(pss=max(peak.pss, now.pss), rss=max(peak.rss, now.rss))

    sampler = threading.Thread(target=sample, name="memory-sampler")
    sampler.start()
    try:
        yield watched
    finally:
        ended.set()
        sampler.join()
