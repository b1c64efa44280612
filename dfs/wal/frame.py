"""The frame around a record: length, CRC32, LSN, type, flags, meta, data. Layout in `dfs.wal`."""

from __future__ import annotations

import struct
from enum import IntFlag

import msgspec

from dfs.core.checksum import crc32
from dfs.core.errors import WalCorruptError

HEADER = struct.Struct("<IIQBBI")
PREFIX = struct.Struct("<II")
COVERED = struct.Struct("<QBBI")
FRAME_HEADER_BYTES = HEADER.size
COVERED_BYTES_MIN = COVERED.size
RECORD_BYTES_MAX = 16 << 20
"""Limit on a whole record. The block checksums of a 1 TiB blob file take 4 MiB of it."""


class Flag(IntFlag):
    """Bits of the flags byte."""

    NONE = 0
    CONTINUES = 1
    """The next record belongs to the same change."""
    COMMIT_START = 2
    """Every record before this one was durable when this one was written."""


class Frame(msgspec.Struct, gc=False):
    """One record as it lies in the log, checked but not yet understood.

    Attributes:
        offset: of its first byte in the segment.
        length: of the whole record, in bytes.
        meta: encoded structure, see `record.py`.
        data: bytes of an inline blob; a view into the reader's buffer.
    """

    segment_id: int
    offset: int
    length: int
    lsn: int
    type: int
    flags: int
    meta: bytes
    data: memoryview


def encode_frame(*, lsn: int, type: int, flags: int, meta: bytes, data: bytes = b"") -> bytes:
    """Return a whole record.

    Raises:
        ValueError: it would be longer than `RECORD_BYTES_MAX`.
    """
    length = COVERED_BYTES_MIN + len(meta) + len(data)
    if PREFIX.size + length > RECORD_BYTES_MAX:
        raise ValueError(f"a record of {length} bytes is longer than {RECORD_BYTES_MAX}")
    head = COVERED.pack(lsn, type, flags, len(meta)) + meta
    return b"".join((PREFIX.pack(length, crc32(data, crc32(head))), head, data))


def decode_frame(buffer: memoryview, *, segment_id: int, offset: int) -> Frame:
    """Check and take apart one record that fills `buffer` exactly.

    Raises:
        WalCorruptError: it is not a valid record.
    """
    fault = None
    if len(buffer) < FRAME_HEADER_BYTES:
        fault = "shorter than a record can be"
    else:
        length, stored_crc, lsn, type_, flags, meta_length = HEADER.unpack_from(buffer)
        meta_end = FRAME_HEADER_BYTES + meta_length
        if PREFIX.size + length != len(buffer):
            fault = "length does not fit"
        elif crc32(buffer[PREFIX.size :]) != stored_crc:
            fault = "CRC32 does not fit"
        elif meta_end > len(buffer):
            fault = "meta is longer than the record"
    if fault is not None:
        raise WalCorruptError(
            f"A record of the log is damaged: {fault}.",
            segment_id=segment_id,
            offset=offset,
            length=len(buffer),
        )
    return Frame(
        segment_id=segment_id,
        offset=offset,
        length=len(buffer),
        lsn=lsn,
        type=type_,
        flags=flags,
        meta=bytes(buffer[FRAME_HEADER_BYTES:meta_end]),
        data=buffer[meta_end:],
    )
