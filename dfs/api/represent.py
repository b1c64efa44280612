"""The JSON of files, written by hand: it is made on every upload."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

from dfs.core.model import Durability, File


@lru_cache(maxsize=1024)
def _format_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def format_timestamp(at_ms: int) -> str:
    """Return a time in milliseconds since 1970 as RFC 3339 writes it, in UTC."""
    seconds, milliseconds = divmod(at_ms, 1000)
    return f"{_format_second(seconds)}.{milliseconds:03}Z"


def format_optional(at_ms: int | None) -> str | None:
    """Return the same, or None for None."""
    return None if at_ms is None else format_timestamp(at_ms)


def represent_file(file: File) -> dict[str, Any]:
    """Return a file as clients see it; `schemas` of the documentation: `File`."""
    digest = file.digest.hex()
    created_at = format_timestamp(file.created_at_ms)
    return {
        "id": file.id,
        "name": file.key,
        "size": file.size,
        "sha256": digest,
        "etag": digest,
        "content_type": file.content_type,
        "metadata": file.metadata,
        "created_at": created_at,
        "updated_at": created_at
        if file.updated_at_ms == file.created_at_ms
        else format_timestamp(file.updated_at_ms),
        "expires_at": format_optional(file.expires_at_ms),
        "deleted_at": format_optional(file.deleted_at_ms),
        "lsn": file.lsn,
    }


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
