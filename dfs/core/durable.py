"""Files and directories that are still there after a power cut.

A synced file may be lost with its name: the name is part of the directory, which has a sync of its
own. Functions that take a path raise `StorageError` and never pass over a sync that failed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from dfs.core.checksum import Buffer
from dfs.core.errors import NoSpaceError, StorageError, StoreUnavailableError

DIRECTORY_MODE = 0o700
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


def storage_error(error: OSError, *, path: object = None) -> StorageError:
    """Return the StorageError that says what the operating system said; raise it `from` the cause.

    Args:
        path: where it happened, if the error itself does not know.

    Returns:
        NoSpaceError for a full disk, a full quota and a file that may not grow; else
        StoreUnavailableError.
    """
    reason = error.strerror or type(error).__name__
    where = error.filename if error.filename is not None else path
    context: dict[str, object] = {"errno": errno.errorcode.get(error.errno or 0, error.errno)}
    if where is not None:
        context["path"] = os.fsdecode(where) if isinstance(where, bytes) else str(where)
    if error.errno in _NO_SPACE:
        return NoSpaceError(
            f"There is no space left: {reason}.",
            hint="Free some space, or raise the quota; the write may then be repeated.",
            **context,
        )
    hint = "Look at the kernel's log, the mount and the permissions of the path."
    if error.errno in _FORBIDDEN:
        where = context.get("path")
        hint = f"Give it to the user who runs dfs: `chown USER {where}`, `chmod u+rwX {where}`."
    return StoreUnavailableError(
        f"The disk did not do what was asked: {reason}.", hint=hint, **context
    )


def write_all(fd: int, data: Buffer) -> None:
    """Write all of `data` at the position of `fd`, however many calls it takes.

    Raises:
        OSError: as it comes; what was written until then stays. The caller knows the path and
            translates.
    """
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(fd, rest) :]


def begin_writeback(fd: int, offset: int, length: int) -> None:
    """Have the kernel start writing a range to the disk, without waiting for it.

    What is done meanwhile costs the sync that follows nothing. DONTNEED is named for what it does
    to pages already written: it drops them. To those not yet written it does what is wanted here,
    and leaves most of them in the cache: some are written already when the kernel looks again.
    Faults of the writing are reported by the sync, so those of the advice are of no interest.
    """
    with contextlib.suppress(OSError):
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: those added, renamed and removed.

    Raises:
        NoSpaceError, StoreUnavailableError: the directory cannot be opened or the sync failed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, path=path) from error


def make_directory_durably(path: Path, *, mode: int = DIRECTORY_MODE) -> None:
    """Create a directory and those above it that are missing.

    Args:
        mode: permission bits of each directory created; those of existing ones stay.

    Raises:
        NoSpaceError, StoreUnavailableError: it cannot be created, is a file, or a sync failed.

    Durability: on return each created directory stands durably in its parent. So does the
    deepest one that already existed, since whoever created it may have died before the sync; its
    parent is left alone only if this process may not read it.
    """
    try:
        missing = _missing_directories(path.absolute())
        existing = missing[0].parent if missing else path.absolute()
        if os.access(existing.parent, os.R_OK):
            sync_directory(existing.parent)
        for directory in missing:
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=mode)
            sync_directory(directory.parent)
            if not directory.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory))
    except OSError as error:
        raise storage_error(error, path=path) from error


def _missing_directories(path: Path) -> list[Path]:
    """Return `path` and those above it that are no directories, outermost first."""
    missing: list[Path] = []
    while not path.is_dir() and path != path.parent:
        missing.insert(0, path)
        path = path.parent
    return missing


def replace_durably(path: Path, data: Buffer) -> None:
    """Write a small file so that its name always holds either the old or the new bytes, whole.

    Raises:
        NoSpaceError, StoreUnavailableError: the old file is still in place, unless the sync of
            the directory failed: then either may be after a power cut.

    Durability: on return the new bytes are durable under `path`, with mode 0600.
    """
    temporary = ""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise storage_error(error, path=path) from error
    sync_directory(path.parent)
