"""Getting whole segments of the log out of the copies that stores keep."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dfs.core.durable import storage_error, write_all
from dfs.core.errors import (
    BlobMissingError,
    StorageError,
    StoreUnavailableError,
    WalCorruptError,
    WalGapError,
)
from dfs.services.segment_sources import SegmentSource, decode_segment_header
from dfs.wal.control import LogPosition
from dfs.wal.merge import (
    Merged,
    SegmentCopy,
    first_position,
    merge_newest,
    merge_up_to,
    read_runs,
    two_lives,
)
from dfs.wal.segment import (
    SEGMENT_HEADER_BYTES,
    OpenSegment,
    SegmentHeader,
    encode_header,
)
from dfs.wal.stub import Stub, read_stub

FETCH_BYTES = 4 << 20
OWN = "this node"


@dataclass(frozen=True, slots=True)
class Built:
    """A segment put together in a file, verified and synced.

    Attributes:
        end: behind its last record, where the file ends, too, unless it is a stub.
        origins: where its bytes come from.
        is_stub: it was dropped, and this is what stands for it.
    """

    path: Path
    header: SegmentHeader
    end: LogPosition
    origins: tuple[str, ...]
    is_stub: bool = False


def find_header(
    copies: Sequence[SegmentCopy], segment_id: int, *, cluster_id: bytes
) -> SegmentHeader | None:
    """Return the header that copies of a segment have; None if it is damaged in all.

    Raises:
        WalCorruptError: they have different ones.
    """
    headers = {
        header: copy.origin
        for copy in copies
        if (header := _copied_header(copy, segment_id)) is not None
        and header.cluster_id == cluster_id
    }
    if len(headers) > 1:
        raise two_lives(headers.values())
    return next(iter(headers), None)


def has_stub(copies: Sequence[SegmentCopy], end: LogPosition, *, log_lsn: int) -> bool:
    """Tell whether a copy is the stub of the segment that ended at `end`, and enough.

    Args:
        log_lsn: of the last record of the log.
    """
    stubs = map(_read_own_stub, copies)
    return any(stub is not None and stub.is_enough(end, log_lsn=log_lsn) for stub in stubs)


def open_own(path: Path) -> SegmentCopy:
    """Return a file of the log as a copy. Raises StorageError."""
    return SegmentCopy(OWN, _open(path), is_own=True)


class SegmentBuilder:
    """Puts segments together from files of the node and from what stores hold.

    Args:
        directory: for files that are being built; nobody else uses it.
        sources: asked one after the other.
        cluster_id: of the log.
        own_header: returns the header of a segment as the node has it; None if it has none.
    """

    def __init__(
        self,
        *,
        directory: Path,
        sources: Sequence[SegmentSource],
        cluster_id: bytes,
        own_header: Callable[[int], SegmentHeader | None],
    ) -> None:
        self._directory = directory
        self._sources = sources
        self._cluster_id = cluster_id
        self._own_header = own_header
        self._count = 0

    def build_up_to(
        self, end: LogPosition, own: Sequence[SegmentCopy], *, log_end: LogPosition
    ) -> Built:
        """Build the segment that ends at `end`.

        If any copy is a stub that is enough for the log, it is the stub: what has taken away what
        the segment put may have been dropped, too.

        Args:
            log_end: where the log ends that the segment is part of.

        Raises:
            WalCorruptError, WalGapError: it is nowhere whole, and what is damaged in one copy is
                damaged in all; or there is no copy.
            StorageError: the node's own disk failed.

        Durability: the file is on disk, its name is not yet.
        """
        faults: dict[str, str] = {}
        built = self.build_stub(end, own, log_end=log_end, faults=faults)
        copies = [copy for copy in own if _read_own_stub(copy) is None]
        if built is None and copies:
            built = self._try_building(copies, end, OWN, faults)
        for source in self._sources:
            if built is not None:
                break
            copy = self._fetch_whole(source, end, faults)
            if copy is not None:
                copies.insert(0, copy)
                built = self._try_building(copies, end, source.name, faults)
        if built is not None:
            return built
        kind = WalCorruptError if copies else WalGapError
        asked = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
        raise kind(
            f"Segment {end.segment_id} of the log, up to LSN {end.lsn}, is "
            f"{'damaged' if copies else 'missing'}, and no store can give it ({asked or 'none'}).",
            hint="Make these stores reachable, or put the file back from a copy; dfs never skips "
            "records. scripts/repair_replicas.py tells what each store holds.",
            segment_id=end.segment_id,
        )

    def build_stub(
        self,
        end: LogPosition,
        own: Sequence[SegmentCopy] = (),
        *,
        log_end: LogPosition,
        faults: dict[str, str] | None = None,
    ) -> Built | None:
        """Build the stub of the segment that ended at `end`, if anybody has one that is enough.

        One of a store that has another life of the log is not believed.

        Args:
            faults: told why a stub that is there cannot be used.

        Returns:
            None if nobody has. Raises StorageError: the node's own disk failed.

        Durability: the file is on disk, its name is not yet.
        """
        for name, stub in self._find_stubs(end.segment_id, own, log_end):
            is_ours = stub.header.cluster_id == self._cluster_id
            if is_ours and stub.is_enough(end, log_lsn=log_end.lsn):
                path = self._new_path(end.segment_id, "stub")
                _write_file(path, [stub.data])
                _cut_and_sync(path, len(stub.data))
                return Built(path, stub.header, end, (name,), is_stub=True)
            if faults is not None:
                moved_lsn = stub.drop.moved_lsn
                faults[name] = f"holds its stub, which needs the log up to LSN {moved_lsn}"
        return None

    def _find_stubs(
        self, segment_id: int, own: Sequence[SegmentCopy], log_end: LogPosition
    ) -> Iterator[tuple[str, Stub]]:
        """Yield (who has it, stub) of a segment."""
        for copy in own:
            stub = _read_own_stub(copy)
            if stub is not None:
                yield copy.origin, stub
        for source in self._sources:
            with contextlib.suppress(StorageError):
                stub = source.read_stub(segment_id)
                if stub is not None and self._has_this_log(source, log_end):
                    yield source.name, stub

    def _has_this_log(self, source: SegmentSource, log_end: LogPosition) -> bool:
        """Tell whether the newest segment of a store is, by its header, one of this log."""
        header = self._own_header(source.newest_id)
        if header is not None:
            return header == source.newest
        return source.newest_id <= log_end.segment_id

    def build_newest(self, segment_id: int, own: Sequence[SegmentCopy]) -> Built:
        """Build the newest segment, as long as any copy makes it.

        Raises:
            WalCorruptError: a part of it that was durable is damaged in all copies; or the copies
                come from two lives of the log.
            StorageError: a store failed.

        Durability: the file is on disk, its name is not yet.
        """
        copies = list(own)
        for source in self._sources:
            if segment_id in source.held:
                copies.append(self.fetch(source, segment_id, source.held[segment_id]))
        header = find_header(copies, segment_id, cluster_id=self._cluster_id)
        if header is None:
            raise WalCorruptError(
                f"The header of segment {segment_id} of the log is damaged in all copies.",
                hint="Put the file back from a copy; dfs never skips records.",
                segment_id=segment_id,
            )
        return self._finish(header, merge_newest(copies, start=first_position(header)))

    def fetch(self, source: SegmentSource, segment_id: int, length: int) -> SegmentCopy:
        """Copy the first `length` bytes of a segment from a store. Raises StorageError."""
        pieces = (
            source.store.read_segment(segment_id, offset, min(FETCH_BYTES, length - offset))
            for offset in range(0, length, FETCH_BYTES)
        )
        path = self._new_path(segment_id, source.name)
        _write_file(path, pieces)
        copy = SegmentCopy(source.name, _open(path))
        if copy.segment.size() != length:
            raise StoreUnavailableError(
                "A segment became shorter while it was copied.",
                store=source.name,
                segment_id=segment_id,
            )
        return copy

    def _fetch_whole(
        self, source: SegmentSource, end: LogPosition, faults: dict[str, str]
    ) -> SegmentCopy | None:
        """Copy a segment from a store that holds it up to its end, or note why that fails."""
        held_bytes = source.held.get(end.segment_id, 0)
        if source.fault is not None:
            faults[source.name] = source.fault
        elif not held_bytes:
            faults[source.name] = "does not hold it"
        elif held_bytes < end.offset:  # its end may come from a write that was taken back
            faults.setdefault(source.name, f"holds {held_bytes} of {end.offset} bytes")
        else:
            try:
                return self.fetch(source, end.segment_id, end.offset)
            except (StoreUnavailableError, BlobMissingError) as error:
                faults[source.name] = error.message
        return None

    def _try_building(
        self, copies: Sequence[SegmentCopy], end: LogPosition, name: str, faults: dict[str, str]
    ) -> Built | None:
        header = find_header(copies, end.segment_id, cluster_id=self._cluster_id)
        if header is None:
            faults[name] = "its header is damaged"
            return None
        merged = merge_up_to(copies, start=first_position(header), end=end)
        if merged.end != end:
            faults[name] = f"damaged at offset {merged.end.offset}, LSN {merged.end.lsn + 1}"
            return None
        return self._finish(header, merged)

    def _finish(self, header: SegmentHeader, merged: Merged) -> Built:
        """Have what was merged in a file of its own: the one that was fetched, if that is all."""
        encoded = encode_header(header)
        copies = {run.copy.origin: run.copy for run in merged.runs}
        sole = next(iter(copies.values())) if len(copies) == 1 else None
        if sole is None or sole.is_own or sole.segment.read(0, len(encoded)) != encoded:
            path = self._new_path(header.segment_id, "merged")
            _write_file(path, chain([encoded], read_runs(merged.runs)))
            whole = SegmentCopy(OWN, _open(path))
            again = merge_up_to([whole], start=first_position(header), end=merged.end)
            if again.end != merged.end:
                raise WalCorruptError("A segment is not read as it was written.", path=path)
        else:
            path = sole.segment.path
        _cut_and_sync(path, merged.end.offset)
        return Built(path, header, merged.end, tuple(copies))

    def _new_path(self, segment_id: int, origin: str) -> Path:
        self._count += 1
        return self._directory / f"{segment_id:010d}-{self._count}.{origin}"


def _read_own_stub(copy: SegmentCopy) -> Stub | None:
    """Return the stub that a copy is; None if it is none, or cannot be read."""
    with contextlib.suppress(StorageError):
        return read_stub(copy.segment)
    return None


def _copied_header(copy: SegmentCopy, segment_id: int) -> SegmentHeader | None:
    try:
        return decode_segment_header(copy.segment.read(0, SEGMENT_HEADER_BYTES), segment_id)
    except StorageError:
        return None


def _open(path: Path) -> OpenSegment:
    try:
        return OpenSegment(path)
    except OSError as error:
        raise storage_error(error, path=path) from error


def _write_file(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file of the workshop. Not durable yet."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for piece in pieces:
                write_all(fd, piece)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, path=path) from error


def _cut_and_sync(path: Path, size: int) -> None:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise storage_error(error, path=path) from error
