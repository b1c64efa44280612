"""Telling whether a file is still the one that it was, without reading it."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple


class FileStamp(NamedTuple):
    """What no other file has, nor the same one after a change of its bytes, name or mode.

    Only bytes that rot below the file system leave it as it is.

    Attributes:
        modified_ns, changed_ns: when its bytes, and when anything of it were last changed.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int


def stamp_of(found: os.stat_result) -> FileStamp | None:
    """Return the stamp of a file; None for what is no regular file."""
    if not stat.S_ISREG(found.st_mode):
        return None
    return FileStamp(
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )
