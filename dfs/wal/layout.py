"""Which segments a log has, where each one ends, and whether any is missing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from dfs.core.errors import StorageError, WalCorruptError, WalError, WalGapError
from dfs.core.regular import read_start
from dfs.wal.control import LogPosition
from dfs.wal.segment import (
    ACTIVE_NAME,
    FIRST_LSN,
    FIRST_SEGMENT_ID,
    NEXT_NAME,
    SEGMENTS_NAME,
    SegmentHeader,
    decode_header,
    list_sealed_ids,
    read_header,
    sealed_path,
    unreadable_segment,
)
from dfs.wal.stub import STUB_BYTES_MAX, Stub, decode_stub

LOOK_ATTEMPTS_MAX = 5
COPY_HINT = (
    "Restore it from a copy of the log; dfs never skips records. A start does so by itself from "
    "replicas that are set; scripts/repair_replicas.py tells what each store holds."
)


class Situation(Enum):
    """What a directory holds that is or becomes a log."""

    EMPTY = "Nothing yet, or the first segment that was begun and never used: the log begins."
    OPEN = "An active segment: the log is in use; a `wal.next` beside it is a rotation not begun."
    ROTATING = "Sealed segments and `wal.next`: the process died between the two renames."
    HEADLESS = "No active segment though there was one: the newest records are lost."


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One segment of a log.

    Attributes:
        end: offset behind its last record; None for the active one, whose end is to be found.
        last_lsn: of its last record; None for the active one.
        size_bytes: of the file; None for the active one.
        stub: what stands for it, if it was dropped: then the file does not reach to `end`.
    """

    path: Path
    header: SegmentHeader
    end: int | None = None
    last_lsn: int | None = None
    size_bytes: int | None = None
    stub: Stub | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the file has lost a part of what it held."""
        if self.end is None or self.size_bytes is None or self.stub is not None:
            return False
        return self.size_bytes < self.end


@dataclass(frozen=True, slots=True)
class _Start:
    """What the first bytes of a sealed segment's file say, and how long that is."""

    header: SegmentHeader
    size_bytes: int
    stub: Stub | None


def find_situation(directory: Path) -> Situation:
    """Tell which of the situations a log's directory is in. Reads one header at most."""
    if (directory / ACTIVE_NAME).exists():
        return Situation.OPEN
    sealed = (directory / SEGMENTS_NAME).is_dir() and list_sealed_ids(directory)
    if not sealed:
        return Situation.HEADLESS if _has_later_next(directory) else Situation.EMPTY
    return Situation.ROTATING if (directory / NEXT_NAME).exists() else Situation.HEADLESS


def _has_later_next(directory: Path) -> bool:
    """Tell whether `wal.next` is whole and was to follow a segment that is gone."""
    with contextlib.suppress(StorageError, WalError):
        return read_header(directory / NEXT_NAME).segment_id != FIRST_SEGMENT_ID
    return False


def list_segments(directory: Path) -> list[SegmentFile]:
    """Return all segments of an open log, oldest first, the active one last.

    Reads the start of each segment. Needs no lock: it looks again if a rotation came in between.

    Raises:
        WalGapError: a segment is missing.
        WalCorruptError: a header is damaged, or does not belong where it lies.
    """
    active_path, active, ids = _look(directory)
    expected = range(FIRST_SEGMENT_ID, active.segment_id)
    missing = sorted(set(expected) - set(ids))
    if missing:
        raise WalGapError(
            f"A segment of the log is missing: {missing[0]}.",
            hint=COPY_HINT,
            path=sealed_path(directory, missing[0]),
            missing=missing,
        )
    if len(ids) != len(expected):
        raise WalCorruptError(
            f"Segment {ids[-1]} is sealed, and yet segment {active.segment_id} is the active one.",
            hint=COPY_HINT,
            path=active_path,
        )
    paths = [sealed_path(directory, segment_id) for segment_id in ids]
    starts = [*map(_read_start, paths)]
    headers = [*(start.header for start in starts), active]
    _check_chain([*paths, active_path], [*ids, active.segment_id], headers)
    segments = [*map(_describe, paths, starts, headers[1:])]
    return [*segments, SegmentFile(active_path, active)]


def _read_start(path: Path) -> _Start:
    """Read the header of a sealed segment, and see whether it is a stub, in one look at the file.

    Raises as `read_header`.
    """
    try:
        data, size_bytes = read_start(path, STUB_BYTES_MAX)
    except OSError as error:
        raise unreadable_segment(error, path) from error
    return _Start(decode_header(data, path=path), size_bytes, decode_stub(data))


def _describe(path: Path, start: _Start, following: SegmentHeader) -> SegmentFile:
    """Return a sealed segment, which ends where the header of the following one says."""
    end, last_lsn = following.previous_end, following.previous_last_lsn
    stub = start.stub
    if stub is not None and stub.end != LogPosition(start.header.segment_id, end, last_lsn):
        stub = None
    return SegmentFile(path, start.header, end, last_lsn, start.size_bytes, stub)


def _look(directory: Path) -> tuple[Path, SegmentHeader, list[int]]:
    """Return where the newest segment lies, its header, and the ids of the sealed ones.

    Between the two renames of a rotation the newest one is `wal.next`. What does not fit together
    is looked at again: the next rotation may have come between two looks.
    """
    for attempts_left in reversed(range(LOOK_ATTEMPTS_MAX)):
        rotating = find_situation(directory) is Situation.ROTATING
        name = NEXT_NAME if rotating else ACTIVE_NAME
        try:
            newest = read_header(directory / name)
        except (StorageError, WalError):
            if attempts_left:
                continue
            raise
        ids = list_sealed_ids(directory)
        if (ids[-1] if ids else FIRST_SEGMENT_ID - 1) == newest.segment_id - 1:
            break
    return directory / name, newest, ids


def _check_chain(paths: list[Path], ids: list[int], headers: list[SegmentHeader]) -> None:
    if headers[0].segment_id == FIRST_SEGMENT_ID and headers[0].first_lsn != FIRST_LSN:
        raise WalCorruptError("The first segment does not begin the log.", path=paths[0])
    for index, (path, segment_id, header) in enumerate(zip(paths, ids, headers, strict=True)):
        if header.segment_id != segment_id:
            raise WalCorruptError(
                f"Segment {header.segment_id} lies where segment {segment_id} belongs.",
                hint=COPY_HINT,
                path=path,
            )
        if header.cluster_id != headers[0].cluster_id:
            raise WalCorruptError(
                "A segment of another cluster lies in this log.", hint=COPY_HINT, path=path
            )
        if index and header.first_lsn < headers[index - 1].first_lsn:
            raise WalCorruptError(
                "The segments do not follow each other.", hint=COPY_HINT, path=path
            )
