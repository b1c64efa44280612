"""What a power cut leaves of the names in directories.

A name stands for what it stood for after any of its changes since the last sync of its directory,
each name by itself: no order between names is promised by POSIX, and none is kept here. Or, as on a
file system with a journal, all changes up to some moment are there, and none later; whatever was
synced, even another file, has taken all that was before it along. One thing no file system does: a
file that was renamed is not gone under both names.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from torture.journal import IS_RENAME, Kind, Record


@dataclass(slots=True)
class NameChange:
    """A change of what a name stands for that is not durable.

    Attributes:
        partner: of a rename that takes a name away: the change that gave the file its new one.
    """

    record: Record
    partner: NameChange | None = None

    @property
    def path(self) -> str:
        """The name, absolute."""
        return self.record.path


class OpenNames:
    """The changes of names that a power cut may take back, in order.

    Args:
        journaled: parts of the disk whose owners rely on a file system with a journal, in which a
            sync of any file takes the names along.
    """

    def __init__(self, journaled: Iterable[str]) -> None:
        self.pending: list[NameChange] = []
        self.synced_mark = 0
        self._journaled = tuple(f"{path}/" for path in journaled)

    def add(self, record: Record) -> None:
        """Note a change, or a sync that makes earlier ones durable."""
        if record.kind is Kind.NAME:
            change = NameChange(record)
            last = self.pending[-1] if self.pending else None
            if (
                record.flags & IS_RENAME
                and record.ino == 0
                and last is not None
                and last.record.ino == record.offset
            ):
                change.partner = last
            self.pending.append(change)
        elif record.kind is Kind.SYNC:
            self.synced_mark = max(self.synced_mark, record.mark)
            self._settle(record)

    def _settle(self, sync: Record) -> None:
        """Make durable what a sync covers; of a rename that took a name away the new one, too."""
        durable = [change for change in self.pending if self._covers(sync, change)]
        new = {
            change.partner.path: change.partner.record.position
            for change in durable
            if change.partner is not None
        }
        settled = set(map(id, durable))
        self.pending = [
            change
            for change in self.pending
            if id(change) not in settled and change.record.position > new.get(change.path, -1)
        ]

    def _covers(self, sync: Record, change: NameChange) -> bool:
        if change.record.position >= sync.mark:
            return False
        if change.path.startswith(self._journaled):
            return sync.path.startswith(self._journaled)
        return sync.is_directory and str(PurePosixPath(change.path).parent) == sync.path

    def choose(self, rng: random.Random, *, in_order: bool) -> dict[str, Record]:
        """Return name -> the first change of it that a cut takes back, of those with any.

        Args:
            in_order: as on a file system with a journal.
        """
        changes = self.pending
        if in_order:
            durable = sum(change.record.position < self.synced_mark for change in changes)
            kept_count = rng.randint(durable, len(changes))
            kept = [number < kept_count for number in range(len(changes))]
        else:
            kept = _choose_by_name(changes, rng)
        result: dict[str, Record] = {}
        for change, is_kept in zip(changes, kept, strict=True):
            if not is_kept:
                result.setdefault(change.path, change.record)
        return result


def _choose_by_name(changes: Sequence[NameChange], rng: random.Random) -> list[bool]:
    """Choose for each name how many of its changes are on the disk."""
    numbers: dict[str, list[int]] = {}
    for number, change in enumerate(changes):
        numbers.setdefault(change.path, []).append(number)
    kept = [False] * len(changes)
    for own in numbers.values():
        count = rng.choice((0, len(own), rng.randint(0, len(own))))
        for number in own[:count]:
            kept[number] = True
    _keep_reachable(changes, numbers, kept)
    return kept


def _keep_reachable(
    changes: Sequence[NameChange], numbers: Mapping[str, Sequence[int]], kept: list[bool]
) -> None:
    """Lose the loss of a name wherever the new one, or a directory above it, is lost, too."""
    places = {id(change): number for number, change in enumerate(changes)}

    def is_reachable(number: int) -> bool:
        above = map(str, PurePosixPath(changes[number].path).parents)
        made = (n for path in above for n in numbers.get(path, ()) if n < number)
        return kept[number] and all(kept[n] for n in made)

    is_settled = False
    while not is_settled:
        is_settled = True
        for number, change in enumerate(changes):
            partner = places.get(id(change.partner)) if change.partner is not None else None
            if partner is not None and kept[number] and not is_reachable(partner):
                own = numbers[change.path]
                for later in own[own.index(number) :]:
                    kept[later] = False
                is_settled = False
