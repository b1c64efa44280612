"""The golden logs of format 1: every record type, written from constants alone.

`python -m tests.wal.golden` writes them to `tests/data/wal/`. What is there belongs to released
programs: a change of the format, or a record type that comes later, writes another directory and
leaves these alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from dfs.wal.record import (
    DeleteFile,
    DropBlob,
    DropSegment,
    FileExtent,
    PurgeFile,
    PutBlob,
    PutFile,
    PutKey,
    RestoreFile,
    RevokeKey,
    SealSegment,
    UpdateFile,
)
from dfs.wal.stub import encode_stub
from tests.wal.logs import (
    Change,
    Commit,
    Written,
    encode_commits,
    encode_segment,
    header_of,
    put_blob,
)

GOLDEN_PATH = Path(__file__).parent.parent / "data" / "wal" / "format-1"
SPACE_PATH = GOLDEN_PATH.with_name("format-1-space")
"""Of the record types and fields that came with the trash and the stubs."""
KEYS_PATH = GOLDEN_PATH.with_name("format-1-keys")
"""Of the record types and fields that came with API keys."""
TIME_MS = 1_700_000_000_000
ZEROS = 512
STUB_NAME = "stubs/0000000001.wal"


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _file(number: int, key: str, content: bytes, **fields: object) -> PutFile:
    return PutFile(
        id=f"01HF{number:022d}",
        bucket="default",
        key=key,
        size=len(content),
        digest=_digest(content),
        content_type="text/plain; charset=utf-8",
        created_at_ms=TIME_MS + number,
        **fields,  # type: ignore[arg-type]
    )


HELLO = b"Hello, world!\n"
BIG_DIGEST = _digest(b"a blob file")
BIG = PutBlob(
    digest=BIG_DIGEST,
    size=(2 << 20) + 5,
    inline=False,
    block_crc32s=bytes.fromhex("0123456789abcdeffedcba98"),
)
DROP = DropSegment(
    segment_id=1,
    first_lsn=1,
    last_lsn=9,
    end=1 << 26,
    sealed_at_ms=TIME_MS + 10,
    moved_lsn=12,
    dropped_at_ms=TIME_MS + 40,
)
UNICODE_KEY = "Grüße/日本語/\U0001f5c4 e\u0301.txt"


def sealed_commits() -> list[Commit]:
    """Segment 1: a commit of one change of two records, one of two changes, the seal."""
    hello: Change = [put_blob(HELLO), (_file(1, "hello.txt", HELLO), b"")]
    unicode_file = _file(
        2, UNICODE_KEY, HELLO, metadata={"Autor": "Jörg", "空": ""}, expires_at_ms=TIME_MS + 99
    )
    parts = _file(
        3,
        "parts.bin",
        HELLO,
        extents=[FileExtent(BIG_DIGEST, 1 << 20, 9), FileExtent(_digest(HELLO), 0, 5)],
    )
    seal = SealSegment(segment_id=1, first_lsn=1, sealed_at_ms=TIME_MS + 10)
    return [
        [hello],
        [[(unicode_file, b"")], [(BIG, b""), put_blob(b""), (parts, b"")]],
        [[(seal, b"")]],
    ]


def abandoned_commits() -> list[Commit]:
    """Segment 2, whose last sync failed: it ends here, and only without a seal."""
    update = UpdateFile(
        id=f"01HF{1:022d}",
        key="hello again.txt",
        content_type="text/markdown",
        updated_at_ms=TIME_MS + 20,
        metadata={"a": "b"},
    )
    return [[[(update, b"")]]]


def lost_commits() -> list[Commit]:
    """What lies behind the end of segment 2: valid records that were never acknowledged."""
    return [[[put_blob(b"never acknowledged")]], [[put_blob(b"nor this")]]]


def active_commits() -> list[Commit]:
    """Segment 3: deleting, and once more unicode."""
    delete = DeleteFile(id=f"01HF{2:022d}", deleted_at_ms=TIME_MS + 30)
    return [[[(delete, b"")], [(_file(4, "\u00df\u0000\U0010ffff", b""), b"")]]]


def build() -> tuple[dict[str, bytes], list[list[Written]]]:
    """Return the files by name, and the records that a reader must find in each, in order."""
    sealed = encode_commits(sealed_commits())
    abandoned = encode_commits(abandoned_commits(), first_lsn=sealed[-1].lsn + 1)
    last = abandoned[-1]
    lost = encode_commits(lost_commits(), first_lsn=last.lsn + 1, offset=last.end)
    active = encode_commits(active_commits(), first_lsn=last.lsn + 1)
    files = {
        "segments/0000000001.wal": encode_segment(sealed),
        "segments/0000000002.wal": encode_segment(
            [*abandoned, *lost],
            zeros=ZEROS,
            segment_id=2,
            first_lsn=abandoned[0].lsn,
            previous_end=sealed[-1].end,
        ),
        "wal.active": encode_segment(
            active,
            zeros=ZEROS,
            segment_id=3,
            first_lsn=active[0].lsn,
            previous_end=last.end,
        ),
    }
    return files, [sealed, abandoned, active]


def space_commits() -> list[Commit]:
    """One segment: into the trash, out of it, gone for good, and a snapshot of what is left."""
    delete = DeleteFile(id=f"01HF{1:022d}", deleted_at_ms=TIME_MS + 30)
    restore = RestoreFile(id=delete.id, restored_at_ms=TIME_MS + 40)
    restore_expiring = RestoreFile(
        id=delete.id, restored_at_ms=TIME_MS + 50, expires_at_ms=TIME_MS + 90
    )
    purge = PurgeFile(id=f"01HF{2:022d}", purged_at_ms=TIME_MS + 60, first_lsn=4)
    drop = DropBlob(digest=BIG_DIGEST, first_lsn=5)
    drop_again = DropBlob(digest=BIG_DIGEST, first_lsn=5, at_lsn=9)
    moved = PutBlob(digest=_digest(HELLO), size=len(HELLO), inline=True, first_lsn=1)
    snapshot = _file(
        1, "hello.txt", HELLO, updated_at_ms=TIME_MS + 20, deleted_at_ms=TIME_MS + 70, first_lsn=2
    )
    return [
        [[put_blob(HELLO), (_file(1, "hello.txt", HELLO), b"")]],
        [[(delete, b"")], [(restore, b"")], [(delete, b"")], [(restore_expiring, b"")]],
        [[(purge, b"")], [(drop, b"")], [(drop_again, b"")]],
        [[(moved, HELLO), (snapshot, b"")]],
    ]


def build_space() -> tuple[dict[str, bytes], list[list[Written]]]:
    """Return the same as `build`, of the second log."""
    active = encode_commits(space_commits())
    stub = encode_stub(header_of(), DROP)
    return {"wal.active": encode_segment(active, zeros=ZEROS), STUB_NAME: stub}, [active]


def keys_commits() -> list[Commit]:
    """One segment: a key, what was done with it, its end, and both as compaction moves them."""
    key = PutKey(
        id="7QX4M2K9T0AB",
        name="Jörg's laptop",
        scopes=3,
        secret_hash=_digest(b"secret"),
        signing_key=_digest(b"signing"),
        created_at_ms=TIME_MS,
        prefix="Grüße/",
        expires_at_ms=TIME_MS + 99,
        by="operator",
    )
    bare = PutKey("0" * 12, "all", 15, _digest(b"1"), _digest(b"2"), TIME_MS)
    file = _file(1, "hello.txt", HELLO, by=key.id)
    update = UpdateFile(file.id, "hello again.txt", "a/b", TIME_MS + 2, by=key.id)
    delete = DeleteFile(file.id, TIME_MS + 3, by=key.id)
    restore = RestoreFile(file.id, TIME_MS + 4, by=key.id)
    revoke = RevokeKey(key.id, TIME_MS + 5, first_lsn=1, by=bare.id)
    moved = RevokeKey(key.id, TIME_MS + 5, first_lsn=1, at_lsn=8, by=bare.id)
    snapshot = PutKey(bare.id, "all", 15, _digest(b"1"), _digest(b"2"), TIME_MS, first_lsn=2)
    return [
        [[(key, b"")], [(bare, b"")]],
        [[put_blob(HELLO), (file, b"")]],
        [[(update, b"")], [(delete, b"")], [(restore, b"")], [(revoke, b"")]],
        [[(moved, b"")], [(snapshot, b"")]],
    ]


def build_keys() -> tuple[dict[str, bytes], list[list[Written]]]:
    """Return the same as `build`, of the third log."""
    active = encode_commits(keys_commits())
    return {"wal.active": encode_segment(active, zeros=ZEROS)}, [active]


def main() -> None:
    """Write the golden logs."""
    for directory, (files, _) in (
        (GOLDEN_PATH, build()),
        (SPACE_PATH, build_space()),
        (KEYS_PATH, build_keys()),
    ):
        for name, data in files.items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


if __name__ == "__main__":
    main()
