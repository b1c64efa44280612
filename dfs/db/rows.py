"""How a value of `core.model` stands in a row: column order, and the two encoded columns.

SQLite keeps anything in any column, and has no checksums: so what is read is held against the types
of its columns. What reads a row raises `msgspec.MsgspecError` for one that dfs cannot have written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from dfs.core.access import Key
from dfs.core.model import (
    Blob,
    BlobKind,
    Debt,
    DebtKind,
    DebtSummary,
    Digest,
    Extent,
    File,
    FileInfo,
    NodeState,
    Number,
    ScrubState,
    Segment,
    SegmentUse,
    StoreState,
    Usage,
)

Row = Sequence[Any]

FILE_INFO_COLUMNS = (
    "id", "key", "size", "sha256", "content_type", "metadata", "created_at", "updated_at",
    "expires_at", "lsn", "deleted_at",
)  # fmt: skip
FILE_COLUMNS = (
    *FILE_INFO_COLUMNS, "bucket", "extents", "first_lsn", "base_lsn", "base_segment_id",
    "base_length", "made_by",
)  # fmt: skip
BLOB_COLUMNS = (
    "digest", "size", "kind", "segment_id", '"offset"', "length", "block_crc32s",
    '"references"', "lsn", "first_lsn",
)  # fmt: skip
SEGMENT_COLUMNS = ("node_id", "id", "first_lsn", "last_lsn", "size_bytes", "sealed_at")
NODE_STATE_COLUMNS = ("node_id", "cluster_id", "applied_lsn")
DEBT_COLUMNS = (
    "node_id", "store", "kind", "unit", "size", "owed_at", "attempts", "next_try_at", "error",
    "lsn",
)  # fmt: skip
STORE_COLUMNS = (
    "node_id", "name", "store_id", "segment_id", '"offset"', "lsn", "was_mounted", "failures",
    "retry_at", "error", "error_at", "scrub_position", "scrub_started_at",
    "scrub_finished_at", "scrub_bytes_read", "scrub_bytes_total", "scrub_damaged",
    "scrub_last_damaged", "scrub_last_bytes",
)  # fmt: skip
USAGE_COLUMNS = (
    "node_id", "bucket", "files", "bytes", "deleted_files", "deleted_bytes", "blob_files",
    "blob_file_bytes", "unused_blob_files", "unused_bytes", "inline_blobs", "inline_bytes",
)  # fmt: skip
KEY_COLUMNS = (
    "id", "name", "scopes", "prefix", "secret_hash", "signing_key", "created_at", "expires_at",
    "created_by", "last_used_at", "lsn", "first_lsn", "segment_id", "length",
)  # fmt: skip
SEGMENT_USE_COLUMNS = ("node_id", "id", "dead_bytes", "tombstone_bytes", "tombstone_lsn")
ERROR_CHARACTERS_MAX = 1000
_NOWHERE = (None, int(BlobKind.NOWHERE))


def _row_type(*columns: Any) -> type[msgspec.Struct]:
    """Return what a row with columns of these types is held against; the rest may be anything."""
    fields = [(f"column{place}", kind) for place, kind in enumerate(columns)]
    return msgspec.defstruct("Row", fields, array_like=True, gc=False)


ClusterId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_FILE = _row_type(
    str, str, Number, Digest, str, str, Number, Number, Number | None, Number, Number | None,
    str, bytes | None, Number, Number, Number, Number, str,
)  # fmt: skip
_BLOB = _row_type(
    Digest, Number, BlobKind, Number, Number, Number, bytes, Number, Number, Number,
)  # fmt: skip
_SEGMENT = _row_type(str, Number, Number, Number, Number, Number)
_NODE_STATE = _row_type(str, ClusterId, Number)
_DEBT = _row_type(
    str, str, DebtKind, bytes, Number, Number, Number, Number, str | None, Number,
)  # fmt: skip
_STORE = _row_type(
    str, str, bytes, Number, Number, Number, Number, Number,
    Number, str | None, Number | None, str, Number | None,
    Number | None, Number, Number, Number,
    Number, Number,
)  # fmt: skip
_USAGE = _row_type(str, str, *[int] * (len(USAGE_COLUMNS) - 2))
_KEY = _row_type(
    str, str, Number, str, bytes, bytes, Number, Number | None,
    str, Number | None, Number, Number, Number, Number,
)  # fmt: skip
_SEGMENT_USE = _row_type(int, int, int | None)
_UNIT = _row_type(bytes)
_TEXT = _row_type(str | None)
_DEBT_SUM = _row_type(str, DebtKind, Number, Any, Number, Number, Any)
_NUMBER = _row_type(Number)
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode
_encode_metadata = msgspec.json.Encoder(order="deterministic").encode
_decode_extents = msgspec.msgpack.Decoder(tuple[tuple[bytes, int, int], ...]).decode
_encode_extents = msgspec.msgpack.Encoder().encode


def _require(row: Row, kind: Any) -> None:
    """Refuse a row, or rows, whose columns are not of those types. Raises MsgspecError."""
    msgspec.convert(row, kind, builtin_types=(bytes,))


def file_row(file: File) -> tuple[Any, ...]:
    """Return the values of `FILE_COLUMNS`: metadata as JSON, extents as msgpack or None."""
    extents = file.extents
    return (
        file.id,
        file.key,
        file.size,
        file.digest,
        file.content_type,
        _encode_metadata(dict(file.metadata)).decode() if file.metadata else "{}",
        file.created_at_ms,
        file.updated_at_ms,
        file.expires_at_ms,
        file.lsn,
        file.deleted_at_ms,
        file.bucket,
        _encode_extents([(run.digest, run.offset, run.length) for run in extents])
        if extents
        else None,
        file.first_lsn,
        file.base_lsn,
        file.base_segment_id,
        file.base_length,
        file.made_by,
    )


def read_file(row: Row) -> File:
    """Return the file whose `FILE_COLUMNS` these are. Further columns are not looked at."""
    _require(row, _FILE)
    extents = () if row[12] is None else tuple(Extent(*run) for run in _decode_extents(row[12]))
    metadata = _read_metadata(_Metadata, row[5])
    return File(*(*row[:5], metadata, *row[6:12], extents, *row[13:18]))


class _Metadata(dict[str, str]):
    """What the column `metadata` holds: a type that `convert` asks `_read_metadata` for."""


class _ListedFile(FileInfo, frozen=True, gc=False, array_like=True):
    """A file as its `FILE_INFO_COLUMNS` are: a list has a thousand, and no step of its own each."""

    metadata: _Metadata


def read_file_infos(rows: Sequence[Row]) -> Sequence[FileInfo]:
    """Return the files whose `FILE_INFO_COLUMNS` these are."""
    return msgspec.convert(rows, list[_ListedFile], builtin_types=(bytes,), dec_hook=_read_metadata)


def _read_metadata(kind: type[_Metadata], column: object) -> _Metadata:
    """Return what the column `metadata` holds. Raises MsgspecError, TypeError."""
    if column == "{}":
        return kind()
    if not isinstance(column, str):
        raise TypeError
    return kind(_decode_metadata(column))


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
        blob.first_lsn,
    )


def read_blob(row: Row) -> Blob:
    """Return the blob whose `BLOB_COLUMNS` these are."""
    _require(row, _BLOB)
    return Blob(row[0], row[1], BlobKind(row[2]), *row[3:])


def read_download(row: Row) -> tuple[File, Blob | None]:
    """Return a file and its whole blob; None for a blob that the index lacks, or its place.

    Args:
        row: `FILE_COLUMNS`, then `BLOB_COLUMNS` without the digest, which is the file's.
    """
    file = read_file(row)
    if row[19] in _NOWHERE or file.extents:
        return file, None
    return file, read_blob((file.digest, *row[18:]))


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
    _require(row, _SEGMENT)
    return Segment(*row[1:])


def debt_row(node_id: str, debt: Debt) -> tuple[Any, ...]:
    """Return the values of `DEBT_COLUMNS`."""
    return (
        node_id,
        debt.store,
        int(debt.kind),
        debt.unit,
        debt.size,
        debt.owed_at_ms,
        debt.attempts,
        debt.next_try_at_ms,
        _storable(debt.error),
        debt.lsn,
    )


def read_debt(row: Row) -> Debt:
    """Return the debt whose `DEBT_COLUMNS` these are."""
    _require(row, _DEBT)
    return Debt(row[1], DebtKind(row[2]), *row[3:])


def read_debt_sum(row: Row) -> DebtSummary:
    """Return (store, kind, how many, bytes, oldest, newest, how many failing) without an error."""
    _require(row, _DEBT_SUM)
    store, kind, count, size, oldest_at_ms, newest_at_ms, failing = row
    return DebtSummary(
        store, DebtKind(kind), count, int(size or 0), oldest_at_ms, newest_at_ms, int(failing), None
    )


def store_row(node_id: str, state: StoreState) -> tuple[Any, ...]:
    """Return the values of `STORE_COLUMNS`."""
    scrub = state.scrub
    return (
        node_id,
        state.name,
        state.store_id,
        state.segment_id,
        state.offset,
        state.lsn,
        int(state.was_mounted),
        state.failures,
        state.retry_at_ms,
        _storable(state.error),
        state.error_at_ms,
        scrub.position,
        scrub.started_at_ms,
        scrub.finished_at_ms,
        scrub.bytes_read,
        scrub.bytes_total,
        scrub.damaged,
        scrub.last_damaged,
        scrub.last_bytes,
    )


def read_store(row: Row) -> StoreState:
    """Return the state of the store whose `STORE_COLUMNS` these are."""
    _require(row, _STORE)
    return StoreState(
        name=row[1],
        store_id=row[2],
        segment_id=row[3],
        offset=row[4],
        lsn=row[5],
        was_mounted=bool(row[6]),
        failures=row[7],
        retry_at_ms=row[8],
        error=row[9],
        error_at_ms=row[10],
        scrub=ScrubState(*row[11:]),
    )


def read_node_state(row: Row) -> NodeState:
    """Return the state of the node whose `NODE_STATE_COLUMNS` these are."""
    _require(row, _NODE_STATE)
    return NodeState(*row)


def read_key(row: Row) -> Key:
    """Return the API key whose `KEY_COLUMNS` these are."""
    _require(row, _KEY)
    return Key(*row)


def read_usage(row: Row) -> tuple[str, Usage]:
    """Return (bucket, what is used there); `USAGE_COLUMNS`."""
    _require(row, _USAGE)
    return row[1], Usage(*row[2:])


def read_segment_use(row: Row) -> SegmentUse:
    """Return what is dead of a segment; the columns behind node and id."""
    _require(row, _SEGMENT_USE)
    return SegmentUse(*row)


def read_unit(row: Row) -> bytes:
    """Return the one column, a digest or the id of a segment in bytes."""
    _require(row, _UNIT)
    return bytes(row[0])


def read_text(row: Row) -> str | None:
    """Return the one column, a text or None."""
    _require(row, _TEXT)
    return None if row[0] is None else str(row[0])


def read_number(row: Row) -> int:
    """Return the one column, a number."""
    _require(row, _NUMBER)
    return int(row[0])


def _storable(error: str | None) -> str | None:
    """Return the message without what a database refuses in a text, and not too long.

    Messages may contain names of files, and those may contain anything.
    """
    if error is None:
        return None
    short = error[:ERROR_CHARACTERS_MAX].replace("\0", "?")
    return short.encode("utf-8", "replace").decode()
