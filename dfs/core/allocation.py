"""How the C library of this process keeps memory that was freed."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_ARENA_MAX = -8  # M_ARENA_MAX of <malloc.h>


def share_arena() -> bool:
    """Have all threads allocate from one arena, here and in processes that are forked from here.

    By default glibc makes eight for each processor. Each keeps what was once allocated at the same
    time by the threads that use it, such as pieces of 1 MiB. Python lets one thread run at a time,
    so there is nobody to wait for.

    Returns:
        False where the C library knows nothing of it, such as on macOS.
    """
    with suppress(AttributeError, OSError):
        return bool(ctypes.CDLL(None).mallopt(_ARENA_MAX, 1))
    return False


def release_freed() -> bool:
    """Give back to the kernel what was freed and is kept; worth while when much has just been.

    Returns:
        False where the C library cannot, such as on macOS.
    """
    with suppress(AttributeError, OSError):
        return bool(ctypes.CDLL(None).malloc_trim(0))
    return False
