"""Real code of a node, run step by step on a simulated disk.

A *process* is a thread with a node of its own, opened on the same directories as the others. Each
call to the kernel that changes a file, syncs one, or takes a lock, each store to the shared memory
of the control file and each commit of the index is a *step*: the thread stops before it, and the
one who holds the `World` says what comes next: let it go on, kill it there, have the call fail.

The directories are real, so that reading needs no care; the syncs are not, and `Disk` keeps what
they mean. Locks are the kernel's own: open files know each other, whichever thread opened them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.model.disk import Disk

WATCHED = ("wal/", "primary/")
UNWATCHED = ("wal/control", "wal/damaged")
"""The one is shared memory; of the other nothing is ever read."""
CONTROL = "wal/control"
INDEX = "index/dfs.db"
BOOT_OFFSET, OTHER_BOOT = 16, b"0" * 36
CHOICE_OFFSET, SLOT_OFFSETS = 52, (56, 120)
PATIENCE_S = 30.0
real_flock = fcntl.flock


class Killed(BaseException):  # it is no error, and nobody may catch it as one
    """Stands for the death of a process: from here on nothing that it does has any effect."""


class DeadlockError(Exception):
    """All processes wait for each other."""


@dataclass(frozen=True, slots=True)
class Index:
    """What the database held after one of its commits.

    Attributes:
        rows: of all tables, which is what two indexes are compared by. content: its file.
    """

    rows: bytes
    content: bytes = field(compare=False)


@dataclass(frozen=True, slots=True)
class Image:
    """What a node is started on.

    Attributes:
        disk: with what the kernel has not written yet, if it has outlived the processes.
        indexes: what a power cut may leave of the database; the last one is what it holds.
            None: nothing. control: what the control file says, if it is there.
    """

    disk: Disk
    indexes: tuple[Index | None, ...] = (None,)
    control: bytes | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from other images."""
        rows = tuple(index and index.rows for index in self.indexes)
        return self.disk.fingerprint(), rows, describe_control(self.control)

    def write(self, directory: Path) -> None:
        """Make it real."""
        for path, content in self.disk.surviving_processes():
            if content is None:
                (directory / path).mkdir()
            else:
                (directory / path).write_bytes(content)
        index = self.indexes[-1]
        if index is not None:
            (directory / INDEX).parent.mkdir()
            (directory / INDEX).write_bytes(index.content)
        if self.control is not None:
            (directory / CONTROL).write_bytes(self.control)


def _always() -> bool:
    return True


class Process:
    """One process: what it is about to do, and what became of it.

    Attributes:
        at: the step before which it stands. is_free: tells whether it need not wait there.
        is_hasty: steps are done without stopping.
        error: with which it ended.
        history: what its own state depends on. trace: its steps.
    """

    def __init__(self, world: World, number: int, program: Callable[[Process], None]) -> None:
        self.world = world
        self.number = number
        self.at = "begin"
        self.is_free: Callable[[], bool] = _always
        self.is_tearable = self.is_fallible = False
        self.is_hasty = False
        self.is_dead = False
        self.has_ended = False
        self.error: BaseException | None = None
        self.history: list[object] = []
        self.trace: list[str] = []
        self.locked: dict[int, tuple[int, int]] = {}  # fd -> file
        self._verdict = ""
        self._turn = threading.Lock()
        self._turn.acquire()
        self._program = program
        self.thread = threading.Thread(target=self._run, name=f"process-{number}", daemon=True)

    def step(
        self,
        name: str,
        *,
        is_free: Callable[[], bool] = _always,
        is_tearable: bool = False,
        is_fallible: bool = False,
    ) -> str:
        """Stop before a step until it may be done.

        Returns:
            "go", "tear" (do a part of it, then die) or "fail".

        Raises:
            Killed: the process dies here.
        """
        if self.is_dead:
            raise Killed
        self.trace.append(name)
        if self.is_hasty:
            return "go"
        self.at, self.is_free = name, is_free
        self.is_tearable, self.is_fallible = is_tearable, is_fallible
        if not self.world.hand_over(self):
            self._turn.acquire()
        if self._verdict == "kill":
            self.die()
        return self._verdict

    @contextlib.contextmanager
    def hastening(self) -> Iterator[None]:
        """Let nothing come in between inside the block."""
        self.is_hasty = True
        try:
            yield
        finally:
            self.is_hasty = False

    def die(self) -> None:
        """End here; the kernel takes the locks away."""
        self.is_dead = True
        for fd, file in self.locked.items():
            with contextlib.suppress(OSError):
                if file_at(fd) == file:  # else it was closed
                    real_flock(fd, fcntl.LOCK_UN)
        raise Killed

    def tell(self, verdict: str) -> None:
        """Say what becomes of the step."""
        self._verdict = verdict

    def wake(self) -> None:
        """Let it go on."""
        self._turn.release()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if self._verdict != "kill":
                self._program(self)
        except BaseException as error:  # told by whoever runs the world
            self.error = None if isinstance(error, Killed) else error
        self.has_ended = True
        self.world.hand_over(self)


