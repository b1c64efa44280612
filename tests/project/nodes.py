"""Real nodes for tests: started as `make run` starts them, each in a directory of its own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

from torture.node import END_TIMEOUT_S, program_environ


@dataclass(slots=True)
class RunningProgram:
    """A program of dfs that was started; its output is read line by line."""

    process: subprocess.Popen[str]

    def read_until(self, *texts: str) -> str:
        """Return the first line from now on that holds one of these. Fails when the output ends."""
        seen: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            seen.append(line)
            if any(text in line for text in texts):
                return line
        raise AssertionError(f"never printed {texts}:\n{''.join(seen)}")

    def end(self, signal_number: int) -> tuple[int, str]:
        """Send a signal. Returns the exit status and the rest of the output."""
        self.process.send_signal(signal_number)
        output, _ = self.process.communicate(timeout=END_TIMEOUT_S)
        return self.process.returncode, output


@dataclass(slots=True)
class RunningNode(RunningProgram):
    """A whole node, and where it answers."""

    url: str = ""

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Return the status and the body of the answer."""
        headers = {"Connection": "close"}  # else a stopped node waits for another request on it
        answer = urllib3.request(
            method, self.url + path, body=body, headers=headers, retries=False, timeout=20
        )
        return answer.status, answer.data

    def descendants(self) -> dict[int, str]:
        """Return the process ids below this one, with the names of their programs."""
        parents: dict[int, list[int]] = {}
        names: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            names[int(entry.parent.name)] = name
            parents.setdefault(int(rest.split()[1]), []).append(int(entry.parent.name))
        found: dict[int, str] = {}
        queue = [self.process.pid]
        while queue:
            for pid in parents.get(queue.pop(), []):
                found[pid] = names[pid]
                queue.append(pid)
        return found

    def child(self, words: str) -> int:
        """Return the process id of the direct child whose command line holds `words`."""
        for pid in self.descendants():
            status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
            if int(status[1]) == self.process.pid and words in command:
                return pid
        raise AssertionError(f"no child {words!r} among {self.descendants()}")


@contextmanager
def running_program(module: str, directory: Path, **settings: str) -> Iterator[RunningProgram]:
    """Run `python -m module` in `directory`, and end it whatever happens."""
    command = [sys.executable, "-m", module]
    environ = program_environ(directory, settings)
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield RunningProgram(process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=END_TIMEOUT_S)


@contextmanager
def running_node(directory: Path, **settings: str) -> Iterator[RunningNode]:
    """Run a node with its files in `directory`, on a free port, with one web worker.

    Unless other settings are given.
    """
    chosen = {"PORT": "0", "WEB_CONCURRENCY": "1", **settings}
    with running_program("scripts.run", directory, **chosen) as program:
        node = RunningNode(program.process)
        node.url = node.read_until("dfs is ready:").split()[3]
        yield node


def wait_for_end(pid: int, timeout_s: float = END_TIMEOUT_S) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        ended, _, _ = select.select([descriptor], [], [], timeout_s)
        assert ended, f"process {pid} still runs"
    finally:
        os.close(descriptor)
