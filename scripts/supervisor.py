"""Starts processes, stops all of them when one ends or a signal comes, and says which one ended.

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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_INTERVAL_S = 0.2
STOP_TIMEOUT_S = 35
"""Longer than Gunicorn's graceful_timeout, so that requests in flight get theirs."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Child:
    """A process that was started, under the name it is spoken of."""

    name: str
    process: subprocess.Popen[bytes]


def block_stop_signals() -> None:
    """Hold the stop signals back from now on, to be taken by `wait_for_end` and nowhere else."""
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


def wait_for_end(children: Sequence[Child]) -> Child | None:
    """Wait for a stop signal or for the end of a child.

    Returns:
        The child that ended; None for a signal.
    """
    while True:
        if signal.sigtimedwait(STOP_SIGNALS, POLL_INTERVAL_S) is not None:
            return None
        for child in children:
            if child.process.poll() is not None:
                return child


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
