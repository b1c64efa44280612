"""Frames: what is written comes back, and nothing else does."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfs.core.errors import WalCorruptError
from dfs.wal.frame import (
    COVERED_BYTES_MIN,
    FRAME_HEADER_BYTES,
    RECORD_BYTES_MAX,
    Flag,
    Frame,
    decode_frame,
    encode_frame,
)

RECORD = encode_frame(
    lsn=7, type=2, flags=Flag.CONTINUES | Flag.COMMIT_START, meta=b"meta", data=b"data!"
)
FIELDS = {
    "length": range(4),
    "crc32": range(4, 8),
    "lsn": range(8, 16),
    "type": range(16, 17),
    "flags": range(17, 18),
    "meta_length": range(18, 22),
    "meta": range(22, 26),
    "data": range(26, 31),
}


def decode(record: bytes) -> Frame:
    """Decode a record as if it stood somewhere."""
    return decode_frame(memoryview(record), segment_id=3, offset=80)


def test_encode_frame_lays_out_fields_as_documented() -> None:
    """The bytes are those of the format's description, built here by hand."""
    covered = struct.pack("<QBBI", 7, 2, 3, 4) + b"metadata!"
    assert struct.pack("<II", len(covered), zlib.crc32(covered)) + covered == RECORD


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    lsn=st.integers(0, 2**64 - 1),
    type_=st.integers(0, 255),
    flags=st.integers(0, 255),
    meta=st.binary(max_size=80),
    data=st.binary(max_size=200),
)
def test_decode_frame_returns_what_was_encoded(
    lsn: int, type_: int, flags: int, meta: bytes, data: bytes
) -> None:
    """Every value of every field comes back."""
    record = encode_frame(lsn=lsn, type=type_, flags=flags, meta=meta, data=data)
    frame = decode(record)
    assert (frame.lsn, frame.type, frame.flags, frame.meta) == (lsn, type_, flags, meta)
    assert (bytes(frame.data), frame.offset, frame.length) == (data, 80, len(record))


@pytest.mark.parametrize("field", FIELDS)
def test_decode_frame_with_flipped_bit_is_corrupt(field: str) -> None:
    """No bit of any field may change."""
    for at in FIELDS[field]:
        for bit in range(8):
            damaged = bytearray(RECORD)
            damaged[at] ^= 1 << bit
            with pytest.raises(WalCorruptError):
                decode(bytes(damaged))


def test_decode_frame_cut_anywhere_is_corrupt() -> None:
    """A record that lacks bytes, or has more of them, is none."""
    for size in range(len(RECORD)):
        with pytest.raises(WalCorruptError):
            decode(RECORD[:size])
    with pytest.raises(WalCorruptError):
        decode(RECORD + b"\0")


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_decode_frame_of_arbitrary_damage_is_corrupt_or_unchanged(data: st.DataObject) -> None:
    """Overwriting any range with any bytes yields the same record or none."""
    start = data.draw(st.integers(0, len(RECORD) - 1))
    patch = data.draw(st.binary(min_size=1, max_size=len(RECORD) - start))
    damaged = RECORD[:start] + patch + RECORD[start + len(patch) :]
    if damaged == RECORD:
        assert decode(damaged) == decode(RECORD)
    else:
        with pytest.raises(WalCorruptError):
            decode(damaged)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(noise=st.binary(max_size=100))
def test_decode_frame_of_noise_is_corrupt(noise: bytes) -> None:
    """Bytes that nobody encoded are no record."""
    with pytest.raises(WalCorruptError):
        decode(noise)


def test_decode_frame_with_forged_meta_length_is_corrupt() -> None:
    """A meta that goes on behind its record is refused even with a right CRC32."""
    covered = struct.pack("<QBBI", 7, 2, 0, 10) + b"metadata!"
    record = struct.pack("<II", len(covered), zlib.crc32(covered)) + covered
    with pytest.raises(WalCorruptError, match="meta is longer"):
        decode(record)


def test_encode_frame_of_largest_record_fits_and_one_byte_more_does_not() -> None:
    """The limit on a record is exact, and holds before anything is written."""
    room = RECORD_BYTES_MAX - FRAME_HEADER_BYTES
    assert len(encode_frame(lsn=1, type=1, flags=0, meta=b"", data=bytes(room))) == RECORD_BYTES_MAX
    with pytest.raises(ValueError, match="longer than"):
        encode_frame(lsn=1, type=1, flags=0, meta=b"", data=bytes(room + 1))
    assert FRAME_HEADER_BYTES == COVERED_BYTES_MIN + 8