Decide = Callable[[], tuple[int, str] | None]
"""Says which process goes on, and with what verdict; None: none of them."""


class World:
    """Some processes on one directory.

    Args:
        directory: empty. image: what is there at first.
    """

    def __init__(self, directory: Path, image: Image) -> None:
        image.write(directory)
        self.directory = directory
        self.disk = image.disk.copy()
        self._decide: Decide = lambda: None
        self._stopped = threading.Lock()
        self._stopped.acquire()
        self.processes: list[Process] = []
        self.indexes = list(image.indexes)
        self.failed: Process | None = None  # a sync of the log failed for it
        self.index_writer: Process | None = None
        self._own = threading.current_thread()
        self._running: Process | None = None
        self.error: BaseException | None = None
        self._inodes = {
            _identity(directory / path): inode
            for path, _ in self.disk.surviving_processes()
            if (inode := self.disk.find(path)) is not None
        }

    # Running

    def run(self, programs: Sequence[Callable[[Process], None]], decide: Decide) -> None:
        """Have processes run these until nothing is decided any more, then kill what still runs."""
        self._decide = decide
        for number, program in enumerate(programs):
            process = Process(self, number, program)
            self.processes.append(process)
            process.thread.start()
        self.hand_over(None)
        self._await_stop()
        self._decide = lambda: None
        for process in self.processes:
            if not process.has_ended:
                process.tell("kill")
                self._running = process
                process.wake()
                self._await_stop()
            process.thread.join()

    def hand_over(self, process: Process | None) -> bool:
        """Let whoever is chosen go on. Returns whether it is the one who asks."""
        try:
            choice = self._decide()
        except BaseException as error:  # raised by whoever runs the world
            self.error, choice = error, None
        if choice is None:
            self._stopped.release()
            return False
        number, verdict = choice
        chosen = self.processes[number]
        chosen.tell(verdict)
        self._running = chosen
        if chosen is process:
            return True
        chosen.wake()
        return False

    def _await_stop(self) -> None:
        if not self._stopped.acquire(timeout=PATIENCE_S):
            raise DeadlockError([process.at for process in self.processes])

    def current(self) -> Process | None:
        """Return the process whose thread this is, or one of its threads; None for our own."""
        return None if threading.current_thread() is self._own else self._running

    # What is left of it

    def control(self) -> bytes | None:
        """Return what the control file says, as all processes see it."""
        try:
            return (self.directory / CONTROL).read_bytes()
        except FileNotFoundError:
            return None

    def image_after_kill(self) -> Image:
        """Return what is there if all processes die now."""
        return Image(self.disk.copy(), tuple(self.indexes), self.control())

    def images_after_power_cut(self) -> list[Image]:
        """Return all that may be there if the power goes now."""
        trees = dict.fromkeys(self.disk.surviving_power_cut())
        control = self.control()
        if control is not None:
            control = control[:BOOT_OFFSET] + OTHER_BOOT + control[CHOICE_OFFSET:]
        return [
            Image(Disk(tree, pieces=self.disk.pieces), (index,), control)
            for tree in trees
            for index in self.indexes
        ]

    def fingerprint(self) -> tuple[object, ...]:
        """Return what tells this state from others."""
        return (
            self.disk.fingerprint(),
            describe_control(self.control()),
            tuple(index and index.rows for index in self.indexes),
            tuple(
                (process.at, process.is_dead, process.has_ended, tuple(process.history))
                for process in self.processes
            ),
        )

    # What the kernel's calls mean

    def path_of(self, path: object) -> str | None:
        """Return a path relative to the directory if it is watched."""
        if not isinstance(path, str | os.PathLike):
            return None
        text = os.fspath(path)
        prefix = f"{self.directory}/"
        if not isinstance(text, str) or not text.startswith(prefix):
            return None
        relative = text.removeprefix(prefix)
        is_watched = f"{relative}/".startswith(WATCHED) and not relative.startswith(UNWATCHED)
        return relative if is_watched else None

    def inode_of(self, fd: int) -> int | None:
        """Return the watched file that is open as `fd`; None for others."""
        return self._inodes.get(file_at(fd))

    def directory_of(self, fd: int) -> str | None:
        """Return the path of the watched directory that is open as `fd`."""
        path = str(Path(f"/proc/self/fd/{fd}").readlink())
        if path == str(self.directory):
            return ""
        return self.path_of(path)

    def note_created(self, path: str, *, is_directory: bool = False) -> None:
        """Take in a file that was just made."""
        inode = self.disk.create(path, is_directory=is_directory)
        self._inodes[_identity(self.directory / path)] = inode

    def note_hidden_writes(self, fd: int, inode: int) -> None:
        """Take in what came into a file by other ways than the calls that are watched."""
        content = Path(f"/proc/self/fd/{fd}").read_bytes()
        if content != self.disk.seen(inode):
            process = self.current()
            if process is not None:
                process.trace.append(f"write {self.disk.path_of(inode)}")
            self.disk.resize(inode, len(content))
            self.disk.write(inode, 0, content)

    def note_index(self) -> None:
        """Take in what the database holds now."""
        with contextlib.closing(sqlite3.connect(self.directory / INDEX)) as connection:
            names = [
                row[0]
                for row in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'dfs_%' "
                    "ORDER BY name"
                )
            ]
            rows = [[name, *connection.execute(f"SELECT * FROM {name}")] for name in names]
            index = Index(repr(rows).encode(), connection.serialize())
        self.indexes = [*(each for each in self.indexes if each != index), index]

    def note_index_synced(self) -> None:
        """Let the database lose nothing of what it holds now."""
        self.indexes = self.indexes[-1:]


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino


def is_lockable(fd: int, how: int) -> bool:
    """Tell whether a lock can be had at once; takes none."""
    try:
        real_flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    real_flock(fd, fcntl.LOCK_UN)
    return True


def describe_control(content: bytes | None) -> bytes | None:
    """Return what counts of the control file: not the slot that does not hold."""
    if content is None or content[BOOT_OFFSET:CHOICE_OFFSET] == OTHER_BOOT:
        return None
    spare = SLOT_OFFSETS[1 - (content[CHOICE_OFFSET] & 1)]
    return content[:CHOICE_OFFSET] + content[CHOICE_OFFSET + 1 : spare] + content[spare + 64 :]


def file_at(fd: int) -> tuple[int, int]:
    """Return what tells an open file from others."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


def error_of(number: int) -> OSError:
    """Return what the kernel says."""
    return OSError(number, os.strerror(number))


NO_SPACE, IO_ERROR = errno.ENOSPC, errno.EIO
