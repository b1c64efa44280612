"""The record types: one structure each, stored as a MessagePack map in a record's meta.

`by`, where a structure has it, is the id of the API key with which somebody asked for the change;
empty if there was none, and see `dfs.core.access` for `node` and `operator`.

A field may be added to a structure when it has a default; a field that an older program does not
know is passed over by it and stays in the log, which copies records whole. A record type that a
program does not know stops it: it must not guess what the change was.

Source: MessagePack specification, https://github.com/msgpack/msgpack/blob/master/spec.md
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

import msgspec

from dfs.core.errors import WalCorruptError, WalFormatError
from dfs.core.model import Digest, Number
from dfs.wal.frame import Flag, Frame
from dfs.wal.segment import ACTIVE_NAME, sealed_path


class RecordType(IntEnum):
    """The type byte of a record."""

    PUT_BLOB = 1
    PUT_FILE = 2
    DELETE_FILE = 3
    UPDATE_FILE = 4
    SEAL_SEGMENT = 5
    RESTORE_FILE = 6
    PURGE_FILE = 7
    DROP_BLOB = 8
    DROP_SEGMENT = 9
    PUT_KEY = 10
    REVOKE_KEY = 11


class PutBlob(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Bytes came into being: the data of this record, or the blob file named by the digest.

    Attributes:
        digest: SHA-256, 32 bytes.
        size: bytes of content.
        inline: the content is this record's data.
        block_crc32s: of a blob file: the CRC32 of each 1 MiB block, 4 bytes little-endian each.
        first_lsn: of the first record that put the blob; 0 for this one.
    """

    digest: Digest
    size: Number
    inline: bool
    block_crc32s: bytes = b""
    first_lsn: Number = 0


class FileExtent(msgspec.Struct, frozen=True, gc=False):
    """A run of bytes of one blob that forms part of a file."""

    digest: Digest
    offset: Number
    length: Number


