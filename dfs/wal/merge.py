"""Putting one segment together from several copies of it, of which none need be whole.

Copies of a segment are equal byte for byte, as far as they are right. So each change is taken from
a copy that has it valid, and where one copy is damaged another helps out.

The last commit of a copy is in doubt: it may come from a write that the node took back, and then
other records were given its LSNs. A further commit behind it proves that it stayed, and a node's
own copy is never in doubt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from dfs.core.errors import StorageError, WalCorruptError
from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag
from dfs.wal.reader import Outcome, SegmentReader
from dfs.wal.record import decode_meta, moment_of
from dfs.wal.segment import SEGMENT_HEADER_BYTES, SegmentBytes, SegmentHeader

PIECE_BYTES = 1 << 20
_CONTINUES = int(Flag.CONTINUES)
_COMMIT_START = int(Flag.COMMIT_START)


@dataclass(frozen=True, slots=True)
class SegmentCopy:
    """One copy of a segment, or what is left of it.

    Attributes:
        origin: where it comes from, for answers and logs.
        is_own: of the node that wrote the segment.
    """

    origin: str
    segment: SegmentBytes
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """The bytes [start, stop) of a copy: whole changes, all of them valid."""

    copy: SegmentCopy
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Merged:
    """What copies of a segment hold together.

    Attributes:
        runs: one behind the other, from the header's end on.
        end: behind the last of them.
    """

    runs: tuple[Run, ...]
    end: LogPosition


@dataclass(frozen=True, slots=True)
class _Found:
    """How far a copy can be read from some place on.

    Attributes:
        sure: up to here it is beyond doubt. Like `end`, a place between two changes.
        is_damaged: behind `end` it holds a later commit, so that something is missing there.
    """

    copy: SegmentCopy
    sure: LogPosition
    end: LogPosition
    is_damaged: bool


def first_position(header: SegmentHeader) -> LogPosition:
    """Return the place of a segment's first record."""
    return LogPosition(header.segment_id, SEGMENT_HEADER_BYTES, header.first_lsn - 1)


def merge_up_to(copies: Sequence[SegmentCopy], *, start: LogPosition, end: LogPosition) -> Merged:
    """Put together what is known to end at `end`, from copies that were all written that far.

    Returns:
        Merged: as far as the copies go; whole if and only if its `end` is the one asked for. The
        first copies are used as far as they go.
    """
    runs: list[Run] = []
    position = start
    while position.offset < end.offset:
        for copy in copies:
            reached = _look(copy, position, stop=end.offset).end
            if reached.offset > position.offset:
                runs.append(Run(copy, position.offset, reached.offset))
                position = reached
                break
        else:
            break
    return Merged(tuple(runs), position)


def merge_newest(copies: Sequence[SegmentCopy], *, start: LogPosition) -> Merged:
    """Put together the newest segment, whose end is where no copy goes on.

    Raises:
        WalCorruptError: records are missing that were durable; or two copies, both beyond doubt,
            differ.
    """
    runs: list[Run] = []
    position = start
    going = list(copies)
    while True:
        looks = [_look(copy, position, stop=None) for copy in going]
        found = [look for look in looks if look.end.lsn > position.lsn]
        damaged = [look.copy for look in looks if look.is_damaged]
        best = _choose(found, position, damaged)
        if best is None:
            break
        reached = best.sure if best.sure.lsn > position.lsn else best.end
        for other in found:
            stop = min(best.sure.offset, other.sure.offset)
            require_same(best.copy, other.copy, position.offset, stop)
            stop = min(reached.offset, other.end.offset)
            if not _is_same(best.copy, other.copy, position.offset, stop):
                going.remove(other.copy)  # what was taken back does not go on
        runs.append(Run(best.copy, position.offset, reached.offset))
        position = reached
    for copy in going:
        if copy.segment.size() > position.offset:
            reader = _reader(copy, position, stop=None)
            list(reader)
            if reader.end.outcome is Outcome.CORRUPT:
                raise reader.end.error()
    return Merged(tuple(runs), position)


def find_sure_end(copy: SegmentCopy, start: LogPosition) -> LogPosition:
    """Return up to where a copy can be read and is beyond doubt."""
    return _look(copy, start, stop=None).sure


