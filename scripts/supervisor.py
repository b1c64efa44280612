"""Starts processes, starts again those that may be missing for a while, and stops them all.

honcho's Manager was tried first. It kills by a process id that it learns a moment after the start,
so a Ctrl-C in that moment leaves orphans; it stops Redis together with those who need it; and when
it is killed itself its children stay. So only the Procfile's parser is honcho's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 35
"""Longer than Gunicorn's graceful_timeout, so that requests in flight get theirs."""
PAUSE_S = 1
"""Before a part is started again; twice as long each time until it has run for PAUSE_S_MAX."""
PAUSE_S_MAX = 30
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started, under the name it is spoken of."""

    name: str
    process: subprocess.Popen[bytes]


@dataclass(slots=True)
class Part:
    """A part of the node.

    Attributes:
        start: starts it, without waiting for it to be ready.
        vital: its end is the node's end; any other part is started again.
        child: its process; None while it is missing.
    """

    start: Callable[[], Child]
    child: Child | None
    vital: bool = False
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
    status = child.process.returncode
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
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    parent_pid = os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        if libc is not None:  # if we are killed, so that we cannot stop it, the kernel does
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
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
    return Child(name, process)


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
                if part.vital:
                    return part.child
                part.note_end(part.child)
    return None


def stop_children(children: Sequence[Child], *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop processes: SIGTERM to each, SIGKILL to the whole session of one that does not end.

    A further stop signal from outside means: at once.

    Returns:
        True if all of them ended by themselves.
    """
    for child in children:
        if child.process.poll() is None:
            child.process.send_signal(signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    while any(child.process.poll() is None for child in children):
        if signal.sigtimedwait(STOP_SIGNALS, 0.05) is not None or time.monotonic() > deadline_s:
            break
    left = [child for child in children if child.process.poll() is None]
    for child in children:
        kill_session(child)
    return not left


def kill_session(child: Child) -> None:
    """Kill what is left of a child's session: itself, or processes it started and left behind."""
    with suppress(ProcessLookupError):
        os.killpg(child.process.pid, signal.SIGKILL)
    child.process.wait()
