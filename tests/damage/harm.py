"""Everything that can befall one file."""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

Harm = Callable[[Path], None]
SECTOR = 512
BOUNDS = (0, 4, 8, 12, 16, 22, 24, 40, 48, 56, 64, 76, 80, 84, 88, 96, 100)
"""Where the fields of segments, records, control file and databases begin."""


def list_harms(path: Path, *, sample: int | None) -> dict[str, Harm]:
    """Return what can befall a file, by name.

    Args:
        sample: so many of the bytes are flipped, the beginnings of fields first; None: each.
    """
    size = path.stat().st_size
    harms: dict[str, Harm] = {
        f"flip {offset}": partial(_flip, offset=offset)
        for offset in _offsets(size, sample, path.name)
    }
    ends = {0, 1, 79, 80, 100, size // 2, size - SECTOR, size - 1} & set(range(size))
    harms |= {f"cut at {end}": partial(_cut, end=end) for end in sorted(ends)}
    starts = {0, size // 2 // SECTOR * SECTOR, max(0, (size - 1) // SECTOR * SECTOR)}
    harms |= {f"zero from {start}": partial(_zero, start=start) for start in sorted(starts)}
    harms |= {
        "zero all": partial(_zero, start=0, length=size),
        "garbage behind": _append,
        "remove": Path.unlink,
        "directory": partial(_replace, make=Path.mkdir),
        "full directory": partial(_replace, make=_fill),
        "pipe": partial(_replace, make=os.mkfifo),
        "socket": partial(_replace, make=_make_socket),
        "dangling link": partial(_replace, make=partial(_link, target="nowhere")),
        "link to itself": partial(_replace, make=partial(_link, target=path.name)),
        "link to zeros": partial(_replace, make=partial(_link, target="/dev/zero")),
    }
    others = (each for each in sorted(path.parent.iterdir()) if each.is_file() and each != path)
    other = next(others, None)
    if other is not None:
        harms |= {
            f"swap with {other.name}": partial(_swap, other=other),
            f"link to {other.name}": partial(_replace, make=partial(_link, target=other.name)),
            f"copy of {other.name}": partial(_replace, make=partial(shutil.copy, other)),
        }
    return harms


def _link(path: Path, *, target: str) -> None:
    path.symlink_to(target)


def _offsets(size: int, sample: int | None, name: str) -> Iterator[int]:
    if sample is None:
        return iter(range(size))
    rng = random.Random(name)
    fields = [offset for offset in BOUNDS if offset < size]
    chosen = rng.sample(fields, min(len(fields), sample - sample // 2))
    chosen += [rng.randrange(size) for _ in range(sample // 2) if size]
    return iter(sorted({*chosen}))


def _flip(path: Path, *, offset: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes((byte[0] ^ 0xFF,)), offset)


def _cut(path: Path, *, end: int) -> None:
    os.truncate(path, end)


def _zero(path: Path, *, start: int, length: int = SECTOR) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), bytes(max(0, min(length, size - start))), start)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(random.Random(path.name).randbytes(777))


def _replace(path: Path, *, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _fill(path: Path) -> None:
    path.mkdir()
    (path / "something").write_bytes(b"x")


def _make_socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def _swap(path: Path, *, other: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)
