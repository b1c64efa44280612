"""Opening files in whose place something else may lie: a directory, a pipe, a device.

Opening a pipe waits for its other end, and a device may give bytes without end. Neither is what dfs
has put there, so neither is ever read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

NOT_REGULAR = frozenset({errno.EISDIR, errno.ENXIO, errno.ELOOP})
"""What the kernel, and `open_regular`, say of a name that is there and is no file."""


def open_regular(path: Any, flags: int = os.O_RDONLY) -> int:
    """Open a regular file that is there, or a link to one. Waits for nothing.

    Args:
        path: text or path. flags: as for `os.open`, without O_CREAT.

    Returns:
        The descriptor, which is not inherited. Can be used as an `opener`.

    Raises:
        OSError: as it comes; one of `NOT_REGULAR` if something else has that name.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
    raise OSError(number, "Not a regular file", os.fspath(path))


def read_start(path: Path, length: int) -> tuple[bytes, int]:
    """Read the beginning of a regular file. Raises OSError, as `open_regular`.

    Returns:
        (up to `length` bytes, size of the file).
    """
    descriptor = open_regular(path)
    try:
        return os.pread(descriptor, length, 0), os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
