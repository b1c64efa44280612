"""Processes of tests that are killed, forked from one that has imported what they need.

To import it takes most of a second, which a process that lives for a tenth of one can do without.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PRELOADED = [
    "tests.damage.forbidden",
    "tests.services.crash_child",
    "tests.services.garbage_child",
    "tests.services.quota_child",
    "tests.services.restore_child",
]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended; minus the signal if one killed it."""

    status: int
    stdout: bytes
    stderr: bytes


class ForkedProcess:
    """A process that calls a function of a module, begun at once.

    Args:
        main: as it is found in its module.
        arguments: anything that can be pickled.
    """

    def __init__(self, main: Callable[..., None], *arguments: object) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)  # which counts for its first process
        self._directory = tempfile.TemporaryDirectory(prefix="dfs-forked-")
        self._process = context.Process(
            target=_run, args=(self._directory.name, main, arguments), daemon=True
        )
        self._process.start()

    def wait(self, *, timeout_s: float) -> Ended:
        """Return how it ended; it does not outlive the timeout."""
        with self._directory as directory:
            self._process.join(timeout_s)
            status = self._process.exitcode
            if status is None:
                self._process.kill()
                self._process.join()
                raise TimeoutError(f"still running after {timeout_s} s")
            self._process.close()
            stdout, stderr = (Path(directory, name).read_bytes() for name in ("1", "2"))
            return Ended(status, stdout, stderr)


def run_forked(main: Callable[..., None], *arguments: object, timeout_s: float = 60) -> Ended:
    """Run a function in a process of its own until it ends."""
    return ForkedProcess(main, *arguments).wait(timeout_s=timeout_s)


def _run(directory: str, main: Callable[..., None], arguments: tuple[object, ...]) -> None:
    for descriptor in (1, 2):
        file = os.open(Path(directory, str(descriptor)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    main(*arguments)
