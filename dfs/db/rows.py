"""How a value of `core.model` stands in a row: column order, and the two encoded columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from dfs.core.model import Blob, BlobKind, Extent, File, Segment

Row = Sequence[Any]

FILE_COLUMNS = (
    "id", "bucket", "key", "size", "sha256", "content_type", "metadata", "extents",
    "created_at", "updated_at", "expires_at", "lsn",
)  # fmt: skip
BLOB_COLUMNS = (
    "digest", "size", "kind", "segment_id", '"offset"', "length", "block_crc32s",
    '"references"', "lsn",
)  # fmt: skip
SEGMENT_COLUMNS = ("node_id", "id", "first_lsn", "last_lsn", "size_bytes", "sealed_at")
NODE_STATE_COLUMNS = ("node_id", "cluster_id", "applied_lsn")

_BLOB_KINDS = {kind.value: kind for kind in BlobKind}
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_encode_metadata = msgspec.json.Encoder(order="deterministic").encode
_decode_extents = msgspec.msgpack.Decoder(tuple[tuple[bytes, int, int], ...]).decode
_encode_extents = msgspec.msgpack.Encoder().encode


def file_row(file: File) -> tuple[Any, ...]:
    """Return the values of `FILE_COLUMNS`: metadata as JSON, extents as msgpack or None."""
    extents = file.extents
    return (
        file.id,
        file.bucket,
        file.key,
        file.size,
        file.digest,
        file.content_type,
        _encode_metadata(dict(file.metadata)).decode() if file.metadata else "{}",
        _encode_extents([(run.digest, run.offset, run.length) for run in extents])
        if extents
        else None,
        file.created_at_ms,
        file.updated_at_ms,
        file.expires_at_ms,
        file.lsn,
    )


def read_file(row: Row) -> File:
    """Return the file whose `FILE_COLUMNS` these are. Further columns are not looked at."""
    metadata = row[6]
    extents = row[7]
    return File(
        row[0],
        row[1],
        row[2],
        row[3],
        row[4],
        row[5],
        _decode_metadata(metadata) if metadata != "{}" else {},
        row[8],
        row[9],
        row[10],
        row[11],
        () if extents is None else tuple(Extent(*run) for run in _decode_extents(extents)),
    )


def blob_row(blob: Blob) -> tuple[Any, ...]:
    """Return the values of `BLOB_COLUMNS`."""
    return (
        blob.digest,
        blob.size,
        int(blob.kind),
        blob.segment_id,
        blob.offset,
        blob.length,
        blob.block_crc32s,
        blob.references,
        blob.lsn,
    )


def read_blob(row: Row) -> Blob:
    """Return the blob whose `BLOB_COLUMNS` these are."""
    digest, size, kind, segment_id, offset, length, block_crc32s, references, lsn = row
    return Blob(
        digest, size, _BLOB_KINDS[kind], segment_id, offset, length, block_crc32s, references, lsn
    )


def read_download(row: Row) -> tuple[File, Blob] | None:
    """Return a file and its whole blob, or None if the index lacks the blob.

    Args:
        row: `FILE_COLUMNS`, then `BLOB_COLUMNS` without the digest, which is the file's.
    """
    kind = _BLOB_KINDS.get(row[13])
    if kind is None:
        return None
    blob = Blob(row[4], row[12], kind, row[14], row[15], row[16], row[17], row[18], row[19])
    return read_file(row), blob


def segment_row(node_id: str, segment: Segment) -> tuple[Any, ...]:
    """Return the values of `SEGMENT_COLUMNS`."""
    return (
        node_id,
        segment.id,
        segment.first_lsn,
        segment.last_lsn,
        segment.size_bytes,
        segment.sealed_at_ms,
    )


def read_segment(row: Row) -> Segment:
    """Return the segment whose `SEGMENT_COLUMNS` these are."""
    return Segment(*row[1:])
