"""What a power cut leaves of the bytes of one file.

A page that was changed since the last sync may be on the disk as it was then, as it is now, or as
it was after any change between; of a torn one that holds for each sector by itself. The size is one
more such thing. What a sync reported as written is there; what a *failed* sync was to write is gone
for good, however often a later one succeeds, unless the page was changed again before that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torture.journal import Kind, Record

PAGE_BYTES = 4096
SECTOR_BYTES = 512
TORN_SHARE = 0.25
"""Of the pages that may be torn."""


@dataclass(slots=True)
class Change:
    """A change of a file that is not durable.

    Attributes:
        is_doomed: a sync of it failed. Its pages are lost unless they are changed and synced again.
        saved: pages of it that were.
        is_sized: the size that it gave the file is durable; that is no page that could be doomed.
    """

    record: Record
    is_doomed: bool = False
    saved: set[int] = field(default_factory=set)
    is_sized: bool = False

    def pages(self) -> Iterator[int]:
        """Yield the pages that it touches and that are not durable."""
        return (page for page in _pages(self.record) if page not in self.saved)

    def changes_size(self) -> bool:
        """Tell whether a power cut may take a size back that it gave the file."""
        record = self.record
        if self.is_sized:
            return False
        if record.kind is Kind.RESIZE:
            return record.offset != record.old_size
        return record.offset + record.length > record.old_size

    def shortens(self) -> bool:
        """Tell whether it made the file shorter."""
        return self.record.kind is Kind.RESIZE and self.record.length > 0


class OpenChanges:
    """The changes of one file that a power cut may take back, in order."""

    def __init__(self) -> None:
        self.pending: list[Change] = []

    def add(self, record: Record) -> None:
        """Note a change, or a sync that makes earlier ones durable, or fails to."""
        if record.kind is Kind.FAILED_SYNC:
            for change in self._before(record.mark):
                change.is_doomed = True
        elif record.kind is Kind.SYNC:
            self._settle(record.mark)
        else:
            self.pending.append(Change(record))

    def _before(self, mark: int) -> list[Change]:
        return [change for change in self.pending if change.record.position < mark]

    def _settle(self, mark: int) -> None:
        """Make durable what was changed before a sync began, but for what a failed one took.

        A page is written as a whole: one that was changed again has its doomed bytes, too.
        """
        synced = self._before(mark)
        written = {
            page for change in synced if not change.is_doomed for page in _pages(change.record)
        }
        for change in synced:
            change.is_sized = True
            change.saved.update(written.intersection(_pages(change.record)))
        self.pending = [
            change
            for change in self.pending
            if change.record.position >= mark or (change.is_doomed and any(change.pages()))
        ]


def _pages(record: Record) -> range:
    """Return the pages that a change touches; of a change of size those that it cuts off."""
    if not record.length:
        return range(0)
    return range(record.offset // PAGE_BYTES, -(-(record.offset + record.length) // PAGE_BYTES))


def cut_power(content: bytearray, changes: Sequence[Change], rng: random.Random) -> None:
    """Turn the bytes of a file into what a power cut may leave of them.

    Args:
        content: as it is now.
        changes: those that are not durable, in order.
    """
    counts: dict[int, int] = {}
    for change in changes:
        if change.record.kind is Kind.WRITE:
            for page in change.pages():
                counts[page] = counts.get(page, 0) + 1
    kept = {page: _choose_versions(count, rng) for page, count in counts.items()}
    sizes = sum(change.changes_size() for change in changes)
    kept_sizes = rng.choice((0, sizes, rng.randint(0, sizes)))
    lost_cut = _first_lost_cut(changes, kept_sizes)
    for number in range(len(changes) - 1, -1, -1):  # the newest first
        change = changes[number]
        if change.record.kind is Kind.WRITE:
            for page in change.pages():
                counts[page] -= 1
                versions = [-1] * len(kept[page]) if number > lost_cut else kept[page]
                _undo_page(content, change.record, page, counts[page], versions)
        if change.changes_size():
            sizes -= 1
            if sizes >= kept_sizes:
                _undo_size(content, change)


def _choose_versions(count: int, rng: random.Random) -> list[int]:
    """Return how many changes of a page each of its sectors has."""
    sectors = PAGE_BYTES // SECTOR_BYTES
    if rng.random() < TORN_SHARE:
        return [rng.randint(0, count) for _ in range(sectors)]
    return [rng.choice((0, count, rng.randint(0, count)))] * sectors


def _first_lost_cut(changes: Sequence[Change], kept_sizes: int) -> int:
    """Return the number of the first lost change that made the file shorter.

    What was written after it had blocks of its own, which are lost with it.
    """
    sizes = 0
    for number, change in enumerate(changes):
        if change.changes_size():
            if sizes >= kept_sizes and change.shortens():
                return number
            sizes += 1
    return len(changes)


def _undo_page(
    content: bytearray, record: Record, page: int, ordinal: int, kept: Sequence[int]
) -> None:
    """Put the old bytes back into those sectors of a page that are to be older than this change."""
    for number in range(PAGE_BYTES // SECTOR_BYTES):
        sector = page * PAGE_BYTES + number * SECTOR_BYTES
        begin = max(sector, record.offset)
        end = min(sector + SECTOR_BYTES, record.offset + record.length, len(content))
        if ordinal >= kept[number] and begin < end:
            old = record.data[begin - record.offset : end - record.offset]
            content[begin:end] = old.ljust(end - begin, b"\0")


def _undo_size(content: bytearray, change: Change) -> None:
    record = change.record
    del content[record.old_size :]
    content.extend(bytes(record.old_size - len(content)))
    if change.shortens():
        old = record.data or bytes(record.length)
        content[record.offset : record.offset + record.length] = old
