"""A disk that remembers which of the writes to it were synced, and what a power cut may leave.

What a process sees is kept apart from what is durable: every write and every change of a name is an
*effect*, pending until the file, or the directories, it concerns were synced. A power cut keeps any
subset of the pending effects. They are applied in order, but none of them needs another: that is
more than journalling file systems do to a program, never less.

- A write is torn into pieces, which reach the disk each for itself.
- A rename is one effect, durable when the directory of the new name was synced.
- A sync that failed leaves its effects in doubt for ever: they may be on the disk, and no later
  sync of that file puts them there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

OPTIONAL_EFFECTS_MAX = 12
"""More in one place would be too many subsets: the scenario is too large."""

Tree = tuple[tuple[str, bytes | None], ...]
"""All that is on a disk: (path, content, or None for a directory), sorted by path."""


class Fate(Enum):
    """Whether an effect is on the disk."""

    PENDING = "Maybe; a sync puts it there."
    DOUBTFUL = "Maybe; a sync of it has failed."
    CERTAIN = "Yes, but something before it is in doubt."


@dataclass(slots=True)
class Write:
    """Bytes at an offset of a file; `data` None: the file gets the size `offset`."""

    offset: int
    data: bytes | None
    fate: Fate = Fate.PENDING

    def overlaps(self, other: Write) -> bool:
        """Tell whether their order matters."""
        if self.data is None or other.data is None:
            return True
        return self.offset < other.end and other.offset < self.end

    @property
    def end(self) -> int:
        """The offset behind it."""
        return self.offset + len(self.data or b"")

    def apply(self, content: bytearray) -> None:
        """Do it to what the file holds."""
        if len(content) < self.end:
            content.extend(bytes(self.end - len(content)))
        if self.data is None:
            del content[self.offset :]
        else:
            content[self.offset : self.end] = self.data


@dataclass(slots=True)
class Naming:
    """Names that change at once.

    Attributes:
        names: path -> the file it names from now on; None: nothing. waits: directories that have
            to be synced still.
    """

    names: Mapping[str, int | None]
    waits: set[str]
    fate: Fate = Fate.PENDING


@dataclass(slots=True)
class Inode:
    """A file, or a directory, which has no bytes of its own."""

    durable: bytes | None
    seen: bytearray = field(default_factory=bytearray)
    effects: list[Write] = field(default_factory=list)

    def has(self, effect: Write) -> bool:
        """Tell whether an effect adds nothing to those that are there, kept or not."""
        for other in reversed(self.effects):
            if (other.offset, other.data, other.fate) == (effect.offset, effect.data, effect.fate):
                return True
            if other.overlaps(effect):
                return False
        content = bytearray(self.durable or b"")
        effect.apply(content)
        return bytes(content) == self.durable


class Disk:
    """The files below one directory, by paths relative to it.

    Args:
        tree: what is there, durable. pieces: into how many a write is torn at most.
    """

    def __init__(self, tree: Tree, *, pieces: int) -> None:
        self.pieces = pieces
        self._inodes: list[Inode] = []
        self._durable_names: dict[str, int | None] = {}
        self._namings: list[Naming] = []
        for path, content in tree:
            self._durable_names[path] = self._add(content)
        self._names = dict(self._durable_names)

    # What processes do

    def find(self, path: str) -> int | None:
        """Return the file that a path names now, or None."""
        return self._names.get(path)

    def seen(self, inode: int) -> bytes:
        """Return what the processes see in a file."""
        return bytes(self._inodes[inode].seen)

    def create(self, path: str, *, is_directory: bool = False) -> int:
        """Create an empty file or a directory."""
        inode = self._add(None if is_directory else b"")
        self.rename({path: inode})
        return inode

    def rename(self, names: Mapping[str, int | None]) -> None:
        """Change names, all at once."""
        new = {_parent(path) for path, inode in names.items() if inode is not None}
        self._namings.append(Naming(dict(names), new or {_parent(path) for path in names}))
        self._names.update(names)

    def write(self, inode: int, offset: int, data: bytes) -> None:
        """Write to a file, in pieces that may be torn apart."""
        step = max(1, -(-len(data) // self.pieces))
        for start in range(0, len(data), step):
            self._change(inode, Write(offset + start, data[start : start + step]))

    def resize(self, inode: int, size: int) -> None:
        """Give a file another size."""
        if len(self._inodes[inode].seen) != size:
            self._change(inode, Write(size, None))

    def sync_file(self, inode: int) -> None:
        """Make the content of a file durable, but for what a failed sync has left in doubt."""
        file = self._inodes[inode]
        for effect in file.effects:
            if effect.fate is Fate.PENDING:
                effect.fate = Fate.CERTAIN
        content = bytearray(file.durable or b"")
        while file.effects and file.effects[0].fate is Fate.CERTAIN:
            file.effects.pop(0).apply(content)
        file.durable = bytes(content)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        for naming in self._namings:
            naming.waits.discard(path)
            if not naming.waits and naming.fate is Fate.PENDING:
                naming.fate = Fate.CERTAIN
        while self._namings and self._namings[0].fate is Fate.CERTAIN:
            self._durable_names.update(self._namings.pop(0).names)

    def fail_sync_file(self, inode: int) -> None:
        """Have a sync of a file fail: the kernel takes its pages for clean nevertheless."""
        for effect in self._inodes[inode].effects:
            if effect.fate is Fate.PENDING:
                effect.fate = Fate.DOUBTFUL

    def fail_sync_directory(self, path: str) -> None:
        """Have a sync of a directory fail."""
        for naming in self._namings:
            if path in naming.waits:
                naming.fate = Fate.DOUBTFUL

    def path_of(self, inode: int) -> str:
        """Return a path that names a file now."""
        return next((path for path, named in self._names.items() if named == inode), "")

    # What is left

    def surviving_processes(self) -> Tree:
        """Return what is there if only processes die."""
        return self._tree(self._names, [bytes(inode.seen) for inode in self._inodes])

    def surviving_power_cut(self) -> Iterator[Tree]:
        """Yield all that may be there if the power goes now."""
        options = [each for each in self._all_effects() if each.fate is not Fate.CERTAIN]
        if len(options) > OPTIONAL_EFFECTS_MAX:
            raise RuntimeError(f"{len(options)} effects are pending: too many subsets")
        for kept in itertools.product((False, True), repeat=len(options)):
            lost = {id(each) for each, is_kept in zip(options, kept, strict=True) if not is_kept}
            names = dict(self._durable_names)
            for naming in self._namings:
                if id(naming) not in lost:
                    names.update(naming.names)
            yield self._tree(names, [self._content(inode, lost) for inode in self._inodes])

    def copy(self) -> Disk:
        """Return the same disk, to be changed apart."""
        other = Disk((), pieces=self.pieces)
        other._inodes = [
            Inode(each.durable, bytearray(each.seen), [replace(effect) for effect in each.effects])
            for each in self._inodes
        ]
        other._durable_names, other._names = dict(self._durable_names), dict(self._names)
        other._namings = [replace(each, waits=set(each.waits)) for each in self._namings]
        return other

    def fingerprint(self) -> tuple[object, ...]:
        """Return what tells this state from others, as far as the future depends on it."""
        order: dict[int | None, int] = {None: -1}
        seen, durable, namings = (
            [
                (path, order.setdefault(inode, len(order)))
                for path, inode in sorted(names.items())
                if inode is not None or is_naming
            ]
            for names, is_naming in (
                (self._names, False),
                (self._durable_names, False),
                (
                    {
                        f"{n}/{p}": i
                        for n, e in enumerate(self._namings)
                        for p, i in e.names.items()
                    },
                    True,
                ),
            )
        )
        states = tuple((tuple(sorted(each.waits)), each.fate) for each in self._namings)
        files = tuple(
            (
                bytes(self._inodes[inode].seen),
                self._inodes[inode].durable,
                tuple((each.offset, each.data, each.fate) for each in self._inodes[inode].effects),
            )
            for inode in order
            if inode is not None
        )
        return tuple(seen), tuple(durable), tuple(namings), states, files

    def _add(self, content: bytes | None) -> int:
        self._inodes.append(Inode(content, bytearray(content or b"")))
        return len(self._inodes) - 1

    def _change(self, inode: int, effect: Write) -> None:
        file = self._inodes[inode]
        effect.apply(file.seen)
        if not file.has(effect):
            file.effects.append(effect)

    def _all_effects(self) -> Sequence[Write | Naming]:
        reachable = {inode for inode in self._durable_names.values() if inode is not None}
        for naming in self._namings:
            reachable.update(inode for inode in naming.names.values() if inode is not None)
        writes = [each for inode in sorted(reachable) for each in self._inodes[inode].effects]
        return [*self._namings, *writes]

    def _content(self, inode: Inode, lost: set[int]) -> bytes:
        content = bytearray(inode.durable or b"")
        for effect in inode.effects:
            if id(effect) not in lost:
                effect.apply(content)
        return bytes(content)

    def _tree(self, names: Mapping[str, int | None], contents: Sequence[bytes]) -> Tree:
        """Return the tree of these names; what lies in a directory that has no name is lost."""
        tree: dict[str, bytes | None] = {}
        for path in sorted(path for path, inode in names.items() if inode is not None):
            inode = names[path]
            if inode is not None and (_parent(path) in tree or not _parent(path)):
                is_directory = self._inodes[inode].durable is None
                tree[path] = None if is_directory else contents[inode]
        return tuple(sorted(tree.items()))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