class PutFile(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A file came into being; or, if it is known, this is all that is known of it now: a snapshot.

    Fields as in `dfs.core.model.File`.

    Attributes:
        updated_at_ms: 0 for `created_at_ms`.
        first_lsn: of the first record that put the file; 0 for this one.
    """

    id: str
    bucket: str
    key: str
    size: Number
    digest: Digest
    content_type: str
    created_at_ms: Number
    metadata: dict[str, str] = {}
    expires_at_ms: Number | None = None
    extents: list[FileExtent] = []
    updated_at_ms: Number = 0
    deleted_at_ms: Number | None = None
    first_lsn: Number = 0
    by: str = ""


class DeleteFile(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A file went into the trash: nobody finds it any more, but it can be restored."""

    id: str
    deleted_at_ms: Number
    by: str = ""


class RestoreFile(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A file came out of the trash. It expires at this time, if at all."""

    id: str
    restored_at_ms: Number
    expires_at_ms: Number | None = None
    by: str = ""


class PurgeFile(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A file left the trash for good.

    Attributes:
        first_lsn: of the first record that put the file. While records from there on are in the
            log, this one must be, too: without it they would bring the file back.
        at_lsn: no record behind it is about the file; 0 for this record's own LSN.
    """

    id: str
    purged_at_ms: Number
    first_lsn: Number
    at_lsn: Number = 0


class DropBlob(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A blob file that no file refers to is no more: every store has to remove it.

    Attributes:
        first_lsn: of the first record that put the blob; as in `PurgeFile`.
        at_lsn: the blob was dropped when the log ended there, so that a record behind it puts
            another; 0 for this record's own LSN.
    """

    digest: Digest
    first_lsn: Number
    at_lsn: Number = 0


class UpdateFile(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A file got these names and properties; the record carries all of them, changed or not."""

    id: str
    key: str
    content_type: str
    updated_at_ms: Number
    metadata: dict[str, str] = {}
    expires_at_ms: Number | None = None
    by: str = ""


class PutKey(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An API key came into being; or, if it is known, this is all that is known of it.

    Fields as in `dfs.core.access.Key`.

    Attributes:
        first_lsn: of the first record that put the key; 0 for this one.
    """

    id: str
    name: str
    scopes: Number
    secret_hash: bytes
    signing_key: bytes
    created_at_ms: Number
    prefix: str = ""
    expires_at_ms: Number | None = None
    first_lsn: Number = 0
    by: str = ""


class RevokeKey(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An API key is good for nothing any more, and forgotten.

    Attributes:
        first_lsn, at_lsn: as in `PurgeFile`.
    """

    id: str
    revoked_at_ms: Number
    first_lsn: Number
    at_lsn: Number = 0
    by: str = ""


class SealSegment(msgspec.Struct, frozen=True, gc=False):
    """The last record of a segment that was full.

    Attributes:
        first_lsn: of the segment; its last is this record's own.
    """

    segment_id: Number
    first_lsn: Number
    sealed_at_ms: Number


class DropSegment(msgspec.Struct, frozen=True, gc=False):
    """An older, sealed segment holds nothing any more that is needed, and becomes a stub.

    It stands in the log when that is decided, and in the stub as its only record (`stub.py`).

    Attributes:
        first_lsn, last_lsn: of the segment.
        end: offset behind its last record.
        sealed_at_ms: as in its `SealSegment`.
        moved_lsn: all that was still needed of it has been appended anew, up to this LSN. So only
            a log that reaches this record can do without the segment.
    """

    segment_id: Number
    first_lsn: Number
    last_lsn: Number
    end: Number
    sealed_at_ms: Number
    moved_lsn: Number
    dropped_at_ms: Number


Meta = (
    PutBlob
    | PutFile
    | DeleteFile
    | UpdateFile
    | SealSegment
    | RestoreFile
    | PurgeFile
    | DropBlob
    | DropSegment
    | PutKey
    | RevokeKey
)

STRUCTURES: dict[RecordType, type[Meta]] = {
    RecordType.PUT_BLOB: PutBlob,
    RecordType.PUT_FILE: PutFile,
    RecordType.DELETE_FILE: DeleteFile,
    RecordType.UPDATE_FILE: UpdateFile,
    RecordType.SEAL_SEGMENT: SealSegment,
    RecordType.RESTORE_FILE: RestoreFile,
    RecordType.PURGE_FILE: PurgeFile,
    RecordType.DROP_BLOB: DropBlob,
    RecordType.DROP_SEGMENT: DropSegment,
    RecordType.PUT_KEY: PutKey,
    RecordType.REVOKE_KEY: RevokeKey,
}
_TYPES = {structure: record_type for record_type, structure in STRUCTURES.items()}
_DECODERS = {
    int(record_type): msgspec.msgpack.Decoder(structure)
    for record_type, structure in STRUCTURES.items()
}
_ENCODER = msgspec.msgpack.Encoder()
_UNKNOWN_FLAGS = 0xFF & ~int(Flag.CONTINUES | Flag.COMMIT_START)


def moment_of(meta: Meta) -> int | None:
    """Return when the change of a record was made, in ms; None if it does not say.

    A snapshot says when the file or key came into being.
    """
    match meta:
        case PutFile(created_at_ms=moment) | UpdateFile(updated_at_ms=moment):
            return moment
        case DeleteFile(deleted_at_ms=moment) | RestoreFile(restored_at_ms=moment):
            return moment
        case PurgeFile(purged_at_ms=moment) | SealSegment(sealed_at_ms=moment):
            return moment
        case PutKey(created_at_ms=moment) | RevokeKey(revoked_at_ms=moment):
            return moment
        case DropSegment(dropped_at_ms=moment):
            return moment
        case _:
            return None


def encode_meta(meta: Meta) -> tuple[RecordType, bytes]:
    """Return the type byte of a structure and its MessagePack map."""
    return _TYPES[type(meta)], _ENCODER.encode(meta)


def decode_meta(frame: Frame) -> Meta:
    """Return the structure of a record.

    Raises:
        WalFormatError: a newer program wrote it, and this one does not know its type or a flag.
        WalCorruptError: its checksum is right and yet it is not of its type.
    """
    decoder = _DECODERS.get(frame.type)
    if decoder is None or frame.flags & _UNKNOWN_FLAGS:
        raise WalFormatError(
            f"The log holds a record of type {frame.type} with flags {frame.flags}, "
            f"which this program does not know; it knows types 1 to {max(RecordType)}.",
            hint="Start the newer version of dfs that wrote it.",
            segment_id=frame.segment_id,
            offset=frame.offset,
            lsn=frame.lsn,
        )
    try:
        return decoder.decode(frame.meta)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WalCorruptError(
            f"A record of the log cannot be understood: {error}.",
            hint=f"Put {sealed_path(Path(), frame.segment_id)} back from a copy of the log, or "
            f"{ACTIVE_NAME} if there is no such file; dfs never skips records.",
            segment_id=frame.segment_id,
            offset=frame.offset,
            lsn=frame.lsn,
        ) from error
