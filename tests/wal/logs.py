"""What the tests of the log share: building records, reading segments, recovering a log."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfs.wal.control import LogPosition
from dfs.wal.frame import Flag, Frame, encode_frame
from dfs.wal.layout import SegmentFile
from dfs.wal.log import WriteAheadLog
from dfs.wal.reader import Outcome, ReadEnd, SegmentReader
from dfs.wal.record import (
    DropSegment,
    Meta,
    PutBlob,
    PutFile,
    RecordType,
    SealSegment,
    encode_meta,
)
from dfs.wal.segment import SEGMENT_HEADER_BYTES, OpenSegment, SegmentHeader, encode_header
from dfs.wal.stub import encode_stub

CLUSTER_ID = bytes(range(16))
SEGMENT_BYTES = 1 << 16

Draft = tuple[Meta, bytes]
Change = Sequence[Draft]
Commit = Sequence[Change]


@dataclass(frozen=True)
class Written:
    """One record as it was written."""

    lsn: int
    offset: int
    raw: bytes
    starts_commit: bool
    ends_change: bool

    @property
    def end(self) -> int:
        """Offset behind the record."""
        return self.offset + len(self.raw)


def put_blob(content: bytes) -> Draft:
    """Return a draft that puts an inline blob."""
    digest = hashlib.sha256(content).digest()
    return PutBlob(digest=digest, size=len(content), inline=True), content


def put_file(key: str, content: bytes = b"") -> Draft:
    """Return a draft that puts a file."""
    meta = PutFile(
        id=key[:26].rjust(26, "0"),
        bucket="default",
        key=key,
        size=len(content),
        digest=hashlib.sha256(content).digest(),
        content_type="text/plain",
        created_at_ms=1_700_000_000_001,
    )
    return meta, b""


def upload(key: str, content: bytes) -> Change:
    """Return a change of two records."""
    return [put_blob(content), put_file(key, content)]


def some_commits(count: int) -> list[Commit]:
    """Return commits of one and two changes, each of one or two records."""
    commits: list[Commit] = []
    for index in range(count):
        changes: list[Change] = [upload(f"file-{index}", b"content %d " % index * (index + 1))]
        if index % 2:
            changes.append([put_file(f"copy-{index}")])
        commits.append(changes)
    return commits


def encode_commits(
    commits: Iterable[Commit], *, first_lsn: int = 1, offset: int = SEGMENT_HEADER_BYTES
) -> list[Written]:
    """Return the records of commits that follow each other, as `services/commit.py` makes them."""
    written: list[Written] = []
    lsn = first_lsn
    for commit in commits:
        starts_commit = True
        for change in commit:
            for remaining, (meta, data) in zip(range(len(change) - 1, -1, -1), change, strict=True):
                flags = Flag.CONTINUES if remaining else Flag.NONE
                if starts_commit:
                    flags |= Flag.COMMIT_START
                record_type, encoded = encode_meta(meta)
                raw = encode_frame(lsn=lsn, type=record_type, flags=flags, meta=encoded, data=data)
                written.append(Written(lsn, offset, raw, starts_commit, not remaining))
                starts_commit = False
                lsn += 1
                offset += len(raw)
    return written


def header_of(segment_id: int = 1, *, first_lsn: int = 1, previous_end: int = 0) -> SegmentHeader:
    """Return a segment header of the tests' cluster."""
    return SegmentHeader(
        segment_id=segment_id,
        cluster_id=CLUSTER_ID,
        first_lsn=first_lsn,
        previous_end=previous_end,
        previous_last_lsn=first_lsn - 1,
        created_at_ms=1_700_000_000_000,
    )


def encode_segment(written: Iterable[Written], *, zeros: int = 0, **header: int) -> bytes:
    """Return the bytes of a whole segment."""
    body = b"".join(record.raw for record in written)
    return encode_header(header_of(**header)) + body + bytes(zeros)


def read_segment(
    path: Path, *, stop: int | None = None, durable_lsn: int = 0, first_lsn: int = 1
) -> tuple[list[Frame], ReadEnd]:
    """Read a segment from behind its header."""
    reader = SegmentReader(
        segment=OpenSegment(path),
        start=LogPosition(1, SEGMENT_HEADER_BYTES, first_lsn - 1),
        stop=stop,
        durable_lsn=durable_lsn,
    )
    frames = list(reader)
    return frames, reader.end


