"""File systems of their own for tests, in memory. Mounting needs root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dfs.core.disk import find_space

BALLAST_NAME = "ballast"


def mount(*arguments: str) -> None:
    """Run `mount`. Raises CalledProcessError."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def mount_memory(place: Path, *, size_bytes: int, inodes: int = 0) -> None:
    """Mount a file system in memory. `inodes`: 0 for no limit."""
    mount("-t", "tmpfs", "-o", f"size={size_bytes},nr_inodes={inodes}", "dfs-test", str(place))


def unmount(place: Path) -> None:
    """Run `umount`. Raises CalledProcessError."""
    subprocess.run(["umount", "--lazy", str(place)], check=True, capture_output=True)


def can_mount(directory: Path) -> bool:
    """Tell whether this process may mount file systems."""
    place = directory / "mount-probe"
    place.mkdir()
    try:
        mount_memory(place, size_bytes=1 << 20)
        unmount(place)
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        place.rmdir()
    return True


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A disk that can be filled.

    Attributes:
        is_own: it is a file system of its own. Without the privilege to mount it is a directory
            on a large disk, which is small only by the reserve of whoever uses it.
    """

    path: Path
    is_own: bool

    @property
    def free_bytes(self) -> int:
        """What is left of it."""
        return find_space(self.path).bytes

    @property
    def free_inodes(self) -> int:
        """How many files can still be made on it."""
        return int(find_space(self.path).inodes)

    def put_ballast(self, size_bytes: int) -> None:
        """Take some room away."""
        with (self.path / BALLAST_NAME).open("wb") as file:
            file.write(bytes(size_bytes))

    def fill(self) -> None:
        """Take all room away. Only of a disk of its own."""
        self.put_ballast(self.free_bytes)

    def drop_ballast(self) -> None:
        """Give back the room that was taken away."""
        (self.path / BALLAST_NAME).unlink()


@contextmanager
def small_disk(place: Path, *, size_bytes: int, inodes: int = 0) -> Iterator[SmallDisk]:
    """Make a directory a small disk inside the block, if this process may."""
    is_own = can_mount(place.parent)
    place.mkdir()
    if is_own:
        mount_memory(place, size_bytes=size_bytes, inodes=inodes)
    try:
        yield SmallDisk(place, is_own)
    finally:
        if is_own:
            unmount(place)
