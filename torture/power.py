"""A power cut: what was not synced is lost, or half lost, and the machine starts again.

Run when no process uses the disk any more. Everything that is there afterwards is durable, since
whoever starts finds it there.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torture.journal import Kind, Record, read_journal
from torture.names import OpenNames
from torture.pages import OpenChanges, cut_power


@dataclass(frozen=True, slots=True)
class Loss:
    """What a power cut has changed, for whoever looks for the cause of a finding.

    Attributes:
        files: path -> (size before, size after) of those whose bytes are others than before.
        names: paths that stand for something else, or nothing.
    """

    files: dict[str, tuple[int, int]]
    names: list[str]


def lose_unsynced(
    disk: Path, *, journal: Path, graves: Path, journaled: Iterable[Path], rng: random.Random
) -> Loss:
    """Take back a random part of what is not durable, then begin a new journal.

    Args:
        graves: where the layer has kept what lost its name.
        journaled: see `OpenNames`.
    """
    names = OpenNames(map(str, journaled))
    files: dict[int, OpenChanges] = {}
    for record in read_journal(journal):
        if record.kind is Kind.NAME:
            names.add(record)
            continue
        if record.kind is Kind.SYNC:
            names.add(record)
        if not record.is_directory:
            files.setdefault(record.ino, OpenChanges()).add(record)
    paths = dict(_find_files(disk)) | dict(_find_files(graves))
    changed: dict[str, tuple[int, int]] = {}
    for ino, changes in sorted(files.items()):
        if changes.pending and ino in paths:
            sizes = _cut_file(paths[ino], changes, rng)
            if sizes is not None:
                changed[str(paths[ino].relative_to(disk.parent))] = sizes
    lost = names.choose(rng, in_order=rng.random() < 0.5)
    renamed = [
        str(Path(record.path).relative_to(disk))
        for record in sorted(lost.values(), key=_find_turn)
        if _put_back(record, graves, paths)
    ]
    settle(journal=journal, graves=graves)
    return Loss(changed, renamed)


def settle(*, journal: Path, graves: Path) -> None:
    """Take all that is there for durable: begin a new journal. No process may use the disk.

    The last one is kept, as `journal.old`.
    """
    shutil.copy(journal, journal.with_suffix(".old"))
    os.truncate(journal, 0)
    for grave in graves.iterdir():
        if grave.is_dir():
            shutil.rmtree(grave)
        else:
            grave.unlink()


def _find_files(directory: Path) -> Iterator[tuple[int, Path]]:
    for top, _, names in os.walk(directory):
        for name in names:
            path = Path(top, name)
            yield path.lstat().st_ino, path


def _cut_file(path: Path, changes: OpenChanges, rng: random.Random) -> tuple[int, int] | None:
    """Let a file lose what it may lose. Returns its sizes before and after, if it is another."""
    before = path.read_bytes()
    content = bytearray(before)
    cut_power(content, changes.pending, rng)
    if content == before:
        return None
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    return len(before), len(content)


def _find_turn(record: Record) -> int:
    """Return what comes first: directories that come back, then files, then those that go."""
    if record.is_directory:
        return 0 if record.offset else 2
    return 1


def _put_back(record: Record, graves: Path, paths: Mapping[int, Path]) -> bool:
    """Let a name stand again for what it stood for before a change, if that is to be found.

    Args:
        paths: of files that had a name before the cut, by inode.
    """
    path, ino = Path(record.path), record.offset
    found = path.lstat() if os.path.lexists(path) else None
    if (found.st_ino if found else 0) == ino or not path.parent.is_dir():
        return False
    if path.is_dir():
        if ino:
            return False  # it was removed and made again
        path.rename(graves / f"{path.name}-{record.position}")
        return True
    if found is not None:
        with contextlib.suppress(FileExistsError):
            (graves / str(found.st_ino)).hardlink_to(path)
        path.unlink()
    if ino and record.is_directory:
        path.mkdir(mode=0o700)  # a directory that could be removed was empty
    elif ino:
        grave = graves / str(ino)
        path.hardlink_to(grave if grave.exists() else paths[ino])
    return True
