"""What things are called in a store, whatever it is made of.

    blobs/ab/cd/<sha256 in hexadecimal>    a blob
    segments/0000000007.wal                a segment of the log
    damaged/<last part of name>-<ms>       what was found damaged or unknown

Names are relative to the root of the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dfs.core.model import SEGMENT_UNIT_BYTES, DebtKind

DIGEST_BYTES = 32
DAMAGED = "damaged"
_PUT_ASIDE = re.compile(
    r"(?:(?P<digest>[0-9a-f]{64})|(?P<segment>[0-9]{10})\.wal)-(?P<at_ms>[0-9]{1,15})(?:\.parts/.+)?"
)


@dataclass(frozen=True, slots=True)
class PutAside:
    """What was put aside of a blob or a segment.

    Attributes:
        name: in `damaged`.
        kind, unit: what it was, as in `model.Debt`.
    """

    name: str
    kind: DebtKind
    unit: bytes
    at_ms: int


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
    return f"{DAMAGED}/{name.rpartition('/')[2]}-{now_ms}"


def parse_damaged(name: str) -> PutAside | None:
    """Return what lies under a name in `damaged`; None for what no store has put there."""
    match = _PUT_ASIDE.fullmatch(name)
    if match is None:
        return None
    digest, segment, at_ms = match.group("digest", "segment", "at_ms")
    if digest is not None:
        return PutAside(name, DebtKind.BLOB, bytes.fromhex(digest), int(at_ms))
    unit = int(segment).to_bytes(SEGMENT_UNIT_BYTES, "big")
    return PutAside(name, DebtKind.SEGMENT, unit, int(at_ms))


def require_digest(digest: bytes) -> None:
    """Raise ValueError if `digest` does not have the length of a SHA-256."""
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(digest)}")
