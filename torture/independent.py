"""Reads what a store holds, from the documented formats alone.

Nothing of dfs is imported here: what this reader finds, anybody finds who has the docstring of
`dfs.wal` and a directory. It is strict: a store at rest ends at the end of its last change, with
nothing behind it but zeros.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

HEADER = struct.Struct("<8sIIQ16sQQQQII")
RECORD = struct.Struct("<IIQBBI")
CONTINUES = 1
KNOWN_FLAGS = 3
PUT_BLOB, PUT_FILE, DELETE_FILE, UPDATE_FILE, SEAL_SEGMENT = range(1, 6)
RESTORE_FILE, PURGE_FILE, DROP_BLOB, DROP_SEGMENT = range(6, 10)
COMMIT_START = 2
STUB_BYTES_MAX = 4096
RECORD_BYTES_MAX = 16 << 20
BLOCK_BYTES = 1 << 20


class FormatError(Exception):
    """What is there is not what the format says."""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the log tells of it.

    Attributes:
        sha256: in hexadecimal.
        extents: (digest of a blob, offset in it, length), one behind the other.
    """

    name: str
    sha256: str
    size: int
    extents: tuple[tuple[bytes, int, int], ...]
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Where the bytes of a blob are.

    Attributes:
        place: (path of the segment, offset) of an inline one; None for a blob file.
        crc32s: of the blocks of a blob file, 4 bytes each.
        lsn: of the record that put it.
    """

    lsn: int
    size: int
    place: tuple[Path, int] | None
    crc32s: bytes


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """A segment, and the offset behind its last record.

    Attributes:
        moved_lsn: of a stub: up to there the log must have what was still needed; else 0.
    """

    id: int
    path: Path
    end: int
    moved_lsn: int = 0


@dataclass(slots=True)
class StoredLog:
    """What a log says, replayed.

    Attributes:
        files: by id, those that are there at the end. deleted: by id, those that are not any more.
        lsn: of the last record.
    """

    segments: list[StoredSegment] = field(default_factory=list)
    files: dict[str, StoredFile] = field(default_factory=dict)
    deleted: dict[str, StoredFile] = field(default_factory=dict)
    blobs: dict[bytes, StoredBlob] = field(default_factory=dict)
    lsn: int = 0


@dataclass(frozen=True, slots=True)
class _Header:
    segment_id: int
    cluster_id: bytes
    first_lsn: int
    previous_end: int
    previous_last_lsn: int


@dataclass(frozen=True, slots=True)
class _Record:
    lsn: int
    type: int
    flags: int
    meta: Mapping[str, Any]
    data_offset: int
    data: memoryview


def read_log(segments: Path, active: Path | None = None, *, may_be_torn: bool = False) -> StoredLog:
    """Read and replay a log.

    Args:
        segments: directory of the segments that have numbers for names.
        active: the segment behind those, of a log that keeps it elsewhere.
        may_be_torn: whoever wrote it was killed: it ends behind its last whole change.

    Raises:
        FormatError: naming the segment and the offset.
    """
    paths = sorted(path for path in segments.iterdir() if path.suffix == ".wal")
    names = [f"{number:010d}.wal" for number in range(1, len(paths) + 1)]
    if [path.name for path in paths] != names:
        raise FormatError(f"{segments}: the segments are not 1 to {len(paths)}")
    if active is not None:
        paths.append(active)
    if may_be_torn and paths and paths[-1].stat().st_size < HEADER.size:
        paths.pop()
    headers = [_read_header(path, number) for number, path in enumerate(paths, 1)]
    log = StoredLog()
    for number, (path, header) in enumerate(zip(paths, headers, strict=True), 1):
        following = headers[number] if number < len(headers) else None
        if header.cluster_id != headers[0].cluster_id:
            raise FormatError(f"{path}: of another cluster")
        if header.first_lsn != log.lsn + 1 or header.previous_last_lsn != log.lsn:
            raise FormatError(f"{path}: does not begin behind LSN {log.lsn}")
        if following is not None and path.stat().st_size < following.previous_end:
            log.segments.append(_read_stub(log, path, header, following))
            continue
        stop = None if following is None else following.previous_end
        end = _replay_segment(log, path, stop, may_be_torn=may_be_torn and stop is None)
        log.segments.append(StoredSegment(number, path, end))
    for segment in log.segments:
        if segment.moved_lsn > log.lsn:
            raise FormatError(f"{segment.path}: needs the log up to LSN {segment.moved_lsn}")
    return log


def _read_stub(log: StoredLog, path: Path, header: _Header, following: _Header) -> StoredSegment:
    """Read what stands for a segment that was dropped, and go on behind that."""
    data = path.read_bytes()
    record, end = _read_record(path, data, HEADER.size, header.first_lsn)
    meta = record.meta
    said = [meta.get(name) for name in ("segment_id", "first_lsn", "last_lsn", "end")]
    known = [
        header.segment_id,
        header.first_lsn,
        following.previous_last_lsn,
        following.previous_end,
    ]
    if (record.type, record.flags, len(record.data)) != (DROP_SEGMENT, COMMIT_START, 0):
        raise FormatError(f"{path}: shorter than it was, and no stub")
    if said != known or end != len(data) or not end < STUB_BYTES_MAX < following.previous_end:
        raise FormatError(f"{path}: not the stub of this segment")
    log.lsn = following.previous_last_lsn
    return StoredSegment(header.segment_id, path, end, meta["moved_lsn"])


def _read_header(path: Path, segment_id: int) -> _Header:
    with path.open("rb") as file:
        data = file.read(HEADER.size)
    if len(data) < HEADER.size:
        raise FormatError(f"{path}: shorter than a header")
    magic, version, length, found_id, cluster, first, end, last, _, zero, crc = HEADER.unpack(data)
    if (magic, version, length, zero) != (b"dfs-wal\n", 1, HEADER.size, 0):
        raise FormatError(f"{path}: not a segment of format 1")
    if crc != zlib.crc32(data[:-4]):
        raise FormatError(f"{path}: the header's CRC32 does not fit")
    if found_id != segment_id:
        raise FormatError(f"{path}: holds segment {found_id}, not {segment_id}")
    return _Header(found_id, cluster, first, end, last)


def _replay_segment(log: StoredLog, path: Path, stop: int | None, *, may_be_torn: bool) -> int:
    """Replay the changes of a segment up to `stop`, or to the last one. Returns their end."""
    data = path.read_bytes()
    offset = end = HEADER.size
    change: list[_Record] = []
    while offset != stop:
        if stop is None and not any(data[offset : offset + RECORD.size]):
            break
        try:
            record, offset = _read_record(path, data, offset, log.lsn + len(change) + 1)
        except FormatError:
            if may_be_torn:
                return end
            raise
        change.append(record)
        if not record.flags & CONTINUES:
            for part in change:
                _require_older(path, part)
                _apply(log, path, part)
            log.lsn += len(change)
            change.clear()
            end = offset
    if may_be_torn:
        return end
    if change:
        raise FormatError(f"{path}: half a change at the end")
    if stop is None and any(data[offset:]):
        raise FormatError(f"{path}: something lies behind offset {offset}")
    return end


def _require_older(path: Path, record: _Record) -> None:
    """Only a stub says of its own segment that it was dropped."""
    if record.type == DROP_SEGMENT and record.meta["segment_id"] >= _segment_id(path):
        raise FormatError(f"{path}: LSN {record.lsn}: drops a segment that is not older")


def _segment_id(path: Path) -> int:
    with path.open("rb") as file:
        return int(HEADER.unpack(file.read(HEADER.size))[3])


def _read_record(path: Path, data: bytes, offset: int, lsn: int) -> tuple[_Record, int]:
    """Return a record and the offset behind it."""

    def fail(why: str) -> FormatError:
        return FormatError(f"{path}: at {offset}: {why}")

    if offset + RECORD.size > len(data):
        raise fail("ends within a record")
    length, crc, found_lsn, type_, flags, meta_length = RECORD.unpack_from(data, offset)
    end = offset + 8 + length
    meta_begin = offset + RECORD.size
    if length < RECORD.size - 8 or end - offset > RECORD_BYTES_MAX or end > len(data):
        raise fail("a record of impossible length")
    if crc != zlib.crc32(memoryview(data)[offset + 8 : end]):
        raise fail("the CRC32 does not fit")
    if found_lsn != lsn:
        raise fail(f"LSN {found_lsn}, not {lsn}")
    if meta_begin + meta_length > end or flags & ~KNOWN_FLAGS:
        raise fail("not a record of format 1")
    meta = msgspec.msgpack.decode(data[meta_begin : meta_begin + meta_length])
    data_begin = meta_begin + meta_length
    content = memoryview(data)[data_begin:end]
    return _Record(found_lsn, type_, flags, meta, data_begin, content), end


def _apply(log: StoredLog, path: Path, record: _Record) -> None:
    meta = record.meta
    if record.type == PUT_BLOB:
        if meta["inline"] and hashlib.sha256(record.data).digest() != meta["digest"]:
            raise FormatError(f"{path}: LSN {record.lsn}: the inline bytes are others")
        place = (path, record.data_offset) if meta["inline"] else None
        crc32s = meta.get("block_crc32s", b"")
        log.blobs[meta["digest"]] = StoredBlob(record.lsn, meta["size"], place, crc32s)
    elif record.type == PUT_FILE:
        extents = tuple(
            (extent["digest"], extent["offset"], extent["length"])
            for extent in meta.get("extents", [])
        )
        is_deleted = meta.get("deleted_at_ms") is not None
        log.files.pop(meta["id"], None)
        log.deleted.pop(meta["id"], None)
        (log.deleted if is_deleted else log.files)[meta["id"]] = StoredFile(
            meta["key"],
            meta["digest"].hex(),
            meta["size"],
            extents or ((meta["digest"], 0, meta["size"]),),
            meta.get("metadata", {}),
        )
    elif record.type == UPDATE_FILE:
        if meta["id"] in log.files:
            old = log.files[meta["id"]]
            metadata = meta.get("metadata", {})
            log.files[meta["id"]] = replace(old, name=meta["key"], metadata=metadata)
    elif record.type == DELETE_FILE:
        if meta["id"] in log.files:
            log.deleted[meta["id"]] = log.files.pop(meta["id"])
    elif record.type == RESTORE_FILE:
        if meta["id"] in log.deleted:
            log.files[meta["id"]] = log.deleted.pop(meta["id"])
    elif record.type == PURGE_FILE:
        # Of a file whose deletion was dropped with its segment nothing else may be left.
        log.deleted.pop(meta["id"], None)
        log.files.pop(meta["id"], None)
    elif record.type == DROP_BLOB:
        _drop_blob(log, meta["digest"], meta.get("at_lsn") or record.lsn)
    elif record.type not in (SEAL_SEGMENT, DROP_SEGMENT):
        raise FormatError(f"{path}: LSN {record.lsn}: unknown type {record.type}")


def _drop_blob(log: StoredLog, digest: bytes, at_lsn: int) -> None:
    known = log.blobs.get(digest)
    if known is not None and known.lsn < at_lsn:
        del log.blobs[digest]


def find_bad_files(log: StoredLog, store: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, why) of each live file whose bytes a store does not hold.

    Args:
        store: the directory with `blobs/`.
    """
    whole: set[str] = set()
    for file_id, file in log.files.items():
        if file.sha256 in whole:
            continue
        try:
            digest = hashlib.sha256()
            size = 0
            for blob_digest, offset, length in file.extents:
                content = _read_blob(log, store, blob_digest)[offset : offset + length]
                digest.update(content)
                size += len(content)
            if (digest.hexdigest(), size) != (file.sha256, file.size):
                raise FormatError("the bytes are others")
        except (FormatError, OSError) as error:
            yield file_id, f"{file.name}: {error}"
        else:
            whole.add(file.sha256)


