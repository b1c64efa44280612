"""Starts processes, starts again those that may be missing for a while, and stops them all.

honcho's Manager was tried first. It kills by a process id that it learns a moment after the start,
so a Ctrl-C in that moment leaves orphans; it stops Redis together with those who need it; and when
it is killed itself its children stay. So only the Procfile's parser is honcho's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dfs.core.parent import end_with_parent
from scripts.processes import children_of, find_successor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 35
"""Longer than Gunicorn's graceful_timeout, so that requests in flight get theirs."""
PAUSE_S = 1
"""Before a part is started again; twice as long each time until it has run for PAUSE_S_MAX."""
PAUSE_S_MAX = 30


class Process(Protocol):
    """What is needed of a process, as `subprocess.Popen` has it."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return how it ended, None if it has not."""

    def wait(self) -> int | None:
        """Wait for its end, and return how it ended."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal, if it has not ended."""


class AdoptedProcess:
    """A process that a child of ours has started, and that is our own child once that one ends.

    See `dfs.core.parent.adopt_orphans`.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """See `Process`."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # not ours yet; if it has ended, nobody can tell how
                if not Path(f"/proc/{self.pid}").exists():
                    self.returncode = 0
        return self.returncode

    def wait(self) -> int | None:
        """See `Process`."""
        while self.poll() is None:
            time.sleep(0.05)
        return self.returncode

    def send_signal(self, sig: int) -> None:
        """See `Process`."""
        if self.poll() is None:
            os.kill(self.pid, sig)


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started, under the name it is spoken of.

    Attributes:
        session: id of its session, which is that of whoever it has replaced.
    """

    name: str
    process: Process
    session: int


@dataclass(slots=True)
class Part:
    """A part of the node.

    Attributes:
        start: starts it, without waiting for it to be ready.
        vital: its end is the node's end, unless another process has taken its place; any other
            part is started again.
        renewed: is started again when a vital part is replaced, since its program may be new, too.
        child: its process; None while it is missing.
    """

    start: Callable[[], Child]
    child: Child | None
    vital: bool = False
    renewed: bool = False
    _failures: int = field(default=0, init=False)
    _since_s: float = field(default_factory=time.monotonic, init=False)
    _due_s: float = field(default=0.0, init=False)

    def note_end(self, child: Child) -> None:
        """Say that the process ended and settle when it is started again."""
        kill_session(child)
        self.child = None
        self._plan(f"{child.name} {describe_end(child)}")

    def start_when_due(self) -> None:
        """Start it again if the pause is over."""
        if time.monotonic() < self._due_s:
            return
        try:
            self.child = self.start()
        except (OSError, subprocess.SubprocessError) as error:
            self._plan(f"a process could not be started again: {error}")
        else:
            self._since_s = time.monotonic()
            print(f"dfs: {self.child.name} was started again.", file=sys.stderr, flush=True)

    def _plan(self, reason: str) -> None:
        now_s = time.monotonic()
        if now_s - self._since_s > PAUSE_S_MAX:
            self._failures = 0
        pause_s = min(PAUSE_S_MAX, PAUSE_S * 2**self._failures)
        self._failures += 1
        self._due_s = now_s + pause_s
        print(f"dfs: {reason}; next try in {pause_s:g} s.", file=sys.stderr, flush=True)


def describe_end(child: Child) -> str:
    """Return how a process ended, as the rest of a sentence."""
    status = child.process.poll() or 0
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"


def block_stop_signals() -> None:
    """Hold the stop signals back from now on, to be taken by `keep_running` and nowhere else."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def start_child(
    name: str,
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    directory: Path,
    log: int | None = None,
) -> Child:
    """Start a process in a session of its own: a Ctrl-C in the terminal reaches only us.

    Args:
        log: file descriptor for its output; None: ours.
    """
    parent_pid = os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        end_with_parent()  # if we are killed, so that we cannot stop it, the kernel does
        if os.getppid() != parent_pid:
            os.kill(os.getpid(), signal.SIGTERM)

    process = subprocess.Popen(
        command,
        env=dict(environ),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=prepare,  # noqa: PLW1509 # we have one thread only
    )
    return Child(name, process, session=process.pid)


def keep_running(parts: Sequence[Part]) -> Child | None:
    """Start parts again that end, until a stop signal comes or a vital part ends.

    Returns:
        The vital part's process; None for a signal.
    """
    while signal.sigtimedwait(STOP_SIGNALS, POLL_INTERVAL_S) is None:
        for part in parts:
            if part.child is None:
                part.start_when_due()
            elif part.child.process.poll() is not None:
                if not part.vital:
                    part.note_end(part.child)
                    continue
                successor = successor_of(part.child)
                if successor is None:
                    return part.child
                print(f"dfs: {successor.name} was replaced.", file=sys.stderr, flush=True)
                part.child = successor
                renew(parts)
    return None


def successor_of(child: Child) -> Child | None:
    """Return the process that takes the place of another, ended or not; None if there is none.

    Gunicorn's master starts another one after SIGUSR2, which goes on when it ends itself.
    """
    pid = child.process.pid
    successor = find_successor(pid, among=[*children_of(pid), *children_of(os.getpid())])
    if successor is None:
        return None
    return Child(child.name, AdoptedProcess(successor), child.session)


def renew(parts: Sequence[Part]) -> None:
    """Have parts end that are to run the program that is there now; they are started again."""
    for part in parts:
        if part.renewed and part.child is not None:
            part.child.process.send_signal(signal.SIGTERM)


def stop_children(children: Sequence[Child], *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop processes: SIGTERM to each, SIGKILL to the whole session of one that does not end.

    Those that are about to replace one of them are stopped like it. A further stop signal from
    outside means: at once.

    Returns:
        True if all of them ended by themselves.
    """
    children = list(children)
    told: set[int] = set()
    deadline_s = time.monotonic() + timeout_s
    while True:
        # First: whoever was started before the last of them ended is found below, as our own child.
        have_ended = all(child.process.poll() is not None for child in children)
        known = {child.process.pid for child in children}
        found = filter(None, map(successor_of, children))
        new = [child for child in found if child.process.pid not in known]
        if have_ended and not new:
            break
        children += new
        for child in children:
            if child.process.pid not in told:
                child.process.send_signal(signal.SIGTERM)
        told = {child.process.pid for child in children}
        if signal.sigtimedwait(STOP_SIGNALS, 0.05) is not None or time.monotonic() > deadline_s:
            break
    left = [child for child in children if child.process.poll() is None]
    for child in children:
        kill_session(child)
    return not left


def kill_session(child: Child) -> None:
    """Kill what is left of a child's session: itself, or processes it started and left behind."""
    with suppress(ProcessLookupError):
        os.killpg(child.session, signal.SIGKILL)
    child.process.wait()
