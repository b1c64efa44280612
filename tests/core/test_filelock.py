"""The lock between threads and processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from dfs.core.filelock import FileLock, Gate

HOLDER = """
import sys
from pathlib import Path
from dfs.core.filelock import FileLock
with FileLock(Path(sys.argv[1])).hold(timeout_s=5) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_filelock_held_by_another_process_is_refused_until_it_dies(tmp_path: Path) -> None:
    """Two processes never hold it at once, and a dead one does not keep it."""
    path = tmp_path / "lock"
    lock = FileLock(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        with lock.hold(timeout_s=0.02) as held:
            assert not held
        holder.kill()
        with lock.hold(timeout_s=30) as held:
            assert held
    lock.close()


def test_filelock_held_by_another_thread_is_refused(tmp_path: Path) -> None:
    """Two threads that share it never hold it at once."""
    lock = FileLock(tmp_path / "lock")
    seen: list[bool] = []

    def look() -> None:
        with lock.hold(timeout_s=0) as held:
            seen.append(held)

    with lock.hold(timeout_s=0) as held:
        assert held
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    look()
    assert seen == [False, True]
    lock.close()


def test_filelock_closed_while_it_is_held_stays_with_its_holder(tmp_path: Path) -> None:
    """It is a thread that a store keeps: until it is done, nobody else may work there."""
    lock, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with lock.hold(timeout_s=0) as held:
        lock.close()
        with other.hold(timeout_s=0) as held_by_other:
            assert (held, held_by_other) == (True, False)
    with other.hold(timeout_s=0) as held_by_other:
        assert held_by_other
    lock.close()
    other.close()


def test_gate_lets_many_pass_and_one_shut_it(tmp_path: Path) -> None:
    """Threads count like processes, each use by itself."""
    gate = Gate(tmp_path / "gate")
    with gate.passing(), gate.passing(), gate.shut(timeout_s=0.02) as is_shut:
        assert not is_shut
    with gate.shut(timeout_s=0) as is_shut:
        assert is_shut
        with Gate(tmp_path / "gate").shut(timeout_s=0) as is_shut_again:
            assert not is_shut_again


def test_gate_that_is_shut_keeps_others_waiting(tmp_path: Path) -> None:
    """Until it is opened again."""
    gate = Gate(tmp_path / "gate")
    passed = threading.Event()

    def go_through() -> None:
        with gate.passing():
            passed.set()

    thread = threading.Thread(target=go_through)
    with gate.shut(timeout_s=0) as is_shut:
        assert is_shut
        thread.start()
        assert not passed.wait(0.05)
    assert passed.wait(30)
    thread.join()
