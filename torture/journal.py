"""The undo journal that the layer writes: what was there before each change, and what was synced.

record:  magic u64 | type u32 | flags u32 | path bytes u32 | data bytes u32 | inode u64 |
         offset u64 | length u64 | old size u64 | mark u64 | path | data | end magic u64

WRITE         `length` bytes from `offset` are about to be overwritten; data: the old ones, up to
              the old size; none if all were zero
RESIZE        the file is to have `offset` bytes; data: those cut off
SYNC          changes before `mark`, a place in this journal, are durable: of the inode, or, with
              IS_DIRECTORY, of the names in the directory `path`
FAILED_SYNC   the sync failed: the kernel takes these changes for clean, and never writes them
NAME          `path` comes to stand for inode `inode` instead of `offset`; 0: nothing
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RECORD = struct.Struct("<QIIIIQQQQQ")
MAGIC = 0x6C6E756A73666400
END_MAGIC = struct.pack("<Q", 0x646E656A73666400)
IS_DIRECTORY, IS_RENAME = 1, 2


class Kind(enum.IntEnum):
    """Types of records."""

    WRITE = 1
    RESIZE = 2
    SYNC = 3
    FAILED_SYNC = 4
    NAME = 5


@dataclass(slots=True)
class Record:
    """One record; `position` is its place in the journal."""

    position: int
    kind: Kind
    flags: int
    ino: int
    offset: int
    length: int
    old_size: int
    mark: int
    path: str
    data: bytes

    @property
    def is_directory(self) -> bool:
        """Whether it is about a directory."""
        return bool(self.flags & IS_DIRECTORY)


def read_journal(path: Path) -> Iterator[Record]:
    """Yield the records; one whose writer was killed inside the write is passed over."""
    content = memoryview(path.read_bytes())
    magic = struct.pack("<Q", MAGIC)
    position = 0
    while position + RECORD.size <= len(content):
        fields = RECORD.unpack_from(content, position)
        found, kind, flags, path_bytes, data_bytes, ino, offset, length, old_size, mark = fields
        path_begin = position + RECORD.size
        data_begin = path_begin + path_bytes
        end = data_begin + data_bytes
        if found != MAGIC or content[end : end + len(END_MAGIC)] != END_MAGIC:
            following = bytes(content[position + 1 :]).find(magic)
            if following < 0:
                return
            position += 1 + following
            continue
        yield Record(
            position,
            Kind(kind),
            flags,
            ino,
            offset,
            length,
            old_size,
            mark,
            bytes(content[path_begin:data_begin]).decode("utf-8", "surrogateescape"),
            bytes(content[data_begin:end]),
        )
        position = end + len(END_MAGIC)