def require_same(one: SegmentCopy, other: SegmentCopy, start: int, stop: int) -> None:
    """Check that two copies have the same bytes in [start, stop).

    Raises:
        WalCorruptError: they do not: they come from two lives of the log.
    """
    if not _is_same(one, other, start, stop):
        raise two_lives((one.origin, other.origin), offset=start)


def two_lives(origins: Iterable[str], **context: object) -> WalCorruptError:
    """Return the error for copies that are sound, and differ all the same."""
    return WalCorruptError(
        f"The logs of {' and '.join(origins)} are two lives of one log: they hold different "
        "records under the same numbers.",
        hint="Move the segments of the older one aside, or take its setting away.",
        **context,
    )


def read_runs(runs: Sequence[Run]) -> Iterator[bytes]:
    """Yield the bytes of runs, in pieces.

    Raises:
        StorageError: a copy cannot be read any more.
        WalCorruptError: it became shorter.
    """
    for run in runs:
        for offset in range(run.start, run.stop, PIECE_BYTES):
            length = min(PIECE_BYTES, run.stop - offset)
            data = run.copy.segment.read(offset, length)
            if len(data) != length:
                raise WalCorruptError(
                    "A segment became shorter while it was read.", path=run.copy.segment.path
                )
            yield data


def _look(copy: SegmentCopy, start: LogPosition, *, stop: int | None) -> _Found:
    """Read a copy from a place on, as far as it is valid. What cannot be read is not valid.

    A stub has nothing of the segment.
    """
    end = sure = start
    is_damaged = False
    with contextlib.suppress(StorageError, WalCorruptError):
        reader = _reader(copy, start, stop=stop)
        if reader.stub is not None:
            return _Found(copy, start, start, is_damaged=False)
        for frame in reader:
            if frame.flags & _COMMIT_START:
                sure = end
            if not frame.flags & _CONTINUES:
                end = LogPosition(frame.segment_id, frame.offset + frame.length, frame.lsn)
        is_damaged = reader.end.outcome is Outcome.CORRUPT and copy.segment.size() > end.offset
    if copy.is_own or is_damaged:
        sure = end
    return _Found(copy, sure, end, is_damaged)


def _fits_before(end: LogPosition, damaged: Sequence[SegmentCopy]) -> bool:
    """Tell whether a damaged copy goes on where a commit in doubt ends: then it is the lost one.

    One is enough, since all have the next commit at the same place; another may be damaged there.
    """
    return not damaged or any(_look(copy, end, stop=None).end.lsn > end.lsn for copy in damaged)


def _reader(copy: SegmentCopy, start: LogPosition, *, stop: int | None) -> SegmentReader:
    return SegmentReader(segment=copy.segment, start=start, stop=stop, durable_lsn=0)


def _choose(
    found: Sequence[_Found], position: LogPosition, damaged: Sequence[SegmentCopy]
) -> _Found | None:
    """Return the copy to go on with, or None.

    What is beyond doubt comes first. Of commits in doubt it is the one that was written last: one
    that the node took back is older than what it then gave the same numbers. Of two pieces of one
    commit the longer one is as right as the shorter.
    """
    surest = max(found, key=lambda look: look.sure.lsn, default=None)
    if surest is not None and surest.sure.lsn > position.lsn:
        return surest
    fitting = [look for look in found if _fits_before(look.end, damaged)]
    if len(fitting) < 2:
        return fitting[0] if fitting else None
    return max(fitting, key=lambda look: (_newest_change_ms(look), look.end.lsn))


def _is_same(one: SegmentCopy, other: SegmentCopy, start: int, stop: int) -> bool:
    """Tell whether two copies have the same bytes in [start, stop)."""
    if one is other:
        return True
    for offset in range(start, stop, PIECE_BYTES):
        length = min(PIECE_BYTES, stop - offset)
        if one.segment.read(offset, length) != other.segment.read(offset, length):
            return False
    return True


def _newest_change_ms(found: _Found) -> int:
    """Return the latest moment that a record behind `sure` names."""
    reader = _reader(found.copy, found.sure, stop=found.end.offset)
    return max((moment_of(decode_meta(frame)) or 0 for frame in reader), default=0)