def _read_blob(log: StoredLog, store: Path, digest: bytes) -> bytes:
    blob = log.blobs.get(digest)
    if blob is None:
        raise FormatError("its blob was never put")
    if blob.place is not None:
        path, offset = blob.place
        with path.open("rb") as file:
            return os.pread(file.fileno(), blob.size, offset)
    name = digest.hex()
    content = (store / "blobs" / name[:2] / name[2:4] / name).read_bytes()
    crc32s = b"".join(
        zlib.crc32(content[begin : begin + BLOCK_BYTES]).to_bytes(4, "little")
        for begin in range(0, len(content), BLOCK_BYTES)
    )
    if len(content) != blob.size or crc32s != blob.crc32s:
        raise FormatError(f"its blob file {name} does not fit its record")
    return content


def find_differences(log: StoredLog, copy: StoredLog) -> Iterator[str]:
    """Yield where the log of a replica is not byte for byte that of the primary."""
    if len(copy.segments) != len(log.segments):
        yield f"{len(copy.segments)} segments, not {len(log.segments)}"
    for mine, theirs in zip(log.segments, copy.segments, strict=False):
        content = theirs.path.read_bytes()
        with mine.path.open("rb") as file:
            wanted = file.read(mine.end)
        if content != wanted:
            pairs = enumerate(zip(content, wanted, strict=False))
            same = next((n for n, (a, b) in pairs if a != b), min(len(content), len(wanted)))
            yield (
                f"segment {mine.id}: {len(content)} bytes, not {len(wanted)}; "
                f"the first {same} are the same"
            )
