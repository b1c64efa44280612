"""What uploads leave of a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from dfs.core import disk as module
from dfs.core.disk import INDEX, LOG, LOOK_BYTES, LOOK_INODES, PRIMARY, Disk, Disks, Space
from dfs.core.errors import NoSpaceError, StoreUnavailableError

RESERVE_BYTES, RESERVE_INODES = 100 << 20, 50


class Kernel:
    """Says what is left, in the place of the kernel, and counts how often it is asked."""

    def __init__(self) -> None:
        self.space = Space(RESERVE_BYTES, RESERVE_INODES)
        self.moment_s = 0.0
        self.asked = 0

    def leave(self, size: int = 0, inodes: float = 1000) -> None:
        """Leave so much besides the reserve."""
        self.space = Space(RESERVE_BYTES + size, RESERVE_INODES + inodes)

    def find_space(self, place: Path) -> Space:
        self.asked += 1
        return self.space


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    """A kernel and a clock that the test sets."""
    kernel = Kernel()
    monkeypatch.setattr(module, "find_space", kernel.find_space)
    monkeypatch.setattr("dfs.core.disk.time.monotonic", lambda: kernel.moment_s)
    return kernel


@pytest.fixture
def disk(kernel: Kernel, tmp_path: Path) -> Disk:
    """A disk of which the kernel says what is left."""
    made = Disk(path=tmp_path, reserve_bytes=RESERVE_BYTES, reserve_inodes=RESERVE_INODES)
    made.holds.append("log")
    return made


@dataclass(eq=False)
class Body:
    """A body on its way in."""

    length: int | None
    received: int = 0


def test_take_gives_what_is_left_and_not_the_reserve(kernel: Kernel, disk: Disk) -> None:
    """To the byte, and says what is full."""
    kernel.leave(5000)
    disk.take(5000)
    kernel.leave(0)
    with pytest.raises(NoSpaceError, match="disk of the log is full"):
        disk.take(1)


def test_take_of_many_small_ones_seldom_asks_the_kernel(kernel: Kernel, disk: Disk) -> None:
    """Once for a MiB; a small upload costs no system call."""
    kernel.leave(1 << 40)
    for _ in range(4096):
        disk.take(1024)
    assert kernel.asked == 4096 * 1024 // LOOK_BYTES


def test_take_never_gives_more_than_was_left_when_the_kernel_was_asked(
    kernel: Kernel, disk: Disk
) -> None:
    """Threads that come at once share what one of them has found."""
    kernel.leave(LOOK_BYTES // 2)
    asked, writing = threading.Barrier(8), threading.Lock()
    given: list[int] = []

    def take(_: int) -> None:
        asked.wait()
        for _ in range(200):
            try:
                disk.take(1000)
            except NoSpaceError:
                return
            with writing:
                given.append(1000)
                kernel.space = Space(kernel.space.bytes - 1000, 10**6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, range(8)))
    assert LOOK_BYTES // 2 - 8000 <= sum(given) <= LOOK_BYTES // 2 + 8000


@pytest.mark.parametrize(
    "ask", [lambda disk: disk.take(LOOK_BYTES), lambda disk: disk.expect(Body(1 << 30))]
)
def test_take_waits_for_no_other_that_asks_the_kernel(
    kernel: Kernel, disk: Disk, ask: Callable[[Disk], None]
) -> None:
    """A kernel that is slow to answer keeps one upload waiting, not all."""
    kernel.leave(1 << 40)
    asked, answers = threading.Event(), threading.Event()

    def look_slowly() -> Space:
        if not asked.is_set():
            asked.set()
            assert answers.wait(30)
        return Space(1 << 40, 10**6)

    disk.look = look_slowly  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(ask, disk)
        assert asked.wait(30)
        pool.submit(disk.take, 1).result(30)
        answers.set()
        slow.result(30)


def test_take_counts_what_others_have_asked_for_meanwhile(kernel: Kernel, disk: Disk) -> None:
    """Of what one has found left, another that asked at the same time has taken his part."""
    kernel.leave(1000)
    both_ask = threading.Barrier(2)

    def look_together() -> Space:
        both_ask.wait(30)
        return kernel.find_space(Path())

    with pytest.MonkeyPatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(disk, "look", look_together)
        list(pool.map(disk.take, [400, 400]))
    disk.take(200)
    kernel.leave(0)
    with pytest.raises(NoSpaceError):
        disk.take(1)


def test_take_asks_again_after_a_while(kernel: Kernel, disk: Disk) -> None:
    """Others write to the disk, too; and what they free is found without a restart."""
    kernel.leave(LOOK_BYTES)
    disk.take(1)
    kernel.leave(0)
    disk.take(1)
    kernel.moment_s += module.LOOK_S
    with pytest.raises(NoSpaceError):
        disk.take(1)
    kernel.leave(1)
    disk.take(1)


def test_take_counts_files_like_bytes(kernel: Kernel, disk: Disk) -> None:
    """The reserve of inodes is kept by those who make files."""
    kernel.leave(1 << 40, inodes=LOOK_INODES)
    for _ in range(LOOK_INODES // 4):
        disk.take(0, inodes=4)
    assert kernel.asked == 1
    kernel.leave(1 << 40, inodes=3)
    with pytest.raises(NoSpaceError):
        disk.take(0, inodes=4)
    kernel.leave(1 << 40, inodes=-1)
    with pytest.raises(NoSpaceError):
        disk.take(1)


def test_take_of_a_file_system_without_inodes_asks_for_bytes_only(
    kernel: Kernel, disk: Disk
) -> None:
    """Some make inodes as they are needed, and have none left at any time."""
    kernel.leave(1 << 40, inodes=float("inf"))
    disk.take(1000, inodes=1 << 40)


def test_take_from_a_disk_that_is_gone_says_so(tmp_path: Path) -> None:
    """It is not taken to be full."""
    disk = Disk(path=tmp_path / "gone", reserve_bytes=0, reserve_inodes=0)
    with pytest.raises(StoreUnavailableError):
        disk.take(0)


def test_expect_counts_what_is_still_to_come_of_others(kernel: Kernel, disk: Disk) -> None:
    """Two bodies that fit one by one do not fit together; what has come is on the disk."""
    first, second = Body(60 << 20), Body(60 << 20)
    kernel.leave(100 << 20)
    disk.expect(first)
    with pytest.raises(NoSpaceError):
        disk.expect(second)
    first.received = 20 << 20
    kernel.leave(80 << 20)
    with pytest.raises(NoSpaceError):
        disk.expect(second)
    disk.forget(first)
    disk.expect(second)
    disk.forget(Body(1))


def test_expect_believes_little_of_a_body_that_does_not_come(kernel: Kernel, disk: Disk) -> None:
    """Who declares a whole disk and sends nothing keeps nobody else from it; who sends, does."""
    liar, honest = Body(90 << 30), Body(60 << 30)
    kernel.leave(100 << 30)
    disk.expect(liar)
    disk.expect(honest)
    disk.forget(honest)
    liar.received = 30 << 30
    kernel.leave(70 << 30)
    with pytest.raises(NoSpaceError):
        disk.expect(honest)


def test_expect_of_an_unknown_length_asks_for_some_room(kernel: Kernel, disk: Disk) -> None:
    """What comes of it is taken as it comes, and nothing is promised to it."""
    kernel.leave(0)
    disk.expect(Body(None, received=1 << 40))
    disk.expect(Body(None))
    kernel.leave(-1)
    with pytest.raises(NoSpaceError):
        disk.expect(Body(None))


def test_disks_expect_only_what_is_worth_asking_for(kernel: Kernel, tmp_path: Path) -> None:
    """A small body takes its room when it is here; a large one needs room for its records, too."""
    paths = {LOG: Path("/proc"), PRIMARY: tmp_path}
    disks = Disks(paths, reserve_bytes=RESERVE_BYTES, reserve_inodes=RESERVE_INODES)
    kernel.leave(-1)
    disks.expect(Body(LOOK_BYTES))
    for length in (None, LOOK_BYTES + 1):
        with pytest.raises(NoSpaceError, match="disk of the log"):
            disks.expect(Body(length))


def test_disks_know_which_directories_share_one(tmp_path: Path) -> None:
    """Those that are not there yet will be on the disk of the one above."""
    paths = {LOG: tmp_path / "a" / "log", PRIMARY: tmp_path, INDEX: Path("/proc")}
    disks = Disks(paths, reserve_bytes=1, reserve_inodes=1)
    log, primary = disks.holding(tmp_path / "b"), disks.holding(tmp_path)
    assert log is primary
    assert log is not None
    assert log.holds == [LOG, PRIMARY]
    assert disks.holding(Path("/proc/self")) not in (None, log)
    alone = Disks(dict.fromkeys((LOG, PRIMARY), tmp_path), reserve_bytes=1, reserve_inodes=1)
    assert alone.holding(Path("/proc")) is None
