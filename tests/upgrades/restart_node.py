"""A node of web processes alone, whose masters come and go."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.embedded_redis import free_port
from tests.hostile.target import wait_until_ready
from tests.project.chaos_clients import wait_until
from tests.project.nodes import wait_for_end
from torture.node import ROOT, program_environ

WAIT_S = 60


@dataclass(slots=True)
class WebNode:
    """Web processes in a directory.

    Attributes:
        process: the first master.
        masters: process ids of all masters that were seen.
    """

    directory: Path
    port: int
    process: subprocess.Popen[bytes]
    masters: list[int]

    @property
    def log(self) -> str:
        """All that was logged."""
        return (self.directory / "web.log").read_text()

    def workers(self, master: int | None = None) -> set[int]:
        """Return the process ids of the workers of a master; the newest one by default."""
        return children_of(self.masters[-1] if master is None else master)

    def hang_up(self) -> None:
        """Send SIGHUP, and wait until all workers are others."""
        before = self.workers()
        os.kill(self.masters[-1], signal.SIGHUP)
        assert wait_until(lambda: not before & self.workers(), timeout_s=WAIT_S, pause_s=0.05)
        assert len(self.workers()) == len(before)

    def upgrade(self) -> None:
        """Send SIGUSR2, and wait until the new master has workers; the old one goes on."""
        old = self.masters[-1]
        before = children_of(old)
        os.kill(old, signal.SIGUSR2)
        assert wait_until(
            lambda: any(map(children_of, children_of(old) - before)), timeout_s=WAIT_S, pause_s=0.05
        )
        (new,) = (pid for pid in children_of(old) - before if children_of(pid))
        self.masters.append(new)

    def wait_for_log(self, text: str) -> None:
        """Wait until something is logged."""
        assert wait_until(lambda: text in self.log, timeout_s=WAIT_S, pause_s=0.05)

    def end(self, master: int, signal_number: int = signal.SIGTERM) -> None:
        """Send a signal to a master, and wait for its end."""
        os.kill(master, signal_number)
        if master == self.process.pid:
            assert self.process.wait(WAIT_S) == 0
        else:
            wait_for_end(master, WAIT_S)


def children_of(pid: int) -> set[int]:
    """Return the process ids of the children of a process."""
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return set()


@contextmanager
def running_web(directory: Path, *, code: Path | None = None, **settings: str) -> Iterator[WebNode]:
    """Run the web processes of a node without replicas and queue; end them whatever happens.

    Args:
        code: where they run, instead of in the directory, and find what they run.
    """
    port = free_port()
    places = {"WAL_PATH": "wal", "REPLICA1_PATH": "", "REPLICA2_PATH": ""}
    chosen = {"PORT": str(port), **places, **settings}
    config_path = "gunicorn.conf.py" if code else str(ROOT / "gunicorn.conf.py")
    command = [sys.executable, "-m", "gunicorn", "-c", config_path, "wsgi:app"]
    environ = program_environ(directory, chosen)
    with (directory / "web.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=code or directory, env=environ, stderr=log)
    node = WebNode(directory, port, process, [process.pid])
    try:
        wait_until_ready(port, process, None)
        yield node
    finally:
        for master in node.masters:
            with suppress(ProcessLookupError):
                os.kill(master, signal.SIGTERM)
        process.wait(WAIT_S)
        for master in node.masters:
            wait_for_end(master, WAIT_S)
