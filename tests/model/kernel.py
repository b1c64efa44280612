"""The calls to the kernel, watched: each one that changes something stops the process before it."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import secrets
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import structlog

from dfs.core.clock import now_ms
from dfs.core.errors import NoSpaceError
from dfs.db.session import IndexDatabase
from dfs.db.transaction import IndexTransaction
from dfs.wal import control
from tests.model.world import (
    IO_ERROR,
    NO_SPACE,
    Process,
    World,
    error_of,
    file_at,
    is_lockable,
    real_flock,
)

MOMENT_MS = 1_700_000_000_000
CALLS = (
    *("open", "close", "write", "pwrite", "pwritev", "ftruncate", "fsync", "fdatasync"),
    *("rename", "link", "unlink", "mkdir"),
)
REAL = SimpleNamespace(**{name: getattr(os, name) for name in CALLS})


class Kernel:
    """Stands between the processes of a world and the kernel, for as long as it is `watching`."""

    def __init__(self) -> None:
        self.world: World | None = None
        self.numbers = itertools.count()

    def watch(self, world: World) -> None:
        """Watch the processes of this world from now on."""
        self.world, self.numbers = world, itertools.count()

    def process(self) -> Process | None:
        return None if self.world is None else self.world.current()

    # Files

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        process = self.process()
        relative = None if process is None else process.world.path_of(path)
        if process is None or relative is None or not flags & (os.O_CREAT | os.O_TRUNC):
            return int(REAL.open(path, flags, mode, dir_fd=dir_fd))
        disk = process.world.disk
        inode = disk.find(relative)
        if inode is None or flags & os.O_TRUNC:
            process.step(f"open {relative}")
        fd = int(REAL.open(path, flags, mode, dir_fd=dir_fd))
        if inode is None:
            process.world.note_created(relative)
        elif flags & os.O_TRUNC:
            disk.resize(inode, 0)
        return fd

    def write(self, fd: int, data: Any) -> int:
        return self._put(fd, [data], os.lseek(fd, 0, os.SEEK_CUR), lambda d: REAL.write(fd, d[0]))

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return self._put(fd, [data], offset, lambda d: REAL.pwritev(fd, d, offset))

    def pwritev(self, fd: int, buffers: Any, offset: int) -> int:
        return self._put(fd, buffers, offset, lambda d: REAL.pwritev(fd, d, offset))

    def _put(self, fd: int, buffers: Any, offset: int, do: Callable[[Any], int]) -> int:
        process = self.process()
        inode = None if process is None else process.world.inode_of(fd)
        if process is None or inode is None:
            return do(buffers)
        disk, pieces = process.world.disk, [bytes(each) for each in buffers]
        verdict = process.step(f"write {disk.path_of(inode)}", is_tearable=True, is_fallible=True)
        if verdict != "go":
            pieces = [pieces[0][: len(pieces[0]) // 2]]
        written = do(pieces)
        for piece in pieces:
            disk.write(inode, offset, piece)
            offset += len(piece)
        if verdict == "tear":
            process.die()
        if verdict == "fail":
            raise error_of(NO_SPACE)
        return written

    def ftruncate(self, fd: int, size: int) -> None:
        process = self.process()
        inode = None if process is None else process.world.inode_of(fd)
        if process is not None and inode is not None:
            process.step(f"truncate {process.world.disk.path_of(inode)}")
            process.world.disk.resize(inode, size)
        REAL.ftruncate(fd, size)

    def fsync(self, fd: int) -> None:
        process = self.process()
        if process is None:
            REAL.fsync(fd)
            return
        world = process.world
        inode = world.inode_of(fd)
        directory = world.directory_of(fd) if stat.S_ISDIR(os.fstat(fd).st_mode) else None
        if inode is not None and directory is None:
            world.note_hidden_writes(fd, inode)
            if process.step(f"sync {world.disk.path_of(inode)}", is_fallible=True) == "fail":
                world.disk.fail_sync_file(inode)
                if inode == world.disk.find("wal/wal.active"):
                    world.failed = process
                raise error_of(IO_ERROR)
            world.disk.sync_file(inode)
        elif directory is not None:
            if process.step(f"sync {directory}/", is_fallible=True) == "fail":
                world.disk.fail_sync_directory(directory)
                raise error_of(IO_ERROR)
            world.disk.sync_directory(directory)

    # Names

    def rename(self, source: Any, target: Any) -> None:
        process, old, new = self._two_paths(source, target)
        if process is not None and old is not None and new is not None:
            process.step(f"rename {old} {new}")
            process.world.disk.rename({old: None, new: process.world.disk.find(old)})
        REAL.rename(source, target)

    def link(self, source: Any, target: Any) -> None:
        process, old, new = self._two_paths(source, target)
        if process is not None and old is not None and new is not None:
            process.step(f"link {old} {new}")
            process.world.disk.rename({new: process.world.disk.find(old)})
        REAL.link(source, target)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        process = self.process()
        relative = None if process is None else process.world.path_of(path)
        is_there = relative is not None and os.path.lexists(path)
        if process is not None and relative is not None and is_there:
            process.step(f"unlink {relative}")
            process.world.disk.rename({relative: None})
        REAL.unlink(path, dir_fd=dir_fd)

    def mkdir(self, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        process = self.process()
        relative = None if process is None else process.world.path_of(path)
        if process is None or relative is None or os.path.lexists(path):
            REAL.mkdir(path, mode, dir_fd=dir_fd)
            return
        process.step(f"mkdir {relative}")
        REAL.mkdir(path, mode, dir_fd=dir_fd)
        process.world.note_created(relative, is_directory=True)

    def _two_paths(self, source: Any, target: Any) -> tuple[Process | None, str | None, str | None]:
        process = self.process()
        if process is None:
            return None, None, None
        return process, process.world.path_of(source), process.world.path_of(target)

    # Locks and shared memory

    def flock(self, fd: int, how: int) -> None:
        process = self.process()
        if process is None:
            real_flock(fd, how)
            return
        if process.is_dead:
            raise_dead(process)
        if how & fcntl.LOCK_EX and not how & fcntl.LOCK_NB:
            process.step(f"lock {name_of(fd)}", is_free=lambda: is_lockable(fd, how))
            process.history.append(process.world.disk.fingerprint())
            process.history.append(process.world.control())
        elif how == fcntl.LOCK_UN:
            process.step(f"unlock {name_of(fd)}")
        real_flock(fd, how)
        if how == fcntl.LOCK_UN:
            process.locked.pop(fd, None)
        else:
            process.locked[fd] = file_at(fd)

    def close(self, fd: int) -> None:
        process = self.process()
        if process is not None:
            process.locked.pop(fd, None)
        REAL.close(fd)

    def store(self, name: str) -> str:
        """Stop before a store to the shared memory."""
        process = self.process()
        is_tearable = name == "_SLOT"
        return "go" if process is None else process.step(f"store {name}", is_tearable=is_tearable)


def name_of(fd: int) -> str:
    """Return the name of an open file."""
    return Path(f"/proc/self/fd/{fd}").readlink().name


def raise_dead(process: Process) -> None:
    """Let a dead process do nothing."""
    process.step("dead")


class WatchedStruct:
    """A `Struct` whose stores are steps."""

    def __init__(self, kernel: Kernel, name: str, real: struct.Struct) -> None:
        self._kernel = kernel
        self._name = name
        self._real = real
        self.size = real.size
        self.pack, self.unpack, self.unpack_from = real.pack, real.unpack, real.unpack_from

    def pack_into(self, buffer: Any, offset: int, *values: Any) -> None:
        """Store values; "tear" stores the first half."""
        verdict = self._kernel.store(self._name)
        if verdict == "tear":
            process = self._kernel.process()
            memoryview(buffer)[offset : offset + self.size // 2] = self._real.pack(*values)[
                : self.size // 2
            ]
            if process is not None:
                process.die()
        self._real.pack_into(buffer, offset, *values)


def _watched_map(kernel: Kernel) -> Any:
    class WatchedMap(mmap.mmap):
        """Shared memory whose stores are steps."""

        def __setitem__(self, key: Any, value: Any) -> None:
            kernel.store(f"map {key if isinstance(key, int) else key.start}")
            super().__setitem__(key, value)

    return SimpleNamespace(mmap=WatchedMap)


@contextlib.contextmanager
def watching() -> Iterator[Kernel]:
    """Watch the calls of dfs to the kernel, and have clock and chance always say the same."""
    kernel = Kernel()
    config = structlog.get_config()
    with contextlib.ExitStack() as stack:

        def patch(target: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(target, name, value))

        for name in vars(REAL):
            patch(os, name, getattr(kernel, name, kernel.fsync))
        patch(os, "replace", kernel.rename)
        patch(fcntl, "flock", kernel.flock)
        patch(control, "mmap", _watched_map(kernel))
        for name in ("_SLOT", "_FLAGS", "_HEAD"):
            patch(control, name, WatchedStruct(kernel, name, getattr(control, name)))
        _watch_index(kernel, patch)
        for name, module in list(sys.modules.items()):
            if name.startswith("dfs.") and getattr(module, "now_ms", None) is now_ms:
                patch(module, "now_ms", lambda: MOMENT_MS)
        patch(secrets, "token_hex", lambda size: f"{next(kernel.numbers):0{2 * size}x}")
        patch(secrets, "token_bytes", lambda size: next(kernel.numbers).to_bytes(size, "big"))
        patch(tempfile, "_get_candidate_names", lambda: map(str, kernel.numbers))
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        try:
            yield kernel
        finally:
            structlog.configure(**config)


def _watch_index(kernel: Kernel, patch: Callable[[Any, str, Any], None]) -> None:
    real_migrate = IndexDatabase.migrate
    real_begin, real_sync = IndexDatabase.begin, IndexDatabase.sync
    real_commit, real_end = IndexTransaction.commit, IndexDatabase.end_transaction

    def migrate(index: IndexDatabase, **options: Any) -> None:
        process = kernel.process()
        if process is None or process.world.indexes[-1] is None:  # else it is the newest already
            real_migrate(index, **options)

    def begin(index: IndexDatabase) -> IndexTransaction:
        process = kernel.process()
        if process is not None:
            world = process.world
            process.step("index.begin", is_free=lambda: world.index_writer in (None, process))
            world.index_writer = process
        return real_begin(index)

    def end_transaction(index: IndexDatabase, *, abandon: bool) -> None:
        process = kernel.process()
        if process is not None:
            process.world.index_writer = None
        real_end(index, abandon=abandon)

    def commit(transaction: IndexTransaction) -> None:
        process = kernel.process()
        if process is not None and process.step("index.commit", is_fallible=True) == "fail":
            transaction.rollback()
            raise NoSpaceError("There is no space left for the index.")
        real_commit(transaction)
        if process is not None:
            process.world.note_index()

    def sync(index: IndexDatabase) -> None:
        process = kernel.process()
        if process is None:
            real_sync(index)
            return
        process.step("index.sync")
        process.world.note_index_synced()

    patch(IndexDatabase, "migrate", migrate)
    patch(IndexDatabase, "begin", begin)
    patch(IndexDatabase, "end_transaction", end_transaction)
    patch(IndexTransaction, "commit", commit)
    patch(IndexDatabase, "sync", sync)
