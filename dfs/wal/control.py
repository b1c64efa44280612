"""The control file: what the processes of one node share about its log, and their lock.

A page of memory mapped by every process. It survives the death of any of them, and is not believed
after a reboot: it is never synced, and the segments say the same.

    offset  size  field
         0     8  magic, b"dfs-ctl\\n"
         8     4  format version
        12     4  flags: 1 = dirty, 2 = read-only
        16    36  boot id of the kernel, ASCII
        52     1  which of the two slots holds
        56    64  slot 0
       120    64  slot 1
       192   320  reason for read-only, UTF-8, zero-padded

    slot:  segment id u64 | tail u64 | LSN u64 | CRC32 of these u32

The position is written into the slot that does not hold, then the one byte that chooses is flipped:
a process killed at any instruction leaves the old position or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from dfs.core.checksum import crc32
from dfs.core.durable import storage_error
from dfs.core.errors import StoreUnavailableError, WalReadOnlyError

MAGIC = b"dfs-ctl\n"
FORMAT_VERSION = 1
CONTROL_NAME = "control"
CONTROL_BYTES = 4096
CLOSE_WAIT_S = 10.0
"""Whoever closes the log waits so long for a change to end."""
BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")

REMOVED_REASON = "The log was removed or replaced while in use"

_HEAD = struct.Struct("<8sI")
_OWN_HEAD = _HEAD.pack(MAGIC, FORMAT_VERSION)
_FLAGS = struct.Struct("<I")
_SLOT = struct.Struct("<QQQI")
_POSITION = struct.Struct("<QQQ")
_FLAGS_OFFSET = 12
_BOOT_OFFSET, _BOOT_BYTES = 16, 36
_CHOICE_OFFSET = 52
_SLOT_OFFSETS = (56, 120)
_REASON_OFFSET, _REASON_BYTES = 192, 320
_READ_ATTEMPTS_MAX = 100
_DIRTY, _READ_ONLY = 1, 2

logger = structlog.get_logger()


class LogPosition(msgspec.Struct, frozen=True, gc=False):
    """A place between two changes of the log.

    Attributes:
        offset: behind the last record before this place, in segment `segment_id`.
        lsn: of that record; 0 at the beginning of the log.
    """

    segment_id: int
    offset: int
    lsn: int


class ControlFile:
    """The control file of one log. Opening it reads nothing into belief: see `position`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with contextlib.ExitStack() as opened:
                self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                opened.callback(os.close, self._fd)
                os.posix_fallocate(self._fd, 0, CONTROL_BYTES)  # a hole on a full disk kills
                self._map = mmap.mmap(self._fd, CONTROL_BYTES)
                self._members_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                opened.pop_all()
        except OSError as error:
            if os.path.lexists(path) and not path.is_file():
                raise StoreUnavailableError(
                    "Something that is no file lies where the control file of the log belongs.",
                    hint=f"Stop all processes of the node, then `mv {path} {path}.aside` and start "
                    "it: what it said, the segments say, too.",
                    path=path,
                ) from error
            raise storage_error(error, path=path) from error
        self._identity = os.fstat(self._fd)
        self._boot_id = read_boot_id()
        self._mutex = threading.Lock()
        self._read_last: tuple[bytes, LogPosition | None] = (b"", None)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the node's lock, which the kernel releases if this process dies. Not reentrant.

        Raises:
            WalReadOnlyError: as `require_in_place`.
        """
        with self._mutex:  # flock knows open files, not threads
            if self._map.closed:  # by then its number may be that of another file
                raise RuntimeError("the log was closed")
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            try:
                self.require_in_place()
                yield
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def require_in_place(self) -> None:
        """Refuse to go on if the log was removed: whoever opens it now has another control file.

        There may be another life of the log by then, restored from the replicas. What this process
        knows is no longer so, and what it writes would fall on what others have written since.

        Raises:
            WalReadOnlyError: it was.
        """
        if not self._is_in_place():
            raise WalReadOnlyError(
                f"{REMOVED_REASON}; this process serves nothing any more.",
                hint="Start it anew, unless its supervisor does; then the node recovers.",
                path=self._path,
            )

    def join(self) -> None:
        """Be counted, until `close` or death, among the processes that use this node's index."""
        fcntl.flock(self._members_fd, fcntl.LOCK_SH)

    def has_others(self) -> bool:
        """Tell whether another process has joined. Only before joining, under the lock."""
        try:
            fcntl.flock(self._members_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._members_fd, fcntl.LOCK_UN)
        return False

    @property
    def position(self) -> LogPosition | None:
        """Where the log ended durably, or None if nothing here is to be believed.

        Needs no lock: a slot that another process overwrites meanwhile does not fit its CRC32, and
        by then the other slot holds.
        """
        if not self._is_believable():
            return None
        for _ in range(_READ_ATTEMPTS_MAX):
            offset = _SLOT_OFFSETS[self._map[_CHOICE_OFFSET] & 1]
            slot = self._map[offset : offset + _SLOT.size]
            known_slot, position = self._read_last
            if slot == known_slot:  # every change and every download asks
                return position
            segment_id, tail, lsn, stored_crc = _SLOT.unpack(slot)
            if crc32(slot[: _POSITION.size]) == stored_crc:
                position = LogPosition(segment_id, tail, lsn)
                self._read_last = (slot, position)
                return position
        return None

    @property
    def is_dirty(self) -> bool:
        """Whether a commit is under way, or its process died inside it."""
        return bool(self._flags & _DIRTY)

    @property
    def read_only_reason(self) -> str | None:
        """Why this process takes no writes, or None if it does."""
        return self.failure if self._is_in_place() else REMOVED_REASON

    @property
    def failure(self) -> str | None:
        """What stopped all processes of the node from writing; None if nothing did.

        A holder of the lock knows already that the log is in its place, and is spared a look.
        """
        if not self._is_believable() or not self._flags & _READ_ONLY:
            return None
        reason = self._map[_REASON_OFFSET : _REASON_OFFSET + _REASON_BYTES]
        return reason.rstrip(b"\0").decode("utf-8", "ignore") or "unknown"

    def mark_dirty(self) -> None:
        """Say that bytes behind the position may change from now on."""
        self._set_flags(self._flags | _DIRTY)

    def publish(self, position: LogPosition) -> None:
        """Say that the log ends durably here, and that no commit is under way."""
        spare = 1 - (self._map[_CHOICE_OFFSET] & 1)
        fields = _POSITION.pack(position.segment_id, position.offset, position.lsn)
        _SLOT.pack_into(
            self._map,
            _SLOT_OFFSETS[spare],
            position.segment_id,
            position.offset,
            position.lsn,
            crc32(fields),
        )
        self._map[_CHOICE_OFFSET] = spare
        self._set_flags(self._flags & ~_DIRTY)

    def mark_read_only(self, reason: str, **context: object) -> None:
        """Stop all processes of the node from writing, until `reset`.

        Args:
            reason: for clients and operators.
            context: where it happened, for the log.
        """
        logger.error("log_turned_read_only", reason=reason, **context)
        encoded = reason.encode("utf-8", "replace")[: _REASON_BYTES - 1]
        self._map[_REASON_OFFSET : _REASON_OFFSET + _REASON_BYTES] = encoded.ljust(
            _REASON_BYTES, b"\0"
        )
        self._set_flags(self._flags | _READ_ONLY)

    def reset(self, position: LogPosition) -> None:
        """Begin anew, after recovery: this boot, this position, neither dirty nor read-only.

        What other processes believe already stays believable throughout.
        """
        if not self._is_believable():
            self._map[_BOOT_OFFSET : _BOOT_OFFSET + _BOOT_BYTES] = bytes(_BOOT_BYTES)
        self.publish(position)
        self._set_flags(0)
        _HEAD.pack_into(self._map, 0, MAGIC, FORMAT_VERSION)
        self._map[_BOOT_OFFSET : _BOOT_OFFSET + _BOOT_BYTES] = self._boot_id

    def close(self) -> bool:
        """Unmap and close, while no thread holds the lock. The state stays in the file.

        Returns:
            Whether it is closed. Not, if a thread has not released the lock after a while; what it
            works with must be left alone.
        """
        if not self._mutex.acquire(timeout=CLOSE_WAIT_S):
            return False
        try:
            self._map.close()
            os.close(self._members_fd)
            os.close(self._fd)
        finally:
            self._mutex.release()
        return True

    @property
    def _flags(self) -> int:
        return int(_FLAGS.unpack_from(self._map, _FLAGS_OFFSET)[0])

    def _set_flags(self, flags: int) -> None:
        _FLAGS.pack_into(self._map, _FLAGS_OFFSET, flags)

    def _is_in_place(self) -> bool:
        """Tell whether the file is still the one that whoever opens the log finds."""
        try:
            return os.path.samestat(self._path.stat(), self._identity)
        except OSError:
            return False

    def _is_believable(self) -> bool:
        return (
            self._map[: len(_OWN_HEAD)] == _OWN_HEAD
            and self._map[_BOOT_OFFSET : _BOOT_OFFSET + _BOOT_BYTES] == self._boot_id
        )


def read_boot_id() -> bytes:
    """Return the kernel's id of this boot, 36 ASCII bytes."""
    return BOOT_ID_PATH.read_bytes().strip()
