"""The disks that a node cannot do without, and the reserve that uploads leave on them.

What is kept free is for the log, for deletes and for what makes room again: they never ask here.
Whoever is about to write bytes that could as well be refused takes them from the disk first, a
MiB at a time at most. A process asks the kernel again when it has given out a MiB, or after a
quarter of a second, so a small upload costs no system call.

The bound: a process may have given out, since the kernel was asked last, what its uploads in
flight hold in memory (a MiB each, four of them two, or what they take of the log) and one MiB more.
By so much, for all processes together, the reserve may be eaten: with two processes of 16 threads,
42 MiB.

A body of known length is refused at once if it does not fit beside those that this process is
receiving already. Those of other processes are not known: they meet while they are written.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dfs.core.durable import storage_error
from dfs.core.errors import DfsError, NoSpaceError

LOG, PRIMARY, INDEX = "log", "primary", "index"
LOOK_BYTES = 1 << 20
LOOK_INODES = 64
"""So much is given out at most before the kernel is asked again."""
LOOK_S = 0.25
BELIEVED_BYTES = 256 << 20
"""So much of a body is counted on before any of it has come; of the rest, four times what has."""


@dataclass(frozen=True, slots=True)
class Space:
    """What is left of a disk, for a process without the privileges of root.

    Attributes:
        inodes: infinite where the file system makes them as they are needed.
    """

    bytes: int
    inodes: float


class Incoming(Protocol):
    """A body on its way in."""

    @property
    def length(self) -> int | None:
        """Bytes it has; None if that is not known."""

    @property
    def received(self) -> int:
        """Bytes of it that are here already."""


class Disk:
    """A disk with a reserve. Shared by the threads of a process.

    Args:
        path: a directory on it.
        reserve_bytes, reserve_inodes: what is kept free.

    Attributes:
        holds: what lies on it, for the reader of an error.
    """

    def __init__(self, *, path: Path, reserve_bytes: int, reserve_inodes: int) -> None:
        self.holds: list[str] = []
        self._path = path
        self._reserve_bytes = reserve_bytes
        self._reserve_inodes = reserve_inodes
        self._lock = threading.Lock()
        self._left_bytes = 0
        self._left_inodes = 0.0
        self._expires_s = -math.inf
        self._looks = 0
        self._coming: set[Incoming] = set()

    def look(self) -> Space:
        """Ask the kernel what is left, the reserve included. Raises StoreUnavailableError."""
        return find_space(self._path)

    def take(self, size: int, *, inodes: int = 0) -> None:
        """Take the room for bytes, and files, that are written next.

        Raises:
            NoSpaceError: the reserve would be touched.
            StoreUnavailableError: the disk is not there.
        """
        with self._lock:
            if (
                size <= self._left_bytes
                and inodes <= self._left_inodes
                and time.monotonic() < self._expires_s
            ):
                self._left_bytes -= size
                self._left_inodes -= inodes
                return
            self._expires_s = -math.inf  # should the kernel refuse
            looks = self._looks
        left = self._find_left(size, inodes)  # others need not wait until the kernel has answered
        with self._lock:
            self._give_out(left, size, inodes, looks=looks)

    def expect(self, body: Incoming) -> None:
        """Refuse a body that does not fit. One that does counts until it is here, or forgotten.

        Raises: as `take`.
        """
        with self._lock:
            looks = self._looks
            coming = sum(map(_find_believed, tuple(self._coming)))
            self._coming.add(body)
        try:
            left = self._find_left(coming + _find_rest(body), 0)
        except DfsError:
            self.forget(body)
            raise
        with self._lock:
            self._give_out(left, 0, 0, looks=looks)

    def forget(self, body: Incoming) -> None:
        """Count a body no more, whatever became of it. Does nothing for one that never did."""
        self._coming.discard(body)

    def _find_left(self, size: int, inodes: int) -> Space:
        """Ask the kernel what is left without the reserve. Raises as `take`."""
        space = self.look()
        left = Space(space.bytes - self._reserve_bytes, space.inodes - self._reserve_inodes)
        if left.bytes < size or left.inodes < inodes:
            raise NoSpaceError(
                f"The disk of the {' and the '.join(self.holds)} is full, but for its reserve.",
                hint="Delete files, or make room in another way; no restart is needed.",
                path=str(self._path),
                free_bytes=space.bytes,
                free_inodes=space.inodes,
            )
        return left

    def _give_out(self, left: Space, size: int, inodes: int, *, looks: int) -> None:
        """Take so much of what is left; some of the rest is for those who come soon.

        Args:
            left: as the kernel said, unasked by others since it had been asked `looks` times;
                else they have given out of it already.
        """
        if self._looks != looks:
            self._left_bytes -= size
            self._left_inodes -= inodes
            return
        self._left_bytes = min(left.bytes - size, LOOK_BYTES)
        self._left_inodes = min(left.inodes - inodes, LOOK_INODES)
        self._expires_s = time.monotonic() + LOOK_S
        self._looks += 1


class Disks:
    """The disks of a node by what lies on them, each once however many directories share it.

    Args:
        paths: what -> directory: the log, the primary, the index if it is in files. A directory
            that is not there yet will be made on the disk of the nearest one above it.
        reserve_bytes, reserve_inodes: kept free on each disk.
    """

    def __init__(
        self, paths: Mapping[str, Path], *, reserve_bytes: int, reserve_inodes: int
    ) -> None:
        self.reserve_bytes = reserve_bytes
        self.reserve_inodes = reserve_inodes
        self._by_device: dict[int, Disk] = {}
        self._by_name: dict[str, Disk] = {}
        for name, path in paths.items():
            disk = Disk(path=path, reserve_bytes=reserve_bytes, reserve_inodes=reserve_inodes)
            self._by_name[name] = self._by_device.setdefault(_find_device(path), disk)
            self._by_name[name].holds.append(name)
        self._primary = self._by_name[PRIMARY]
        self._committing = {self._by_name[name] for name in (LOG, INDEX) if name in paths}

    def holding(self, directory: Path) -> Disk | None:
        """Return the one of these disks on which a directory lies, if it is one of them."""
        return self._by_device.get(_find_device(directory))

    def look(self) -> dict[str, Space]:
        """Return what is left, the reserve included, by what lies there.

        Raises:
            StoreUnavailableError: a disk is not there.
        """
        return {name: disk.look() for name, disk in self._by_name.items()}

    def expect(self, body: Incoming) -> None:
        """Refuse an upload at its beginning, see `Disk.expect`. `forget` it in the end.

        A small one is not worth asking for: it takes its room when it is here.
        """
        if body.length is not None and body.length <= LOOK_BYTES:
            return
        for disk in self._committing:
            disk.take(0)
        self._primary.expect(body)

    def forget(self, body: Incoming) -> None:
        """Count an upload no more that was expected."""
        self._primary.forget(body)

    def take_log(self, size: int) -> None:
        """Take the room for records of an upload, and for what the index keeps of them.

        Raises: as `Disk.take`.
        """
        for disk in self._committing:
            disk.take(size)


def find_space(place: Path | int) -> Space:
    """Return what is left of the disk of a path or an open file.

    Raises:
        StoreUnavailableError: the disk is not there.
    """
    try:
        found = os.statvfs(place)
    except OSError as error:
        raise storage_error(error, path=place) from error
    inodes = found.f_favail if found.f_files else math.inf
    return Space(found.f_bavail * found.f_frsize, inodes)


def _find_rest(body: Incoming) -> int:
    """Return how many bytes are still to come, as far as that is known."""
    return 0 if body.length is None else body.length - body.received


def _find_believed(body: Incoming) -> int:
    """Return how much of the rest is believed: who has sent nothing cannot claim a whole disk."""
    return min(_find_rest(body), BELIEVED_BYTES + 4 * body.received)


def _find_device(path: Path) -> int:
    """Return the device of a directory, or of the nearest one above it that is there."""
    try:
        return path.stat().st_dev
    except FileNotFoundError:
        return _find_device(path.absolute().parent)
    except OSError as error:
        raise storage_error(error, path=path) from error
