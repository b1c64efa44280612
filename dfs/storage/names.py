"""What things are called in a store, whatever it is made of.

    blobs/ab/cd/<sha256 in hexadecimal>    a blob
    segments/0000000007.wal                a segment of the log
    damaged/<last part of name>-<ms>       what was found damaged

Names are relative to the root of the store.
"""

from __future__ import annotations

DIGEST_BYTES = 32


def blob_name(digest: bytes) -> str:
    """Return the name of a blob.

    Raises:
        ValueError: `digest` is not 32 bytes.
    """
    require_digest(digest)
    name = digest.hex()
    return f"blobs/{name[:2]}/{name[2:4]}/{name}"


def segment_name(segment_id: int) -> str:
    """Return the name of a segment."""
    return f"segments/{segment_id:010d}.wal"


def damaged_name(name: str, *, now_ms: int) -> str:
    """Return where what is called `name` goes when it is found damaged."""
    return f"damaged/{name.rpartition('/')[2]}-{now_ms}"


def require_digest(digest: bytes) -> None:
    """Raise ValueError if `digest` does not have the length of a SHA-256."""
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