def raw_of(frame: Frame) -> bytes:
    """Return the record that a frame was made from."""
    return encode_frame(
        lsn=frame.lsn, type=frame.type, flags=frame.flags, meta=frame.meta, data=bytes(frame.data)
    )


def append_commit(log: WriteAheadLog, *changes: Change) -> list[Written]:
    """Append, sync and publish one commit."""
    position = log.position
    written = encode_commits([changes], first_lsn=position.lsn + 1, offset=position.offset)
    log.append(b"".join(record.raw for record in written), last_lsn=written[-1].lsn)
    log.sync()
    log.publish()
    return written


def seal_of(log: WriteAheadLog) -> Written:
    """Return the record that ends the active segment."""
    position = log.position
    seal = SealSegment(
        segment_id=position.segment_id,
        first_lsn=log.segments()[-1].header.first_lsn,
        sealed_at_ms=1_700_000_000_000,
    )
    commit: Commit = [[(seal, b"")]]
    return encode_commits([commit], first_lsn=position.lsn + 1, offset=position.offset)[0]


def rotate(log: WriteAheadLog) -> Written:
    """Seal the active segment and begin the next; return the record that sealed it."""
    seal = seal_of(log)
    log.rotate(seal.raw, last_lsn=seal.lsn)
    return seal


def drop_of(segment: SegmentFile, *, moved_lsn: int | None = None) -> DropSegment:
    """Return the record that drops a sealed segment, by default as if nothing of it was needed."""
    assert segment.end is not None
    assert segment.last_lsn is not None
    return DropSegment(
        segment_id=segment.header.segment_id,
        first_lsn=segment.header.first_lsn,
        last_lsn=segment.last_lsn,
        end=segment.end,
        sealed_at_ms=1_700_000_000_000,
        moved_lsn=segment.last_lsn if moved_lsn is None else moved_lsn,
        dropped_at_ms=1_700_000_000_002,
    )


def place_stub(segment: SegmentFile, *, moved_lsn: int | None = None) -> bytes:
    """Put a stub in the place of a sealed segment, as dropping does; return it."""
    stub = encode_stub(segment.header, drop_of(segment, moved_lsn=moved_lsn))
    temporary = segment.path.with_suffix(".new")
    temporary.write_bytes(stub)
    temporary.rename(segment.path)
    return stub


def recover(log: WriteAheadLog, *, durable_lsn: int = 0) -> list[Frame]:
    """Bring a log into order as the recovery of a node does, and return all its records.

    Raises:
        WalCorruptError, WalGapError: it is not to be mended.
    """
    log.prepare(cluster_id=CLUSTER_ID)
    position = log.control.position
    if position is not None and log.control.read_only_reason is not None:
        log.control.reset(log.leave_active(position))
    log.sync_active()
    reader = log.read(after_lsn=0, durable_lsn=durable_lsn)
    frames = list(reader)
    end = reader.end
    if end.outcome is Outcome.CORRUPT:
        raise end.error()
    if end.outcome is Outcome.TORN_TAIL:
        log.cut(end.position)
    position = end.position
    last = frames[-1] if frames else None
    if last and (last.type, last.segment_id) == (RecordType.SEAL_SEGMENT, position.segment_id):
        position = log.leave_active(position)
    log.control.reset(position)
    return frames


def lsns(frames: Iterable[Frame | Written]) -> list[int]:
    """Return the LSNs of records."""
    return [frame.lsn for frame in frames]


class DeathError(BaseException):
    """Stands for the death of a process."""


class Killer:
    """A step hook that ends the world at the n-th step from now on, when it is armed."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.fatal: str | None = None

    def __call__(self, name: str) -> None:
        self.steps.append(name)
        if name == self.fatal:
            raise DeathError


def write_of(log: WriteAheadLog, content: bytes) -> tuple[bytes, int]:
    """Return the bytes of a commit at the end of the log, and its last LSN."""
    position = log.position
    written = encode_commits(
        [[upload("x", content)]], first_lsn=position.lsn + 1, offset=position.offset
    )
    return b"".join(record.raw for record in written), written[-1].lsn


def fail_with(code: int) -> Callable[..., int]:
    """Return a function that raises that error of the operating system."""

    def fail(*_arguments: object) -> int:
        raise OSError(code, os.strerror(code))

    return fail
