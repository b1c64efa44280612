"""The log of one node: append, sync, rotate, read back. Layout of the files in `dfs.wal`.

Methods that write are for the holder of `lock()` alone; reading is for everybody.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path

from dfs.core.clock import now_ms
from dfs.core.disk import find_space
from dfs.core.durable import make_directory_durably, storage_error, sync_directory
from dfs.core.errors import (
    NoSpaceError,
    StorageError,
    StoreUnavailableError,
    WalCorruptError,
    WalDroppedError,
    WalError,
    WalGapError,
    WalReadOnlyError,
)
from dfs.core.steps import OnStep, ignore_step
from dfs.wal.control import CONTROL_NAME, ControlFile, LogPosition
from dfs.wal.frame import Frame
from dfs.wal.layout import COPY_HINT, SegmentFile, Situation, find_situation, list_segments
from dfs.wal.reader import LogReader
from dfs.wal.repair import cut_tail
from dfs.wal.segment import (
    ACTIVE_NAME,
    FIRST_LSN,
    FIRST_SEGMENT_ID,
    NEXT_NAME,
    SEGMENT_HEADER_BYTES,
    SEGMENTS_NAME,
    OpenSegments,
    SegmentHeader,
    read_header,
    sealed_path,
    write_segment,
)
from dfs.wal.stub import read_frame, read_stub
from dfs.wal.writer import SegmentWriter


class WriteAheadLog:
    """The log in one directory, shared by the processes of a node.

    Args:
        path: directory of the log.
        segment_bytes: size at which a segment is full.
        preallocate_bytes: zeros written ahead of the tail; a sync that does not grow the file is
            about twice as quick.
        reserve_bytes: of the disk, which these zeros leave alone.
        on_step: see `dfs.core.steps`.

    Attributes:
        open_segments: the segments that this process reads from.
        sync_count: syncs of the log by this process.
    """

    def __init__(
        self,
        *,
        path: Path,
        segment_bytes: int,
        preallocate_bytes: int,
        reserve_bytes: int = 0,
        on_step: OnStep = ignore_step,
    ) -> None:
        self.path = path
        self.active_path = path / ACTIVE_NAME
        self.sync_count = 0
        self._segment_bytes = segment_bytes
        self._preallocate_bytes = preallocate_bytes
        self._reserve_bytes = reserve_bytes
        self._on_step = on_step
        self._writer = SegmentWriter(
            path=self.active_path,
            segment_bytes=segment_bytes,
            preallocate_bytes=preallocate_bytes,
            reserve_bytes=reserve_bytes,
        )
        self._appended: LogPosition | None = None
        self.open_segments = OpenSegments(path)
        self._control: ControlFile | None = None

    # Opening and closing

    def open(self) -> None:
        """Make the directories and open the control file. Reads no segment yet.

        Raises:
            StorageError: the directory cannot be used.
        """
        make_directory_durably(self.path / SEGMENTS_NAME)
        self._control = ControlFile(self.path / CONTROL_NAME)

    def close(self) -> None:
        """Close all files, between two changes. Safe to call twice.

        A change that does not end keeps them: its write would fall on what has the number by then.
        """
        if self._control is None or self._control.close():
            self._control = None
            self._writer.close()
            self.open_segments.clear()

    @property
    def control(self) -> ControlFile:
        """The control file of an open log."""
        if self._control is None:
            raise RuntimeError("the log is not open")
        return self._control

    def lock(self) -> AbstractContextManager[None]:
        """Hold the node's lock. Every change to the log happens under it."""
        return self.control.lock()

    # Changing, under the lock

    @property
    def position(self) -> LogPosition:
        """Where the log ends durably. Raises WalError if nobody has recovered it since boot."""
        position = self.control.position
        if position is None:
            raise WalError("The log has not been recovered since this machine started.")
        return position

    def exists(self) -> bool:
        """Tell whether the directory holds any segment, be it only half of a rotation."""
        return find_situation(self.path) is not Situation.EMPTY

    def prepare(self, *, cluster_id: bytes | None = None) -> SegmentHeader:
        """Bring the directory into the situation OPEN; return the active segment's header.

        Args:
            cluster_id: 16 bytes, for a log that does not exist yet; None if it must exist.

        Raises:
            WalGapError: the log, or only its active segment, is missing.
            WalCorruptError, StorageError.

        Durability: the names of all segments are on disk.
        """
        situation = find_situation(self.path)
        if situation is Situation.HEADLESS or (situation is Situation.EMPTY and cluster_id is None):
            raise WalGapError(
                "The active segment of the log is missing.", hint=COPY_HINT, path=self.active_path
            )
        # Whoever renamed a segment may have died before its new name was durable.
        sync_directory(self.path / SEGMENTS_NAME)
        sync_directory(self.path)
        if situation is Situation.EMPTY:
            beginning = LogPosition(FIRST_SEGMENT_ID - 1, 0, FIRST_LSN - 1)
            self._write_next(beginning, cluster_id=cluster_id)
        if situation is not Situation.OPEN:
            self._activate_next()
        return self.active_header()

    def is_full(self, extra_bytes: int) -> bool:
        """Tell whether the active segment has no room for that many bytes, and holds any record."""
        offset = self.position.offset
        return offset > SEGMENT_HEADER_BYTES and offset + extra_bytes > self._segment_bytes

    def require_writable(self) -> None:
        """Raise WalReadOnlyError if the disk has failed earlier, in whichever process."""
        reason = self.control.failure
        if reason is not None:
            raise _read_only_error(reason, path=self.active_path)

    def append(self, data: bytes, *, last_lsn: int) -> None:
        """Write whole changes behind the end of the log, by one write. Not durable yet.

        Raises:
            NoSpaceError: the disk is full; the log is cut back to where it was.
            WalReadOnlyError: the disk failed, now or earlier; the node takes no more writes.
        """
        self.require_writable()
        position = self.position
        self._writer.open(position)
        self.control.mark_dirty()
        self._on_step("log.dirty")
        try:
            self._writer.write(data, position)
        except NoSpaceError:
            self.cut_back()
            raise
        except StorageError as error:
            raise self._turn_read_only(error) from error
        self._appended = LogPosition(position.segment_id, position.offset + len(data), last_lsn)
        self._on_step("log.appended")

    def sync(self) -> None:
        """Make what was appended durable.

        Raises:
            WalReadOnlyError: the sync failed. It is not tried again, since nobody knows what is on
                disk now; the next start abandons the segment at its last durable offset.
        """
        try:
            self._writer.sync()
        except StorageError as error:
            raise self._turn_read_only(error) from error
        self.sync_count += 1
        self._on_step("log.synced")

    def publish(self) -> None:
        """Let the log end, for all processes, behind what was appended and synced."""
        if self._appended is None:
            raise RuntimeError("nothing was appended")
        self.control.publish(self._appended)
        self._appended = None
        self.open_segments.sweep()  # a process that only writes reads from none of them
        self._on_step("log.published")

    def cut_back(self) -> None:
        """Take back what was appended since the last `publish`.

        Raises:
            WalReadOnlyError: not even that works.

        Durability: on return nothing of it can come back, not even after a power cut.
        """
        position = self.position
        self._appended = None
        self._writer.open(position)
        try:
            self._writer.cut(position)
        except StorageError as error:
            raise self._turn_read_only(error) from error
        self.control.publish(position)

    def rotate(self, seal: bytes, *, last_lsn: int) -> None:
        """Close the active segment with its last record and begin the next one.

        Durability: on return the sealed segment, its new name, and the new active segment are on
        disk. A process that dies inside leaves a situation that `prepare` completes.
        """
        position = self.position
        ended = LogPosition(position.segment_id, position.offset + len(seal), last_lsn)
        self._write_next(ended)
        self.append(seal, last_lsn=last_lsn)
        self.sync()
        self._appended = None
        try:
            self._writer.cut(ended)  # the zeros written ahead are for nothing now
            self._seal_active(ended)
        except StorageError as error:
            raise self._turn_read_only(error) from error
        self.control.publish(LogPosition(ended.segment_id + 1, SEGMENT_HEADER_BYTES, ended.lsn))

    def leave_active(self, ended: LogPosition) -> LogPosition:
        """Let the active segment end at `ended`, and begin the next one.

        This is what becomes of a segment whose sync failed (it is abandoned at its last durable
        offset: what lies behind is never read), and how an interrupted rotation is completed.

        Returns:
            The new end of the log.
        """
        active = self.active_header()
        if active.segment_id != ended.segment_id + 1:  # else whoever did it died before saying so
            self._write_next(ended)
            self._seal_active(ended)
            active = self.active_header()
        return LogPosition(active.segment_id, SEGMENT_HEADER_BYTES, active.previous_last_lsn)

    def sync_active(self) -> None:
        """Make durable what a process that died may have appended without a sync.

        It may even have died between a failed sync and saying so. The kernel reports a failure
        once and takes the pages for clean: so they are written again, not only synced.

        Raises:
            WalReadOnlyError: the sync failed; see `sync`.
        """
        try:
            fd = os.open(self.active_path, os.O_RDWR | os.O_CLOEXEC)
            try:
                position = self.control.position
                if position is not None and position.segment_id == self.active_header().segment_id:
                    size = os.fstat(fd).st_size - position.offset
                    tail = os.pread(fd, max(0, size), position.offset).rstrip(b"\0")
                    os.pwrite(fd, tail, position.offset)
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._turn_read_only(storage_error(error, path=self.active_path)) from error

    def cut(self, position: LogPosition) -> Path | None:
        """Cut a torn tail off behind `position`; see `repair.cut_tail`."""
        self._writer.close()
        return cut_tail(self.path, self.active_path, position)

    # Reading

    def active_header(self) -> SegmentHeader:
        """Return the header of the active segment. Raises as `segment.read_header`."""
        return read_header(self.active_path)

    def segments(self) -> list[SegmentFile]:
        """Return all segments, oldest first. Raises as `layout.list_segments`."""
        return list_segments(self.path)

    def read(
        self, *, after_lsn: int, durable_lsn: int = 0, until: LogPosition | None = None
    ) -> LogReader:
        """Return an iterator over all valid records behind `after_lsn`.

        Args:
            durable_lsn: damage up to this LSN is corruption, never a torn write.
            until: where the log ends, for a reader that does not hold the lock; None finds out.
        """
        return LogReader(
            segments=self.segments(),
            open_segment=self.open_segments.open_anew,
            known=self.control.position,
            after_lsn=after_lsn,
            durable_lsn=durable_lsn,
            until=until,
        )

    def read_record(self, *, segment_id: int, offset: int, length: int) -> Frame:
        """Read and check one record.

        Raises:
            WalCorruptError: no valid record lies there.
            WalDroppedError: the segment was dropped since the place was looked up.
            WalGapError: the segment is missing.
            StorageError: the disk failed.
        """
        place = {"segment_id": segment_id, "offset": offset, "length": length}
        try:
            return read_frame(self.open_segments.get(segment_id), **place)
        except (WalCorruptError, StoreUnavailableError):
            # The file may have been replaced since it was opened: it was mended, or dropped.
            segment = self.open_segments.open_anew(segment_id)
        if read_stub(segment) is not None:
            raise WalDroppedError(
                "The segment was dropped: what was needed of it stands elsewhere.",
                segment_id=segment_id,
                offset=offset,
            )
        return read_frame(segment, **place)

    # Writing, inside

    def _turn_read_only(self, cause: StorageError) -> WalReadOnlyError:
        self._appended = None
        self.control.mark_read_only(cause.message, **cause.context)
        return _read_only_error(cause.message, **cause.context)

    def _write_next(self, ended: LogPosition, *, cluster_id: bytes | None = None) -> None:
        """Have the next segment ready under a name that counts only when it is renamed."""
        header = SegmentHeader(
            segment_id=ended.segment_id + 1,
            cluster_id=cluster_id or self.active_header().cluster_id,
            first_lsn=ended.lsn + 1,
            previous_end=ended.offset,
            previous_last_lsn=ended.lsn,
            created_at_ms=now_ms(),
        )
        ahead = min(self._preallocate_bytes, self._segment_bytes)
        spare = find_space(self.path).bytes - self._reserve_bytes
        write_segment(self.path / NEXT_NAME, header, size_bytes=max(0, min(ahead, spare)))
        self._on_step("log.next_written")

    def _seal_active(self, ended: LogPosition) -> None:
        self._writer.close()
        target = sealed_path(self.path, ended.segment_id)
        if target.exists():
            raise WalCorruptError("A segment is sealed already.", hint=COPY_HINT, path=target)
        self._rename(self.active_path, target)
        sync_directory(self.path / SEGMENTS_NAME)
        sync_directory(self.path)
        self._on_step("log.sealed")
        self._activate_next()

    def _activate_next(self) -> None:
        self._rename(self.path / NEXT_NAME, self.active_path)
        sync_directory(self.path)
        self._on_step("log.next_activated")

    def _rename(self, source: Path, target: Path) -> None:
        try:
            source.rename(target)
        except OSError as error:
            raise storage_error(error, path=source) from error


def _read_only_error(reason: str, **context: object) -> WalReadOnlyError:
    return WalReadOnlyError(
        f"The log could not be written: {reason}",
        hint="Mend the disk or the permissions, then restart dfs: it begins a fresh segment.",
        **context,
    )
