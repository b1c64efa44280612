"""What is used and what is dead, counted from scratch: by SQL, and from the log alone."""

from __future__ import annotations

from collections import Counter

from dfs.core.model import Usage
from dfs.db.repository import IndexRepository
from dfs.wal.frame import Frame
from dfs.wal.record import (
    DropBlob,
    DropSegment,
    PurgeFile,
    PutBlob,
    PutFile,
    PutKey,
    RevokeKey,
    decode_meta,
)
from dfs.wiring import Services

_COUNT_FILES = """
    SELECT bucket,
        SUM(CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END),
        SUM(CASE WHEN deleted_at IS NULL THEN size ELSE 0 END),
        SUM(CASE WHEN deleted_at IS NULL THEN 0 ELSE 1 END),
        SUM(CASE WHEN deleted_at IS NULL THEN 0 ELSE size END)
    FROM dfs_file GROUP BY bucket
"""
_COUNT_BLOBS = "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM dfs_blob WHERE kind = {} AND {}"


def recount_usage(services: Services) -> tuple[Usage, dict[str, Usage]]:
    """Count the rows of the index. Returns the same as `IndexRepository.usage`."""
    buckets = {row[0]: Usage(*map(int, row[1:])) for row in services.index.read_all(_COUNT_FILES)}
    blobs = [
        int(number)
        for kind, state in ((2, "TRUE"), (2, '"references" = 0'), (1, '"references" > 0'))
        for number in services.index.read_one(_COUNT_BLOBS.format(kind, state))
    ]
    return Usage(0, 0, 0, 0, *blobs), buckets


def recount_dead(services: Services) -> dict[int, int]:
    """Read all of the log, and return the dead bytes of each segment that has any.

    Those that were dropped do not count, whether their stubs are in place or not.
    """
    frames: list[Frame] = []
    files: dict[str, tuple[int, list[bytes]]] = {}
    blobs: dict[bytes, tuple[int, bool]] = {}
    references: Counter[bytes] = Counter()
    keys: dict[str, int] = {}
    live: set[int] = set()
    dropped: set[int] = set()
    for frame in services.log.read(after_lsn=0):
        frames.append(frame)
        match decode_meta(frame):
            case DropSegment(segment_id=segment_id):
                dropped.add(segment_id)
            case PutFile() as meta:
                digests = [extent.digest for extent in meta.extents] or [meta.digest]
                if meta.id not in files:
                    references.update(digests)
                files[meta.id] = (frame.lsn, digests)
            case PutBlob() as meta:
                blobs[meta.digest] = (frame.lsn, meta.inline)
            case PurgeFile() as meta:
                live.add(frame.lsn)
                references.subtract(files.pop(meta.id, (0, []))[1])
            case PutKey() as meta:
                keys[meta.id] = frame.lsn
            case RevokeKey() as meta:
                live.add(frame.lsn)
                if keys.get(meta.id, 0) < (meta.at_lsn or frame.lsn):
                    keys.pop(meta.id, None)
            case DropBlob() as meta:
                live.add(frame.lsn)
                blobs.pop(meta.digest, None)
    live.update(keys.values())
    live.update(lsn for lsn, _ in files.values())
    live.update(lsn for digest, (lsn, inline) in blobs.items() if not inline or references[digest])
    dead: Counter[int] = Counter()
    for frame in frames:
        if frame.lsn not in live and frame.segment_id not in dropped:
            dead[frame.segment_id] += frame.length
    return dict(dead)


def read_dead(services: Services) -> dict[int, int]:
    """Return what the index says is dead of each segment; none has no entry."""
    rows = services.index.read_all("SELECT id, dead_bytes FROM dfs_segment_use")
    return {segment_id: dead for segment_id, dead in rows if dead}


def check_figures(services: Services) -> None:
    """Assert that all figures of use are what a recount gives."""
    node, buckets = IndexRepository(services.index).usage()
    expected_node, expected_buckets = recount_usage(services)
    assert node == expected_node
    assert {name: usage for name, usage in buckets.items() if usage != Usage()} == expected_buckets
    assert read_dead(services) == recount_dead(services)
