"""The control file: what survives a death at any instruction, and what is not believed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from dfs.wal import control as control_module
from dfs.wal.control import CONTROL_BYTES, ControlFile, LogPosition

POSITIONS = [LogPosition(number, number * 80, number * 3) for number in range(1, 60)]
OLD, NEW = POSITIONS[:2]
SLOTS = (56, 120)
CHOICE = 52

HOLD_THE_LOCK = """
import sys, time
from pathlib import Path
from dfs.wal.control import ControlFile
with ControlFile(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


class _DeathError(BaseException):
    """Stands for the death of a process."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the control file under test lies."""
    return tmp_path / "control"


def die_at_line(function: str, line_count: int) -> None:
    """Have this thread die before the given line of a function of the control file."""
    lines_left = [line_count]

    def trace_lines(frame: FrameType, event: str, _argument: object) -> object:
        if event == "line":
            if not lines_left[0]:
                sys.settrace(None)
                raise _DeathError
            lines_left[0] -= 1
        return trace_lines

    def trace_calls(frame: FrameType, _event: str, _argument: object) -> object:
        is_ours = frame.f_code.co_filename == control_module.__file__
        return trace_lines if is_ours and frame.f_code.co_name in function.split() else None

    sys.settrace(trace_calls)


def test_control_position_of_new_file_is_none(path: Path) -> None:
    """A control file that nobody reset says nothing."""
    control = ControlFile(path)
    assert control.position is None
    assert control.read_only_reason is None
    assert path.stat().st_mode & 0o777 == 0o600
    control.close()


def test_control_file_has_its_space_from_the_start(path: Path) -> None:
    """No page is a hole: writing to one on a full disk would kill the process by SIGBUS."""
    ControlFile(path).close()
    assert path.stat().st_size == CONTROL_BYTES
    assert path.stat().st_blocks * 512 >= CONTROL_BYTES


def test_control_publish_is_seen_by_another_process_and_after_reopening(path: Path) -> None:
    """Position and flags are shared by all who map the file, and outlive them."""
    one, other = ControlFile(path), ControlFile(path)
    one.reset(OLD)
    assert (other.position, other.is_dirty) == (OLD, False)
    one.mark_dirty()
    assert (other.position, other.is_dirty) == (OLD, True)
    one.publish(NEW)
    assert (other.position, other.is_dirty) == (NEW, False)
    one.close()
    other.close()
    again = ControlFile(path)
    assert again.position == NEW
    again.close()


def test_control_publish_died_at_any_line_leaves_old_or_new(path: Path) -> None:
    """A publish that ends before any of its lines leaves one of the two positions, and dirty."""
    seen: list[LogPosition | None] = []
    for line_count in range(100):
        control = ControlFile(path)
        control.reset(OLD)
        control.mark_dirty()
        die_at_line("publish _set_flags", line_count)
        try:
            control.publish(NEW)
            died = False
        except _DeathError:
            died = True
        finally:
            sys.settrace(None)
            control.close()
        other = ControlFile(path)
        seen.append(other.position)
        assert other.is_dirty == died
        other.close()
        if not died:
            break
    assert seen[0] == OLD
    assert seen[-2:] == [NEW, NEW]
    assert set(seen) == {OLD, NEW}


@pytest.mark.parametrize(
    ("boot_id", "left"), [(None, {OLD, NEW}), (b"0" * 36, {None, NEW})], ids=["same", "other"]
)
def test_control_reset_died_at_any_line_leaves_old_or_new(
    path: Path, boot_id: bytes | None, left: set[LogPosition | None]
) -> None:
    """A reset that ends before any of its lines leaves what was believed before, or the new."""
    seen: list[LogPosition | None] = []
    for line_count in range(100):
        control = ControlFile(path)
        control.reset(OLD)
        control.close()
        if boot_id is not None:
            data = path.read_bytes()
            path.write_bytes(data[:16] + boot_id + data[52:])
        control = ControlFile(path)
        die_at_line("reset publish _set_flags", line_count)
        try:
            control.reset(NEW)
            died = False
        except _DeathError:
            died = True
        finally:
            sys.settrace(None)
            control.close()
        other = ControlFile(path)
        seen.append(other.position)
        other.close()
        if not died:
            break
    assert set(seen) == left
    assert seen == sorted(seen, key=lambda position: position == NEW)


def test_control_slot_half_written_leaves_old(path: Path) -> None:
    """However many bytes of the spare slot were stored, the old position holds."""
    control = ControlFile(path)
    control.reset(OLD)
    old = path.read_bytes()
    control.publish(NEW)
    control.close()
    new = path.read_bytes()
    spare = SLOTS[new[CHOICE]]
    for count in range(29):
        path.write_bytes(old[:spare] + new[spare : spare + count] + old[spare + count :])
        control = ControlFile(path)
        assert control.position == OLD
        control.close()


def test_control_slot_damaged_is_not_believed(path: Path) -> None:
    """A position whose CRC32 does not fit is none."""
    control = ControlFile(path)
    control.reset(OLD)
    control.close()
    data = bytearray(path.read_bytes())
    data[SLOTS[data[CHOICE]] + 9] ^= 1
    path.write_bytes(data)
    control = ControlFile(path)
    assert control.position is None
    control.close()


@pytest.mark.crash
def test_control_publish_killed_leaves_a_published_position(path: Path) -> None:
    """A process killed while it publishes leaves a position that it published, every time."""
    control = ControlFile(path)
    control.reset(OLD)
    for round_ in range(20):
        child = os.fork()
        if child == 0:
            while True:
                for position in POSITIONS:
                    control.publish(position)
        seen = {control.position for _ in range(50 + round_ * 40)}
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert seen <= set(POSITIONS)
        assert control.position in POSITIONS
    control.close()


def test_control_position_read_while_published_is_never_mixed(path: Path) -> None:
    """Readers without the lock see whole positions only, and always one."""
    writer, reader = ControlFile(path), ControlFile(path)
    writer.reset(OLD)
    done = threading.Event()

    def publish() -> None:
        while not done.is_set():
            for position in POSITIONS:
                writer.publish(position)

    thread = threading.Thread(target=publish)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        seen = {reader.position for _ in range(20_000)}
    finally:
        sys.setswitchinterval(interval)
        done.set()
        thread.join()
        writer.close()
        reader.close()
    assert seen <= set(POSITIONS)


class _TornOnce:
    """A map of the control file whose slots read half old and half new, the first time."""

    def __init__(self, mapped: Any) -> None:
        self._mapped = mapped
        self.torn_reads = 0

    def __getitem__(self, key: Any) -> Any:
        data = self._mapped[key]
        if isinstance(key, slice) and key.start in SLOTS and not self.torn_reads:
            self.torn_reads += 1
            return data[:8] + bytes(8) + data[16:]
        return data

    def close(self) -> None:
        self._mapped.close()


def test_control_position_read_torn_is_read_again(path: Path) -> None:
    """A slot that another process was writing is not taken for a log without position."""
    control = ControlFile(path)
    control.reset(OLD)
    torn = _TornOnce(control._map)
    control._map = torn  # type: ignore[assignment]
    assert control.position == OLD
    assert torn.torn_reads == 1
    control.close()


def test_control_of_another_boot_is_not_believed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a reboot neither position nor read-only flag of the file counts, until a reset."""
    control = ControlFile(path)
    control.reset(OLD)
    control.mark_read_only("the disk")
    control.close()
    monkeypatch.setattr(control_module, "read_boot_id", lambda: b"0" * 36)
    control = ControlFile(path)
    assert control.position is None
    assert control.read_only_reason is None
    control.reset(NEW)
    assert control.position == NEW
    assert control.read_only_reason is None
    control.close()


@pytest.mark.parametrize("at", [0, 8, 16])
def test_control_with_foreign_head_is_not_believed(path: Path, at: int) -> None:
    """Another magic, format version or boot id makes it say nothing."""
    control = ControlFile(path)
    control.reset(OLD)
    control.close()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    control = ControlFile(path)
    assert control.position is None
    control.close()


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\xff" * 5000])
def test_control_file_of_garbage_is_opened_and_reset(path: Path, content: bytes) -> None:
    """Whatever the file holds, it says nothing until it is reset."""
    path.write_bytes(content)
    control = ControlFile(path)
    assert control.position is None
    control.reset(NEW)
    assert (control.position, control.is_dirty, control.read_only_reason) == (NEW, False, None)
    control.close()


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("the disk failed", "the disk failed"),
        ("", "unknown"),
        ("x" * 1000, "x" * 319),
        ("é" * 200, "é" * 159),
        ("a" + "\U0001f4be" * 100, "a" + "\U0001f4be" * 79),
        ("path=\udcff", "path=?"),
    ],
    ids=["plain", "empty", "long", "two-bytes", "four-bytes", "surrogate"],
)
def test_control_read_only_is_marked_with_any_reason(path: Path, reason: str, kept: str) -> None:
    """The flag is set whatever the reason, which is cut between two characters."""
    one, other = ControlFile(path), ControlFile(path)
    one.reset(OLD)
    one.mark_read_only(reason)
    assert other.read_only_reason == kept
    assert (other.position, other.is_dirty) == (OLD, False)
    one.mark_read_only("later")
    assert other.read_only_reason == "later"
    one.reset(OLD)
    assert other.read_only_reason is None
    one.close()
    other.close()


def test_control_read_only_survives_publish(path: Path) -> None:
    """Only a reset takes the flag away."""
    control = ControlFile(path)
    control.reset(OLD)
    control.mark_read_only("the disk")
    control.publish(NEW)
    assert control.read_only_reason == "the disk"
    control.close()


@pytest.mark.crash
def test_control_lock_is_released_when_its_holder_is_killed(path: Path) -> None:
    """The lock keeps others out while its process lives, and not a moment longer."""
    ControlFile(path).close()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder, open(path, "rb") as file:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.wait()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_control_lock_is_released_when_its_body_raises(path: Path) -> None:
    """An error inside does not keep the lock."""
    control, other = ControlFile(path), ControlFile(path)
    with pytest.raises(ZeroDivisionError), control.lock():
        raise ZeroDivisionError
    with other.lock():
        pass
    control.close()
    other.close()


def test_control_members_are_counted_until_they_close(path: Path) -> None:
    """Those who joined are seen by those who did not, until they close."""
    one, other, third = ControlFile(path), ControlFile(path), ControlFile(path)
    assert not third.has_others()
    one.join()
    other.join()
    assert third.has_others()
    one.close()
    assert third.has_others()
    other.close()
    assert not third.has_others()
    third.close()


def test_close_waits_until_the_lock_is_released(path: Path) -> None:
    """A thread that is inside goes on with what it holds; whoever comes later is refused."""
    control = ControlFile(path)
    control.reset(OLD)
    with ThreadPoolExecutor() as pool:
        with control.lock():
            closing = pool.submit(control.close)
            with pytest.raises(TimeoutError):
                closing.result(timeout=0.2)
            control.publish(NEW)
        assert closing.result(timeout=30)
    with pytest.raises(RuntimeError, match="closed"), control.lock():
        pass


def test_close_leaves_a_change_alone_that_does_not_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor stays its own, so that what it unlocks is this file."""
    monkeypatch.setattr(control_module, "CLOSE_WAIT_S", 0.1)
    control = ControlFile(path)
    with control.lock():
        assert not control.close()
        control.reset(NEW)
    assert control.position == NEW
    assert control.close()
