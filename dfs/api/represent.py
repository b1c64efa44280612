"""The JSON of files, written by hand: it is made on every upload."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from dfs.core.model import Durability, FileInfo


class FileBody(msgspec.Struct, gc=False):
    """A file in JSON, alone or in a list; `schemas` of the documentation: `File`.

    Attributes:
        durability: where it is the answer to a change.
    """

    id: str
    name: str
    size: int
    sha256: str
    etag: str
    content_type: str
    metadata: Mapping[str, str]
    created_at: str
    updated_at: str
    expires_at: str | None
    deleted_at: str | None
    lsn: int
    durability: dict[str, Any] | UnsetType = UNSET


_FRACTIONS = tuple(f".{milliseconds:03}Z" for milliseconds in range(1000))


@lru_cache(maxsize=1024)
def _format_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def format_timestamp(at_ms: int) -> str:
    """Return a time in milliseconds since 1970 as RFC 3339 writes it, in UTC."""
    return _format_second(at_ms // 1000) + _FRACTIONS[at_ms % 1000]


def format_optional(at_ms: int | None) -> str | None:
    """Return the same, or None for None."""
    return None if at_ms is None else format_timestamp(at_ms)


def represent_file(file: FileInfo, durability: Durability | None = None) -> FileBody:
    """Return a file as clients see it; what is guaranteed of it, after a change."""
    digest = file.digest.hex()
    created_at = format_timestamp(file.created_at_ms)
    is_unchanged = file.updated_at_ms == file.created_at_ms
    return FileBody(
        file.id,
        file.key,
        file.size,
        digest,
        digest,
        file.content_type,
        file.metadata,
        created_at,
        created_at if is_unchanged else format_timestamp(file.updated_at_ms),
        format_optional(file.expires_at_ms),
        format_optional(file.deleted_at_ms),
        file.lsn,
        UNSET if durability is None else represent_durability(durability),
    )


def represent_durability(durability: Durability) -> dict[str, Any]:
    """Return what an acknowledgement guarantees."""
    return {
        "lsn": durability.lsn,
        "copies": len(durability.stores),
        "stores": durability.stores,
    }


def durability_headers(durability: Durability) -> list[tuple[str, str]]:
    """Return the headers of every acknowledged write."""
    return [
        ("DFS-LSN", str(durability.lsn)),
        ("DFS-Durable-Copies", str(len(durability.stores))),
    ]
